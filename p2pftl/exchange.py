"""Sending and hearing, the same for twins and the cloud: frames become parcels and facts, parcels become updates and facts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from p2pftl.agenda import Parcel
from p2pftl.errors import FrameRefused
from p2pftl.events import FrameHeard, FrameSent
from p2pftl.events import FrameRefused as Refusal
from p2pftl.gossip.frames import Header, seal
from p2pftl.gossip.mailbox import Mailbox, Update
from p2pftl.terms import Terms
from p2pftl.world.topology import Topology
from p2pftl.world.world import World


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
    """Put one frame on its way at `header.sent_at`; the parcel is None if the world loses it.

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
    return sent, Parcel(header.sender, header.receiver, arrives, order(header.incarnation, header.seq), head, payload)


def receive(
    mailbox: Mailbox, parcel: Parcel, t: float, check: Callable[[Update], None], round: int
) -> tuple[FrameHeard | Refusal, Update | None]:
    """Open a parcel that arrived at `t`. `check` raises FrameRefused for what the receiver cannot use (any more)."""
    assert parcel.payload is not None
    me = mailbox.expected.me
    try:
        update = mailbox.open(parcel.head, parcel.payload.data, t)
        check(update)
    except FrameRefused as refusal:
        return Refusal(t=t, twin=me, sender=parcel.sender, round=round, code=refusal.code, reason=refusal.problem), None
    header = update.header
    size = len(parcel.head) + parcel.payload.nbytes
    return FrameHeard(t=t, twin=me, sender=header.sender, round=header.round, bytes=size, staleness=t - header.sent_at), update
