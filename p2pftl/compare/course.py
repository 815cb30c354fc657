"""What a finished cell tells: its results, how it got there, and what that took. A fold over its events, and its summary."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from p2pftl.compare.answers import MEASURES, Answers, answers
from p2pftl.events import Event, Fitted, Scored, Tested
from p2pftl.observe.history import Curves, History, Point
from p2pftl.observe.lead import ACCURACY, Lead, told_by
from p2pftl.observe.summary import FOUND as PRECISIONS
from p2pftl.observe.summary import METRICS, mean
from p2pftl.observe.summary import PROBED as PROBES
from p2pftl.scenario.plan import POOL

RESULTS = (*METRICS, "worst_accuracy")
"""What is tabled and tested: means over the twins on the common test images, and the weakest twin's accuracy."""
SOUGHT = ("map_50", "map_70", "map_75", "map_strict", "map", "recall", "accuracy", "worst_map_50")
"""The same of detectors."""
FAMILIES = {"map_50": SOUGHT, "probe": (*PROBES, *METRICS, "worst_probe"), "gain": ("gain", "worst_gain")}
"""What is tabled of what is no plain classifier, by what the run is told by."""
SCORED = tuple(dict.fromkeys((*METRICS, *PRECISIONS, *PROBES, "gain")))
"""Whatever has a curve."""
PATIENTS = tuple(f"patient_{metric}" for metric in MEASURES)
"""The same by patient, where patients have several images."""
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
class Chosen:
    """Whose results count. names: these twins, or with `but` all others; no names: everybody. The pool of all studies always counts."""

    names: tuple[str, ...] = ()
    but: bool = False

    def __contains__(self, twin: object) -> bool:
        return not self.names or twin == POOL or (twin in self.names) != self.but

    def __str__(self) -> str:
        return ("all twins but " if self.but else "") + ", ".join(self.names) if self.names else "all twins"


EVERYBODY = Chosen()


@dataclass(frozen=True)
class Course:
    """One cell, as the chosen twins had it. values: what is `tabled`, PATIENTS and COSTS, None where undefined; evaluations: metric ->
    over the rounds; confusion: summed over the twins, rows true; twins: so many count; answers: single predictions, if the run has them;
    lead: what the run is told by; each: what was scored last of each twin's test images."""

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
    answers: Answers | None = None
    lead: Lead = ACCURACY
    each: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
    curves: dict[str, Curves] = field(default_factory=lambda: {metric: defaultdict(list) for metric in SCORED})
    visits: int = 0
    tested: dict[str, Tested] = field(default_factory=dict)

    def feed(self, event: Event) -> None:
        self.history.feed(event)
        if isinstance(event, Fitted):
            self.visits += event.samples
        elif isinstance(event, Tested):
            self.tested[event.twin] = event
        elif isinstance(event, Scored) and event.split == "test":
            number = self.history.board.nth(event.round)
            for metric in SCORED:
                if (value := event.metrics.get(metric)) is not None:
                    self.curves[metric][event.twin].append(Point(event.t, number, float(value)))


def course(variant: str, seed: int, document: Mapping[str, Any], events: Iterable[Event], chosen: Chosen = EVERYBODY) -> Course:
    """Fold the events of a finished run whose summary is `document`. Costs are those of the whole run, whoever is chosen."""
    fold = _Fold()
    for event in events:
        fold.feed(event)
    plan = fold.history.board.plan
    tests = {name: twin["test"] for name, twin in document["twins"].items() if name in chosen}
    data = plan.facts.get("data", {}) if plan else {}
    confusions = {name: test["confusion"] for name, test in tests.items() if test.get("confusion")}
    single = answers(data, len(plan.classes), fold.tested, confusions) if plan else None
    lead, own = told_by(document), any("classes" in twin for twin in plan.facts.get("twins", {}).values()) if plan else False
    worst = [value for test in tests.values() if (value := test.get(lead.key)) is not None]
    values: dict[str, float | None] = {**mean(tests.values()), f"worst_{lead.key}": min(worst, default=None), **_by_patient(single)}
    values |= {"bytes_sent": document["bytes_sent"], "virtual_seconds": document["virtual_seconds"], "visits": fold.visits}
    curves = {metric: {twin: line for twin, line in curves.items() if twin in chosen} for metric, curves in fold.curves.items()}
    return Course(
        variant, seed, values, {metric: _evaluations(lines, fold.history) for metric, lines in curves.items()},
        plan.classes if plan else (), _summed(list(confusions.values())) if not own else [], bool(document["synthetic"]),
        str(document["status"]), len(tests), int(data.get("test", 0)), single, lead, tests,
    )  # fmt: skip


def tabled(lead: Lead) -> tuple[str, ...]:
    """What is tabled of runs that are told by `lead`."""
    return FAMILIES.get(lead.key, RESULTS)


def _by_patient(found: Answers | None) -> dict[str, float | None]:
    """PATIENTS, None where every patient has one image, or all have images of several classes."""
    if found is None or not found.slices or not len(found.persons.of):
        return dict.fromkeys(PATIENTS)
    return {f"patient_{metric}": float(values[0]) for metric, values in found.persons.measures().items()}


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
