"""The cells as a table: per metric a row for each variant, with its interval, its difference to the baseline and what may be claimed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from p2pftl.compare.answers import Floats
from p2pftl.compare.cells import Variant
from p2pftl.compare.course import COSTS, EVERYBODY, PATIENTS, SCORED, Chosen, Course, Evaluation, tabled
from p2pftl.compare.losses import Loss, Ratio, loss, ratio
from p2pftl.compare.resampling import Resampling, over_seeds
from p2pftl.compare.statistics import Gap, Limits, Paired, Verdict, bootstrap, gap_closed, holm, limits, paired, verdict
from p2pftl.observe.lead import ACCURACY, Lead

SHARE = 0.95
LOWER_IS_BETTER = frozenset(COSTS)


@dataclass(frozen=True)
class Row:
    """One variant and one metric. values: of the seeds where it is defined; interval: bootstrap over seeds and, with `persons`, over
    patients too; against: the paired differences to the baseline, None for itself; apart: bootstrap interval of their mean, over seeds
    and patients, None without single answers; exact, t: p values after Holm's correction over the rows."""

    variant: str
    metric: str
    values: tuple[float, ...]
    interval: Limits | None
    against: Paired | None = None
    exact: float | None = None
    t: float | None = None
    verdict: Verdict | None = None
    persons: bool = False
    apart: Limits | None = None

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
    """All finished cells. rows: the variants in order; baseline: the one that differences are taken to; chosen: whose results count;
    reference: the one that losses are taken from, if any."""

    def __init__(
        self, rows: Sequence[Variant], courses: Sequence[Course], baseline: str, chosen: Chosen = EVERYBODY, reference: str | None = None
    ) -> None:
        self.variants, self.courses, self.baseline, self.chosen, self.reference = rows, courses, baseline, chosen, reference
        self.by = {name: {one.seed: one for one in courses if one.variant == name} for name in [row.name for row in rows]}
        self.resampling = Resampling(courses)
        by_patient = [metric for metric in PATIENTS if any(one.values.get(metric) is not None for one in courses)]
        self.lead = courses[0].lead if courses else ACCURACY
        self.results = (*tabled(self.lead), *by_patient)
        self.tables = {metric: self._table(metric) for metric in (*self.results, *COSTS)}

    @property
    def seeds(self) -> list[int]:
        return sorted({one.seed for one in self.courses})

    @property
    def synthetic(self) -> bool:
        return any(one.synthetic for one in self.courses)

    def bound(self, kind: str) -> str | None:
        """The variant that is the lower or the upper bound, if any of its cells is done."""
        return next((row.name for row in self.variants if row.bound == kind and self.by[row.name]), None)

    def gaps(self, metric: str | None = None) -> dict[str, Gap]:
        """Variant -> how much of the way from learning alone to all studies in one place it goes; empty without both bounds. metric: the
        one that the runs are told by if not given."""
        metric = metric or self.lead.key
        lower, upper = self.bound("lower"), self.bound("upper")
        if lower is None or upper is None:
            return {}
        found = {}
        for row in self.variants:
            if not row.bound and self.by[row.name]:
                found[row.name] = gap_closed(*self._shared(metric, row.name, lower, upper))
        return found

    def losses(self, metric: str) -> list[Loss]:
        """What every variant loses against the reference, on the seeds of both."""
        found = []
        for row in self.variants if self.reference else ():
            names = (str(self.reference), row.name)
            values = self._shared(metric, *names)
            if row.name != self.reference and values[0]:
                found.append(loss(row.name, values, self._drawn(metric, *names)))
        return found

    def ratios(self, metric: str) -> list[Ratio]:
        """The loss of the baseline as a share of that of every other variant; bounds have none."""
        found = []
        for row in self.variants if self.reference not in (None, self.baseline) else ():
            names = (str(self.reference), self.baseline, row.name)
            values = self._shared(metric, *names)
            if row.name not in names[:2] and not row.bound and values[0]:
                found.append(ratio(names[1:], values, self._drawn(metric, *names)))
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
            drawn, both = self._answered(metric, name), self._answered(metric, name, self.baseline) if against else None
            interval = bootstrap(values) if drawn is None else limits(drawn[0])
            apart = None if both is None else limits(both[0] - both[1])
            table.append(Row(name, metric, values, interval, against, p, t.get(name), said, drawn is not None, apart))
        return table

    def _answered(self, metric: str, *names: str) -> Floats | None:
        """Means of `names` over seeds and patients drawn again [V, B], None where the patients cannot be."""
        seeds = self._seeds(metric, *names)
        return self.resampling.means(metric, [[self.by[name][seed] for seed in seeds] for name in names])

    def _drawn(self, metric: str, *names: str) -> Floats | None:
        """The same, over the seeds alone where the patients cannot be drawn again."""
        found = self._answered(metric, *names)
        return over_seeds(self._shared(metric, *names)) if found is None else found

    def _values(self, metric: str, name: str) -> dict[int, float]:
        found = {seed: one.values.get(metric) for seed, one in sorted(self.by[name].items())}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def _shared(self, metric: str, *names: str) -> list[list[float]]:
        """Values of `names` on the seeds that all have."""
        seeds = self._seeds(metric, *names)
        return [[self._values(metric, name)[seed] for seed in seeds] for name in names]

    def _seeds(self, metric: str, *names: str) -> list[int]:
        known = [self._values(metric, name) for name in names]
        return [seed for seed in known[0] if all(seed in one for one in known)]


