"""Sending and hearing, the same for twins and the cloud: frames become parcels and facts, parcels become updates and facts."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from p2pftl.agenda import Parcel, Witness
from p2pftl.errors import FrameRefused
from p2pftl.events import FrameHeard, FrameSent
from p2pftl.events import FrameRefused as Refusal
from p2pftl.gossip.frames import Header, digest, seal
from p2pftl.gossip.mailbox import Mailbox, Update, newest
from p2pftl.gossip.seams import Copy, Heard, Side, Signs
from p2pftl.learning.knowledge import Tutor
from p2pftl.params import Ranges, Vector, scatter
from p2pftl.terms import Terms
from p2pftl.world.topology import Topology
from p2pftl.world.world import World


@dataclass
class Round:
    """The round a twin is in, from sending to merging.

    sent: whether fit and sending are behind it; expected: senders whose frame counts; reached: receiver -> arrival of our frame there;
    closes: when gossip ends at the latest; cloud_until: when waiting for the cloud ends; upload: order of its frame;
    held: training samples; signs: of the device, as this round's frames tell them; withheld: the update does not go;
    listens: nothing goes, and what comes is merged.
    """

    number: int
    degree: int
    directed: bool
    sent: bool = False
    expected: frozenset[str] = frozenset()
    reached: Mapping[str, float] = field(default_factory=dict)
    closes: float = 0.0
    cloud_until: float = -math.inf
    upload: int = -1
    answers: dict[int, Update] = field(default_factory=dict)
    bytes_sent: int = 0
    held: int = 0
    signs: Signs = field(default_factory=Signs)
    withheld: bool = False
    listens: bool = False

    @property
    def mute(self) -> bool:
        """Whether it sends word that there is nothing instead of an update."""
        return self.withheld or self.listens

    @property
    def answered(self) -> bool:
        """Whether every model came that the cloud offers."""
        return bool(self.answers) and len(self.answers) == min(update.header.models for update in self.answers.values())


def order(incarnation: int, seq: int) -> int:
    """Number of a frame among all that its sender ever sent."""
    return incarnation << 40 | seq


def partners(topology: Topology, terms: Terms, name: str, round: int) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return whom `name` sends to in `round`, whom it waits for, and whether the round's edges are directed.

    In lockstep an edge that either end chose carries frames both ways; both ends can draw both choices. Otherwise
    nobody answers a choice at once, so only "everybody" is symmetric.
    """

    def chosen(twin: str) -> tuple[str, ...]:
        return terms.partners.choose(twin, topology.neighbours(twin, round), terms.everyone, round, terms.seed)

    mine = chosen(name)
    directed = terms.partners.directed or topology.directed
    if not terms.pace.lockstep:
        return mine, (), directed or len(mine) < len(topology.neighbours(name, round))
    theirs = tuple(peer for peer in topology.inward(name, round) if name in chosen(peer))
    if directed:
        return mine, theirs, True
    either = tuple(sorted({*mine, *theirs}))
    return either, either, False


def drafted(
    kind: str, t: float, current: Round, terms: Terms, layout: str, ranges: Ranges, payload: npt.NDArray[np.uint8], age: float, mass: float
) -> Header:
    """The header of a twin's frame without what tells one from another: sender, incarnation, receiver, seq. Who is mute has no ranges."""
    signs = replace(current.signs, quality=0.0) if current.mute else current.signs
    return Header(
        run=terms.run, kind=kind, sender="", incarnation=0, receiver="", round=current.number, seq=0,
        codec=type(terms.codecs[kind]).__name__, layout=layout, ranges=() if current.mute else ranges, samples=max(1, current.held),
        age=float(age), mass=float(mass), degree=current.degree, closes=float(current.closes), met=-1, sent_at=float(t), answers=-1,
        signs=signs, sha256=digest(payload),
    )  # fmt: skip


def chosen(answers: Mapping[int, Update], loss: Callable[[Update], float], before: int) -> int:
    """Which of the cloud's models a twin takes: the one of least `loss` on its own studies, of equals the first (IFCA); else `before`."""
    losses = {number: loss(answers[number]) if len(answers) > 1 else 0.0 for number in sorted(answers)}
    return min(losses, key=losses.__getitem__, default=before)


def dispatch(world: World, header: Header, payload: npt.NDArray[np.uint8]) -> tuple[FrameSent, Parcel | None]:
    """Put one frame on its way at `header.sent_at`; the parcel is None if the world loses it. The payload is written no more.

    Its luck is drawn by sender, receiver, round and incarnation: a further neighbour, or the cloud, changes nobody else's.
    """
    head = seal(header, payload)
    size = len(head) + payload.nbytes
    transit = world.transit(header.sender, header.receiver, header.sent_at, size, header.round, header.incarnation)
    sent = FrameSent(
        t=header.sent_at, twin=header.sender, to=header.receiver, round=header.round, bytes=size,
        arrives=transit.arrives, lost=transit.lost, copies=transit.copies,
    )  # fmt: skip
    if transit.arrives is None:
        return sent, None
    arrives = (transit.arrives,) if transit.second is None else (transit.arrives, transit.second)
    witness = Witness(weakref.ref(payload), header.sha256)
    return sent, Parcel(header.sender, header.receiver, arrives, order(header.incarnation, header.seq), head, payload, witness)


