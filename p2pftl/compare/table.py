"""The cells as a table: per metric a row for each variant, with its interval, its difference to the baseline and what may be claimed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from p2pftl.compare.cells import Variant
from p2pftl.compare.course import COSTS, RESULTS, Course, Evaluation
from p2pftl.compare.statistics import Gap, Limits, Paired, Verdict, bootstrap, gap_closed, holm, paired, verdict

SHARE = 0.95
LOWER_IS_BETTER = frozenset(COSTS)


@dataclass(frozen=True)
class Row:
    """One variant and one metric. values: of the seeds where it is defined; interval: bootstrap over seeds; against: the paired
    differences to the baseline, None for itself; exact, t: p values after Holm's correction over the rows."""

    variant: str
    metric: str
    values: tuple[float, ...]
    interval: Limits | None
    against: Paired | None = None
    exact: float | None = None
    t: float | None = None
    verdict: Verdict | None = None

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None


@dataclass(frozen=True)
class Arrival:
    """When a variant reached `what`. reached: of its runs, so many did; rounds, seconds, bytes: the median over all runs, where one
    that did not counts as later than any that did, None if the median did not; cap: rounds of the longest run."""

    variant: str
    what: str
    reached: int
    runs: int
    rounds: float | None
    seconds: float | None
    bytes: float | None
    cap: float


class Results:
    """All finished cells. rows: the variants in order; baseline: the one that differences are taken to."""

    def __init__(self, rows: Sequence[Variant], courses: Sequence[Course], baseline: str) -> None:
        self.variants, self.courses, self.baseline = rows, courses, baseline
        self.by = {name: {one.seed: one for one in courses if one.variant == name} for name in [row.name for row in rows]}
        self.tables = {metric: self._table(metric) for metric in (*RESULTS, *COSTS)}

    @property
    def seeds(self) -> list[int]:
        return sorted({one.seed for one in self.courses})

    @property
    def synthetic(self) -> bool:
        return any(one.synthetic for one in self.courses)

    def bound(self, kind: str) -> str | None:
        """The variant that is the lower or the upper bound, if any of its cells is done."""
        return next((row.name for row in self.variants if row.bound == kind and self.by[row.name]), None)

    def gaps(self, metric: str = "accuracy") -> dict[str, Gap]:
        """Variant -> how much of the way from learning alone to all studies in one place it goes; empty without both bounds."""
        lower, upper = self.bound("lower"), self.bound("upper")
        if lower is None or upper is None:
            return {}
        found = {}
        for row in self.variants:
            if not row.bound and self.by[row.name]:
                found[row.name] = gap_closed(*self._shared(metric, row.name, lower, upper))
        return found

    def arrivals(self, metric: str, target: float | None) -> list[Arrival]:
        """When each variant reached `target`, and when SHARE of each run's own best."""
        fixed, own = [], []
        for name, cells in ((name, list(cells.values())) for name, cells in self.by.items() if cells):
            if target is not None:
                fixed.append(_arrival(name, f"{target:g}", cells, [one.reached(metric, target) for one in cells], metric))
            bests = [(one, one.best(metric)) for one in cells]
            found = [None if best is None else one.reached(metric, SHARE * best) for one, best in bests]
            own.append(_arrival(name, f"{100 * SHARE:g} % of its own best", cells, found, metric))
        return fixed + own

    def visits(self) -> dict[str, float]:
        """Variant -> images seen in training, as a multiple of the baseline's on the same seeds."""
        found = {}
        for row in self.variants:
            mine, theirs = self._shared("visits", row.name, self.baseline)
            if sum(theirs):
                found[row.name] = sum(mine) / sum(theirs)
        return found

    def _table(self, metric: str) -> list[Row]:
        names = [row.name for row in self.variants if self.by[row.name]]
        found: dict[str, Paired] = {}
        for name in names:
            mine, theirs = self._shared(metric, name, self.baseline)
            if name != self.baseline and mine:
                found[name] = paired(mine, theirs)
        exact = dict(zip(found, holm([one.exact for one in found.values()]), strict=True))
        t = dict(zip(found, holm([one.t for one in found.values()]), strict=True))
        table = []
        for name in names:
            values = tuple(self._values(metric, name).values())
            against, p = found.get(name), exact.get(name)
            said = None
            if against is not None and p is not None:
                said = verdict(against, p, t[name], len(found), higher_is_better=metric not in LOWER_IS_BETTER)
            table.append(Row(name, metric, values, bootstrap(values), against, p, t.get(name), said))
        return table

    def _values(self, metric: str, name: str) -> dict[int, float]:
        found = {seed: one.values.get(metric) for seed, one in sorted(self.by[name].items())}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def _shared(self, metric: str, *names: str) -> list[list[float]]:
        """Values of `names` on the seeds that all have."""
        known = [self._values(metric, name) for name in names]
        seeds = [seed for seed in known[0] if all(seed in one for one in known)]
        return [[one[seed] for seed in seeds] for one in known]


