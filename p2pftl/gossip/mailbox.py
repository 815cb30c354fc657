"""The receiving side of gossip: frames become updates, each at most once, or are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from p2pftl.errors import FrameRefused
from p2pftl.gossip.frames import Expectation, Header, finite, unseal
from p2pftl.gossip.seams import Part
from p2pftl.params import length

WINDOW = 4096
"""Of each sender so many frame numbers are remembered; a frame older than all of them counts as a duplicate."""


NOTHING = Part(np.empty(0, np.float32))


@dataclass(frozen=True)
class Update:
    """A decoded frame. part: what came of the elements of `header.ranges`; arrived: virtual seconds."""

    header: Header
    part: Part
    arrived: float

    @property
    def order(self) -> tuple[str, int, int, int]:
        """Sorting by it makes a fold independent of arrival order."""
        return self.header.sender, self.header.incarnation, self.header.round, self.header.seq


@dataclass
class Seen:
    """Which frames of one sender were accepted: all numbers up to `floor`, and `numbers`."""

    floor: int = -1
    numbers: set[int] = field(default_factory=set)

    def __contains__(self, number: int) -> bool:
        return number <= self.floor or number in self.numbers

    def add(self, number: int) -> None:
        self.numbers.add(number)
        if len(self.numbers) > WINDOW:
            oldest = sorted(self.numbers)[: WINDOW // 2]
            self.numbers.difference_update(oldest)
            self.floor = oldest[-1]


@dataclass
class Mailbox:
    """Accepts frames for one participant and keeps them until they are merged.

    incarnations: highest incarnation known of each sender; seen: frames accepted from that incarnation.
    """

    expected: Expectation
    incarnations: dict[str, int] = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    waiting: list[Update] = field(default_factory=list)

    def open(self, head: bytes, payload: memoryview, arrived: float, hashed: bytes | None = None) -> Update:
        """Return the update a frame holds; only then is the frame remembered. hashed: the payload's digest if it is known here.

        Raises FrameRefused E401..E417, E407 for a duplicate, E408 for an old incarnation.
        """
        header = unseal(head, payload, self.expected, hashed)
        known = self.incarnations.get(header.sender, 0)
        if header.incarnation < known:
            raise FrameRefused("E408", "from before the sender was revived")
        seen = self.seen.get(header.sender, Seen()) if header.incarnation == known else Seen()
        if header.seq in seen:
            raise FrameRefused("E407", "duplicate")
        part = NOTHING if header.withheld else self.expected.codecs[header.kind].decode(payload, length(header.ranges))
        finite(part.values)
        seen.add(header.seq)
        self.incarnations[header.sender], self.seen[header.sender] = header.incarnation, seen
        return Update(header, part, arrived)

    def keep(self, update: Update, *, every: bool) -> None:
        """Let `update` wait to be merged. Unless `every` one of a sender counts, only its newest is held."""
        if not every:
            sender = update.header.sender
            if any(one.header.sender == sender and one.order > update.order for one in self.waiting):
                return
            self.waiting = [one for one in self.waiting if one.header.sender != sender]
        self.waiting.append(update)

    def take(self, wanted: Callable[[Update], bool]) -> list[Update]:
        """Remove and return the waiting updates that are `wanted`, in canonical order."""
        taken = sorted((update for update in self.waiting if wanted(update)), key=lambda update: update.order)
        self.waiting = [update for update in self.waiting if not wanted(update)]
        return taken


def newest(updates: Iterable[Update]) -> list[Update]:
    """Keep each sender's latest update (the last one in canonical order)."""
    latest = {update.header.sender: update for update in sorted(updates, key=lambda update: update.order)}
    return [latest[sender] for sender in sorted(latest)]
