"""What gossip policies take and give. State goes in and comes out: every one can be tested with two vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from p2pftl.params import Vector

State = Mapping[str, float]


@dataclass(frozen=True)
class Copy:
    """A twin's shared parameters as a merge sees them.

    vector: the shared elements as the model uses them, float32; age: local updates behind it (gossip learning);
    mass: push-sum weight w, 1 elsewhere; state: what an aggregator remembers from merge to merge; samples: the twin's training
    samples in its round, 0 in what was heard, which tells them itself.
    """

    vector: Vector
    age: float = 0.0
    mass: float = 1.0
    state: State = field(default_factory=dict)
    samples: int = 0


@dataclass(frozen=True)
class Heard:
    """A decoded update waiting to be merged.

    copy: what the sender shared, aligned to the receiver's shared elements; weight: W_ij given by the
    mixing policy (already discounted for staleness); samples: the sender's training samples;
    staleness: age in virtual seconds.
    """

    sender: str
    round: int
    copy: Copy
    weight: float
    samples: int
    staleness: float


class Aggregator(Protocol):
    """Merges heard into own.

    whole: True if every update must be merged whatever its age, or mass is lost (push-sum).
    """

    whole: ClassVar[bool]

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        """Return (what each receiver gets, what is kept) when `fanout` frames leave, `failed` of them known lost."""
        ...

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        """Return the merged copy and the weight each sender got; the order of `heard` must not change a bit."""
        ...


@dataclass(frozen=True)
class Signs:
    """All that peers learn of a twin's device.

    fingerprint: [ln sd, nps_f, mtf50, ln slice_mm, kvp / 20, unif] of its phantom and protocol, () while unknown; quality: from 0
    (not to be heard) to 1; lifecycle: one of LIFECYCLES; kernel_group: a word of up to 16 letters.
    """

    fingerprint: tuple[float, ...] = ()
    quality: float = 1.0
    lifecycle: str = "unknown"
    kernel_group: str = "unknown"


MARKS = 6
"""Numbers in a fingerprint."""

LIFECYCLES = (
    "unknown", "commissioning", "baseline", "active", "warn", "quarantined", "maintenance", "verifying", "offline", "retired",
)  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One end of an edge, as it was in the round that is merged. degree: partners of that twin in the round."""

    degree: int
    signs: Signs = Signs()


@dataclass(frozen=True)
class Part:
    """What a payload holds. values: float32; at: their positions in the vector that was encoded, ascending, or None for all of it."""

    values: Vector
    at: npt.NDArray[np.int64] | None = None

    def onto(self, own: Vector) -> Vector:
        """Return the whole vector: what came, and `own` for the rest."""
        if self.at is None:
            return self.values
        whole = own.copy()
        whole[self.at] = self.values
        return whole


class Codec(Protocol):
    """Turns a vector into payload bytes and back.

    partial: True if a payload leaves elements out. Then a twin remembers what it told, and the cloud, which has
    nothing to fill the gaps with, is sent everything (dense).
    """

    partial: ClassVar[bool]

    def encode(self, vector: Vector, told: Vector | None = None) -> npt.NDArray[np.uint8]:
        """Return the payload. told: what was sent so far, `decode(payload).onto(told)` after each payload; None: nothing, or unknown."""
        ...

    def decode(self, payload: memoryview, size: int) -> Part:
        """Return what the payload holds of `size` elements; raise FrameRefused E414 if it is no such payload."""
        ...


class Pace(Protocol):
    """When a round closes and what a late update is worth.

    lockstep: True if twins keep the same round and an edge counts only when both its frames came in time.
    """

    lockstep: ClassVar[bool]

    def closes(self, sent_at: float, all_came: bool) -> float:
        """Virtual time at which the round that sent its frames at `sent_at` merges."""
        ...

    def discount(self, lag: int) -> float:
        """Factor on the weight of an update `lag` rounds older than the receiver's round; 0 drops it."""
        ...


class Mixing(Protocol):
    """Gives the weight W_ij of a neighbour's update from what both ends of the edge know: degrees and device signs."""

    def weight(self, mine: Side, peer: Side) -> float:
        """Return W_ij, at least 0 and at most 1 / (1 + mine.degree); 0: it is not merged."""
        ...


class Gate(Protocol):
    """Lets updates into the merge, or not, by what they gain on the receiver's own validation data.

    sifts: True if it may refuse. Then measuring is part of the learning and takes virtual time, and no aggregator is allowed that
    must merge everything.
    """

    sifts: ClassVar[bool]

    @property
    def metric(self) -> str:
        """The score that counts: "loss", or one that is better the larger it is."""
        ...

    def refuses(self, gain: float) -> str:
        """Why an update that alone would gain so much is not merged, "" if it is. gain: in units of the metric, positive is better;
        minus infinity where the merged model's score is not a number."""
        ...


class Partners(Protocol):
    """Chooses the neighbours one twin sends to in one round.

    directed: False if an edge chosen by either end carries frames both ways (symmetric mixing),
    True if only the chooser sends.
    """

    directed: ClassVar[bool]

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        """Return the chosen neighbours, sorted. `neighbours` and `everyone` are sorted; `everyone` includes `me`."""
        ...
