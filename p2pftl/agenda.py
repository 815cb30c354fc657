"""What participants have in common: an agenda, and the step they answer with when told how far they may go."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p2pftl.events import Event


class Kind(IntEnum):
    """What stands on an agenda, in the order in which entries of one instant are taken.

    A frame that arrives exactly at a deadline is in time, so FRAME comes before CLOSE.
    """

    FRAME = 0
    FITTED = 1
    CLOSE = 2
    WAKE = 3


@dataclass(frozen=True)
class Witness:
    """That the array `saw()` had this digest when it was hashed in this process. It is forgotten on the way to another one."""

    saw: Callable[[], npt.NDArray[np.uint8] | None]
    digest: bytes

    def __reduce__(self) -> tuple[object, ...]:
        return Witness, (_nothing, b"")


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Parcel:
    """A frame on its way: `head` (prefix and header) and `payload`, to be posted to `receiver`.

    arrives: virtual arrival times, one per copy, ascending; order: place among frames of one sender that
    arrive at one instant. payload is None where only the journey matters (the conductor never sees tensors);
    witness: that this very payload was hashed in this process, so that its receivers here need not do it again.
    """

    sender: str
    receiver: str
    arrives: tuple[float, ...]
    order: int
    head: bytes
    payload: npt.NDArray[np.uint8] | None
    witness: Witness | None = field(default=None, compare=False, repr=False)

    @property
    def hashed(self) -> bytes | None:
        """Digest of the payload, if it is the array that the witness saw."""
        return self.witness.digest if self.witness is not None and self.witness.saw() is self.payload is not None else None

    @property
    def flight(self) -> tuple[str, int]:
        """Names this frame among all of the run."""
        return self.sender, self.order


@dataclass(frozen=True)
class Step:
    """What a participant answers after advancing.

    next: virtual time of its next event, inf if none; sends: earliest virtual time at which it could send
    again if it heard nothing more; reacts: least virtual time between hearing and sending (inf if hearing
    cannot hasten a send); round_done: a round was completed, so its state is worth saving; done: it will
    never send again.
    """

    name: str
    events: tuple[Event, ...]
    parcels: tuple[Parcel, ...]
    next: float
    sends: float
    reacts: float
    round_done: bool
    done: bool


class Participant(Protocol):
    """A twin or the cloud: a pure state machine. No I/O, no clock, no Ray."""

    def begin(self, at: float) -> Step:
        """Put the first event on the agenda, at virtual time `at`."""
        ...

    def post(self, parcel: Parcel) -> None:
        """Put a frame on the agenda at its arrival."""
        ...

    def advance(self, until: float) -> Step:
        """Process events before `until`, at most to the end of one round."""
        ...

    def snapshot(self) -> bytes | memoryview:
        """Return everything needed to go on from here."""
        ...

    def restore(self, saved: bytes, incarnation: int) -> None:
        """Take over a saved state before begin(). Raises CheckpointError E502, E505."""
        ...


@dataclass
class Agenda:
    """A heap of (t, kind, source, order): the same sequence whatever the order of arrival."""

    entries: list[_Entry] = field(default_factory=list)
    added: int = 0

    def add(self, t: float, kind: Kind, what: Any = None, *, source: str = "", order: int | None = None) -> None:
        """Put `what` on the agenda; without `order`, entries of one instant, kind and source keep the order of adding."""
        self.added += 1
        heapq.heappush(self.entries, _Entry((t, kind, source, self.added if order is None else order), what))

    def expect(self, parcel: Parcel) -> None:
        """Put a frame on the agenda at each of its arrivals."""
        for arrival in parcel.arrives:
            self.add(arrival, Kind.FRAME, parcel, source=parcel.sender, order=parcel.order)

    def next(self) -> float:
        """Virtual time of the first entry, inf if there is none."""
        return self.entries[0].key[0] if self.entries else math.inf

    def take(self) -> tuple[float, Kind, Any]:
        """Remove and return the first entry."""
        entry = heapq.heappop(self.entries)
        return entry.key[0], entry.key[1], entry.what

    def first(self, kind: Kind) -> float:
        """Virtual time of the first entry of `kind`, inf if there is none."""
        return min((entry.key[0] for entry in self.entries if entry.key[1] is kind), default=math.inf)

    def clear(self) -> None:
        self.entries.clear()


@dataclass(frozen=True)
class _Entry:
    key: tuple[float, Kind, str, int]
    what: Any

    def __lt__(self, other: _Entry) -> bool:
        return self.key < other.key