def receive(
    mailbox: Mailbox, parcel: Parcel, t: float, check: Callable[[Update], None], round: int
) -> tuple[FrameHeard | Refusal, Update | None]:
    """Open a parcel that arrived at `t`. `check` raises FrameRefused for what the receiver cannot use (any more)."""
    assert parcel.payload is not None
    me = mailbox.expected.me
    try:
        update = mailbox.open(parcel.head, parcel.payload.data, t, parcel.hashed)
        check(update)
    except FrameRefused as refusal:
        return Refusal(t=t, twin=me, sender=parcel.sender, round=round, code=refusal.code, reason=refusal.problem), None
    header = update.header
    size = len(parcel.head) + parcel.payload.nbytes
    return FrameHeard(t=t, twin=me, sender=header.sender, round=header.round, bytes=size, staleness=t - header.sent_at), update


def in_time(update: Update, current: Round | None, terms: Terms, completed: int, *, retired: bool) -> None:
    """Raise FrameRefused for what a twin in round `current`, of whose rounds so many are completed, cannot use (any more)."""
    header = update.header
    if header.kind == "answer":
        if current is None or current.upload != header.answers or update.arrived > current.cloud_until:
            raise FrameRefused("E409", "the cloud's answer came too late")
        return
    if retired or header.round >= terms.rounds:
        raise FrameRefused("E409", "no round left to merge it in")
    if header.kind != "update":
        raise FrameRefused("E412", "an upload is for the cloud")
    if terms.pace.lockstep and not terms.aggregator.whole and header.round < completed:
        raise FrameRefused("E409", "its round is over")


def settled(waiting: Iterable[Update], number: int) -> set[str]:
    """Peers whose frame of round `number` came, or that went past it without ours, so that it need not be waited for.

    Who is past it and did merge ours is still waited for: its frame was overtaken, and the edge counts at the other end.
    """
    headers = [update.header for update in waiting]
    return {header.sender for header in headers if header.round == number or header.met < number < header.round}


def usable(update: Update, current: Round, terms: Terms) -> bool:
    """Whether a waiting update leaves the mailbox now: in lockstep a later round's waits, and mass does while a twin withholds its own."""
    if terms.aggregator.whole:
        return not current.withheld
    return not terms.pace.lockstep or update.header.round <= current.number


def weigh(
    updates: list[Update], current: Round, terms: Terms, t: float, aligned: Callable[[Update], Vector]
) -> tuple[list[Heard], set[str]]:
    """Return what is merged at `t` with its weights, and who is not, though it was heard: it has nothing to give, or weight 0.

    aligned: what an update says about the receiver's shared elements. Both ends of an edge use the signs of the round.
    """
    whole = terms.aggregator.whole
    if not whole:
        updates = newest(updates)
        if terms.pace.lockstep:
            updates = [update for update in updates if both_in_time(update, current)]
    silent = {update.header.sender for update in updates if update.header.withheld or current.withheld}
    updates = [update for update in updates if not (update.header.withheld or current.withheld)]
    heard = []
    for update in updates:
        header = update.header
        factor = 1.0 if whole else terms.pace.discount(current.number - header.round)
        if factor == 0.0:
            continue
        mine, theirs = (len(updates),) * 2 if current.directed else (max(current.degree, 1), max(header.degree, 1))
        weight = terms.mixing.weight(Side(mine, current.signs), Side(theirs, header.signs))
        if weight == 0.0 and not whole:
            silent.add(header.sender)
            continue
        copy = Copy(aligned(update), header.age, header.mass)
        heard.append(Heard(header.sender, header.round, copy, factor * weight, header.samples, t - header.sent_at))
    return heard, silent


def tutors(heard: Iterable[Heard], ranges: Ranges, own: Vector) -> list[Tutor]:
    """Return those whose models were heard since the last fit, each with its newest, whole: `own` where nothing travels."""
    latest = {update.sender: update for update in sorted(heard, key=lambda update: (update.sender, update.round))}
    return [Tutor(name, scatter(own, ranges, one.copy.vector), one.weight, one.samples) for name, one in sorted(latest.items())]


def both_in_time(update: Update, current: Round) -> bool:
    """An edge is active when both its frames arrived before the receiver's deadline: both ends can tell, so W stays symmetric."""
    header = update.header
    if header.round != current.number or update.arrived > current.closes or header.sender not in current.expected:
        return False
    return current.directed or current.reached[header.sender] <= header.closes
