"""What a finished cell tells: its results, how it got there, and what that took. A fold over its events, and its summary."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from p2pftl.events import Event, Fitted, Scored
from p2pftl.observe.history import Curves, History, Point
from p2pftl.observe.summary import METRICS

RESULTS = (*METRICS, "worst_accuracy")
"""What is tabled and tested: means over the twins on the common test images, and the weakest twin's accuracy."""
COSTS = ("bytes_sent", "virtual_seconds", "visits")
STAY = 2
"""Evaluations in a row that must be at the target or above it (ALGORITHMS.md §13)."""


@dataclass(frozen=True)
class Evaluation:
    """All twins after one round: t when the last of them was scored, bytes sent by then, mean of a metric."""

    round: int
    t: float
    bytes: float
    value: float


@dataclass(frozen=True)
class Course:
    """One cell. values: RESULTS and COSTS, None where undefined; evaluations: metric -> over the rounds; confusion: summed over
    the twins, rows true."""

    variant: str
    seed: int
    values: Mapping[str, float | None]
    evaluations: Mapping[str, Sequence[Evaluation]]
    classes: tuple[str, ...]
    confusion: Sequence[Sequence[float]]
    synthetic: bool
    status: str
    twins: int
    test: int

    def reached(self, metric: str, target: float) -> Evaluation | None:
        """The first of STAY evaluations in a row at `target` or above, None if there is none."""
        line = self.evaluations.get(metric, ())
        runs = (line[at : at + STAY] for at in range(len(line) - STAY + 1))
        return next((run[0] for run in runs if all(one.value >= target - 1e-12 for one in run)), None)

    def best(self, metric: str) -> float | None:
        """The highest mean that it ever had."""
        return max((one.value for one in self.evaluations.get(metric, ())), default=None)


@dataclass
class _Fold:
    """Scores of all metrics, and images seen."""

    history: History = field(default_factory=History)
    curves: dict[str, Curves] = field(default_factory=lambda: {metric: defaultdict(list) for metric in METRICS})
    visits: int = 0

    def feed(self, event: Event) -> None:
        self.history.feed(event)
        if isinstance(event, Fitted):
            self.visits += event.samples
        elif isinstance(event, Scored) and event.split == "test":
            number = self.history.board.nth(event.round)
            for metric in METRICS:
                if (value := event.metrics.get(metric)) is not None:
                    self.curves[metric][event.twin].append(Point(event.t, number, float(value)))


def course(variant: str, seed: int, document: Mapping[str, Any], events: Iterable[Event]) -> Course:
    """Fold the events of a finished run whose summary is `document`."""
    fold = _Fold()
    for event in events:
        fold.feed(event)
    board = fold.history.board
    twins = document["twins"]
    worst = [value for twin in twins.values() if (value := twin["test"].get("accuracy")) is not None]
    values: dict[str, float | None] = {metric: document["mean"].get(metric) for metric in METRICS}
    values |= {"worst_accuracy": min(worst, default=None)}
    values |= {"bytes_sent": document["bytes_sent"], "virtual_seconds": document["virtual_seconds"], "visits": fold.visits}
    plan = board.plan
    return Course(
        variant, seed, values, {metric: _evaluations(curves, fold.history) for metric, curves in fold.curves.items()},
        plan.classes if plan else (), _summed([twin["test"].get("confusion") for twin in twins.values()]), bool(document["synthetic"]),
        str(document["status"]), len(twins), int(plan.facts.get("data", {}).get("test", 0)) if plan else 0,
    )  # fmt: skip


def _evaluations(curves: Curves, history: History) -> list[Evaluation]:
    """Rounds in which at least half of the twins were scored; a round done again after a revival counts as it came out last."""
    rounds: dict[int, dict[str, Point]] = defaultdict(dict)
    for twin, points in curves.items():
        for point in points:
            rounds[point.round][twin] = point
    times = [t for t, _ in history.sent_at]
    found = []
    for number, scored in sorted(rounds.items()):
        if 2 * len(scored) < len(curves):
            continue
        t = max(point.t for point in scored.values())
        index = bisect_right(times, t)
        size = history.sent_at[index - 1][1] if index else 0
        found.append(Evaluation(number, t, float(size), fmean(point.value for point in scored.values())))
    return found


def _summed(matrices: Sequence[Any]) -> list[list[float]]:
    known = [matrix for matrix in matrices if matrix]
    return [[float(sum(cell)) for cell in zip(*rows, strict=True)] for rows in zip(*known, strict=True)]
