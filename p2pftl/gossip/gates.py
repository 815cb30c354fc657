"""Gates: what each exchange gains on the receiver's own validation data, and whether it is merged (ALGORITHMS.md §4, Transfer gate).

Common to all: an update is tried alone, merged by the aggregator as if nothing else had come. What is refused is left out of the merge,
as if it had not come: in difference form its weight falls back to the own model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Interval

from p2pftl.gossip.seams import Aggregator, Copy, Gate, Heard
from p2pftl.params import Vector

Metric = Literal["loss", "accuracy", "balanced_accuracy", "f1", "map_50"]
FALLING = frozenset({"loss"})  # metrics that are better the smaller they are
DIGITS = 7  # of a score: a difference has no more


@dataclass(frozen=True)
class Watch:
    """Measures every exchange and refuses none; an instrument, which takes no virtual time.

    metric: of the receiver's validation data.
    """

    metric: Metric = "loss"
    sifts: ClassVar[bool] = False

    def refuses(self, gain: float) -> str:
        return ""


@dataclass(frozen=True)
class Gain:
    """Refuses an update that alone would make the receiver worse.

    tolerance: so much worse, in units of the metric, is merged all the same; metric: of the receiver's validation data.
    """

    tolerance: Annotated[float, Interval(ge=0, le=100)] = 0.0
    metric: Metric = "loss"
    sifts: ClassVar[bool] = True

    def refuses(self, gain: float) -> str:
        return "" if gain >= -self.tolerance else f"gain below {0.0 - self.tolerance:g}"


@dataclass
class Trial:
    """One merge under a gate.

    judge: what the receiver's validation data say of a vector of shared elements, None where they say nothing; own: before the merge;
    before: what they say of it; ledger: an entry per sender tried; passes: over the validation data so far.
    """

    gate: Gate
    judge: Callable[[Vector], float | None]
    own: Vector
    ledger: list[dict[str, Any]] = field(default_factory=list)
    passes: int = 0
    before: float | None = field(init=False)
    _known: tuple[tuple[Vector, float | None], ...] = ()

    def __post_init__(self) -> None:
        self.before = self.measured(self.own)

    def admits(self, sender: str, round: int, vector: Vector) -> bool:
        """Try what `sender` offered in its `round`; what cannot be measured goes in. vector: what the own model would be by it alone."""
        gain = None if self.before is None else better(self.gate.metric, self.before, self.measured(vector))
        reason = "" if gain is None else self.gate.refuses(gain)
        told = None if gain is None or not math.isfinite(gain) else gain
        self.ledger.append({"sender": sender, "round": round, "weight": 0.0, "accepted": not reason, "reason": reason, "gain": told})
        return not reason

    def measured(self, vector: Vector) -> float | None:
        """The metric of `vector`; the own model and the last one tried are not scored twice."""
        for known, value in self._known:
            if np.array_equal(known, vector):
                return value
        self.passes += 1
        value = self.judge(vector)
        self._known = (*self._known[:1], (vector, value))
        return value

    def entries(self, weights: Mapping[str, float]) -> tuple[dict[str, Any], ...]:
        """The ledger with the weight that each sender got in the end: 0 if it was refused, or if the cloud's answer took its place."""
        return tuple({**entry, "weight": weights.get(entry["sender"], 0.0)} if entry["accepted"] else entry for entry in self.ledger)


def admitted(trial: Trial | None, aggregator: Aggregator, own: Copy, heard: Sequence[Heard]) -> list[Heard]:
    """Return what is merged of `heard`, all of it without a trial. Several updates of one sender are tried, and go, together."""
    if trial is None:
        return list(heard)
    offered: dict[str, list[Heard]] = {}
    for update in sorted(heard, key=lambda update: update.sender):
        offered.setdefault(update.sender, []).append(update)
    let_in = {
        sender
        for sender, updates in offered.items()
        if trial.admits(sender, max(update.round for update in updates), aggregator.merge(own, updates)[0].vector)
    }
    return [update for update in heard if update.sender in let_in]


def better(metric: str, before: float, after: float | None) -> float:
    """How much better `after` is than `before`, in units of the metric; minus infinity where it is not even a number."""
    if after is None:
        return -math.inf
    return round(before - after if metric in FALLING else after - before, DIGITS)