def tidy(results: Results) -> str:
    """CSV: variant, seed, metric, value; an undefined value is left empty."""
    lines = [
        (one.variant, one.seed, metric, one.values.get(metric))
        for one in sorted(results.courses, key=lambda one: ([row.name for row in results.variants].index(one.variant), one.seed))
        for metric in (*results.results, *COSTS)
    ]
    return _csv(("variant", "seed", "metric", "value"), lines)


def summed(results: Results) -> str:
    """CSV with one line per variant and metric: everything that the page says of it."""
    head = (
        "metric", "variant", "seeds", "mean", "low", "high", "baseline", "pairs", "difference", "t_low", "t_high",
        "p_exact", "p_exact_holm", "p_t", "p_t_holm", "verdict", "gap_closed", "gap_low", "gap_high", "resampled", "low_difference",
        "high_difference", "reference", "loss", "loss_low", "loss_high",
    )  # fmt: skip
    lines = []
    for metric, table in results.tables.items():
        gaps = results.gaps(metric) if metric in results.results else {}
        losses = {one.variant: one for one in results.losses(metric)} if metric in results.results else {}
        for row in table:
            pair, gap = row.against, gaps.get(row.variant)
            low, high = row.interval or (None, None)
            under, over = (pair.interval if pair else None) or (None, None)
            left, right = (gap.interval if gap else None) or (None, None)
            lost = losses.get(row.variant)
            resampled = "" if row.interval is None else "seeds and patients" if row.persons else "seeds"
            lines.append((
                metric, row.variant, len(row.values), row.mean, low, high, results.baseline if pair else None, pair and pair.count,
                pair and pair.mean, under, over, pair and pair.exact, row.exact, pair and pair.t, row.t,
                row.verdict and row.verdict.word, gap and gap.share, left, right, resampled, *(row.apart or (None, None)),
                lost and results.reference, lost and lost.value, *((lost and lost.interval) or (None, None)),
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


def targets(text: str | None, lead: Lead = ACCURACY) -> tuple[str, float | None]:
    """ "f1=0.9" as metric and value, "f1" as a metric alone; that of `lead` if not given. Raises UsageError E613."""
    from p2pftl.errors import UsageError, nearest

    name, equals, value = (text or lead.key).partition("=")
    known = [metric for metric in tabled(lead) if metric in SCORED]
    if name not in known:
        raise UsageError("E613", f"--target {text}: no metric {name}", fix=nearest(name, known))
    if not equals:
        return name, None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise UsageError("E613", f"--target {text}: the value lies in [0, 1]", fix=f"for example --target {name}=0.9")
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
