"""Sending and hearing, the same for twins and the cloud: frames become parcels and facts, parcels become updates and facts."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from p2pftl.agenda import Parcel, Witness
from p2pftl.errors import FrameRefused
from p2pftl.events import FrameHeard, FrameSent
from p2pftl.events import FrameRefused as Refusal
from p2pftl.gossip.frames import Header, seal
from p2pftl.gossip.mailbox import Mailbox, Update
from p2pftl.terms import Terms
from p2pftl.world.topology import Topology
from p2pftl.world.world import World


@dataclass
class Round:
    """The round a twin is in, from sending to merging.

    sent: whether fit and sending are behind it; expected: senders whose frame counts; reached: receiver -> arrival of our frame there;
    closes: when gossip ends at the latest; cloud_until: when waiting for the cloud ends; upload: order of its frame.
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
    answer: Update | None = None
    bytes_sent: int = 0


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


def settled(waiting: Iterable[Update], number: int) -> set[str]:
    """Peers whose frame of round `number` came, or that went past it without ours, so that it need not be waited for.

    Who is past it and did merge ours is still waited for: its frame was overtaken, and the edge counts at the other end.
    """
    headers = [update.header for update in waiting]
    return {header.sender for header in headers if header.round == number or header.met < number < header.round}


def both_in_time(update: Update, current: Round) -> bool:
    """An edge is active when both its frames arrived before the receiver's deadline: both ends can tell, so W stays symmetric."""
    header = update.header
    if header.round != current.number or update.arrived > current.closes or header.sender not in current.expected:
        return False
    return current.directed or current.reached[header.sender] <= header.closes