def tidy(results: Results) -> str:
    """CSV: variant, seed, metric, value; an undefined value is left empty."""
    lines = [
        (one.variant, one.seed, metric, one.values.get(metric))
        for one in sorted(results.courses, key=lambda one: ([row.name for row in results.variants].index(one.variant), one.seed))
        for metric in (*RESULTS, *COSTS)
    ]
    return _csv(("variant", "seed", "metric", "value"), lines)


def summed(results: Results) -> str:
    """CSV with one line per variant and metric: everything that the page says of it."""
    head = (
        "metric", "variant", "seeds", "mean", "low", "high", "baseline", "pairs", "difference", "t_low", "t_high",
        "p_exact", "p_exact_holm", "p_t", "p_t_holm", "verdict", "gap_closed", "gap_low", "gap_high",
    )  # fmt: skip
    lines = []
    for metric, table in results.tables.items():
        gaps = results.gaps(metric) if metric in RESULTS else {}
        for row in table:
            pair, gap = row.against, gaps.get(row.variant)
            low, high = row.interval or (None, None)
            under, over = (pair.interval if pair else None) or (None, None)
            left, right = (gap.interval if gap else None) or (None, None)
            lines.append((
                metric, row.variant, len(row.values), row.mean, low, high, results.baseline if pair else None, pair and pair.count,
                pair and pair.mean, under, over, pair and pair.exact, row.exact, pair and pair.t, row.t,
                row.verdict and row.verdict.word, gap and gap.share, left, right,
            ))  # fmt: skip
    return _csv(head, lines)


def _arrival(name: str, what: str, cells: Sequence[Course], found: Sequence[Evaluation | None], metric: str) -> Arrival:
    came = [one for one in found if one is not None]

    def middle(values: Sequence[float]) -> float | None:
        whole = median([*values, *[math.inf] * (len(found) - len(values))])
        return whole if math.isfinite(whole) else None

    ends = [line[-1].round for one in cells if (line := one.evaluations.get(metric))]
    return Arrival(
        name, what, len(came), len(found), middle([one.round for one in came]), middle([one.t for one in came]),
        middle([one.bytes for one in came]), float(max(ends, default=0)),
    )  # fmt: skip


def _csv(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([f"{cell:.10g}" if isinstance(cell, float) else "" if cell is None else cell for cell in line] for line in lines)
    return text.getvalue()


def targets(text: str | None) -> tuple[str, float | None]:
    """ "f1=0.9" as metric and value, "f1" as a metric alone; accuracy if not given. Raises UsageError E613."""
    from p2pftl.errors import UsageError, nearest
    from p2pftl.observe.summary import METRICS

    name, equals, value = (text or "accuracy").partition("=")
    if name not in METRICS:
        raise UsageError("E613", f"--target {text}: no metric {name}", fix=nearest(name, METRICS))
    if not equals:
        return name, None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise UsageError("E613", f"--target {text}: the value lies in [0, 1]", fix="for example --target accuracy=0.9")
    return name, number


def headline(results: Results, gaps: Mapping[str, Gap]) -> list[str]:
    """The result in sentences: the gap that each method closes, else the baseline against the others."""
    lines = []
    for name, gap in gaps.items():
        if gap.share is None:
            lines.append(f"{name}: no share of the gap can be told, for {gap.reason}.")
            continue
        limits = f" (95 % interval {100 * gap.interval[0]:.0f} to {100 * gap.interval[1]:.0f} %)" if gap.interval else f" ({gap.reason})"
        if gap.share < 0:
            lines.append(f"{name} falls below learning alone by {-100 * gap.share:.0f} % of the gap to all studies in one place{limits}.")
        else:
            lines.append(f"{name} closes {100 * gap.share:.0f} % of the gap between learning alone and all studies in one place{limits}.")
    return lines
