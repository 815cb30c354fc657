"""The twin as the unit: where every twin has a question of its own, twins are what a difference is tested over, not seeds.

Seeds of one twin are no further twins, so a twin's value is its mean over the seeds (ALGORITHMS.md section 8).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from p2pftl.compare.course import Course
from p2pftl.compare.statistics import ALPHA, Word, holm
from p2pftl.compare.table import Results
from p2pftl.imaging.domains import Domains
from p2pftl.learning.universal.ranks import compared
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.units import NOTHING, figure, signed

SHOWN = ("balanced_accuracy", "accuracy", "f1")
"""What is tested over twins beside what the runs are told by."""


@dataclass(frozen=True)
class OverTwins:
    """One variant against another over the twins. pairs: twin -> value of either, mean over the seeds; difference: mean of the first
    minus the second; p: two-sided, Wilcoxon's signed ranks, exact; holm: after Holm's correction over the rows; None without a twin."""

    metric: str
    variant: str
    other: str
    pairs: Mapping[str, tuple[float, float]]
    difference: float | None
    p: float | None
    holm: float | None = None

    @property
    def word(self) -> Word:
        if self.holm is None or self.holm >= ALPHA or not self.difference:
            return "undecided"
        return "better" if self.difference > 0 else "worse"

    @property
    def sentence(self) -> str:
        """What may be claimed, and why no more."""
        if self.holm is None:
            return "undecided: no twin has both"
        if self.word != "undecided":
            return f"{self.word} (p {_p(self.holm)})"
        count, least = len(self.pairs), 2.0 ** (1 - len(self.pairs))
        return f"undecided: p is {_p(self.holm)}" if least < ALPHA else f"undecided: {count} twins cannot show it (least p {_p(least)})"


def over_twins(results: Results, metric: str) -> list[OverTwins]:
    """Every variant against the baseline, over the twins that both have on their common seeds."""
    base = results.by[results.baseline]
    found = []
    for row in results.variants:
        mine = results.by[row.name]
        seeds = sorted(mine.keys() & base.keys())
        if row.name != results.baseline and seeds:
            values = [_means([one[seed] for seed in seeds], metric) for one in (mine, base)]
            found.append(_tested(metric, row.name, results.baseline, values[0], values[1]))
    return _corrected(found)


def left_out(results: Results) -> OverTwins | None:
    """What the encoder at the end knows of the domain that a variant left out, against the one it began with; over such variants.

    None below two of them: a sweep over `data.left_out` makes as many as there are domains.
    """
    ends: dict[str, float] = {}
    starts: dict[str, float] = {}
    for row in results.variants:
        source = row.scenario.data.source
        if not isinstance(source, Domains) or source.left_out is None:
            continue
        courses, names = list(results.by[row.name].values()), row.scenario.topology.build(row.scenario.seed).names
        twin = next(name for name in names if source.is_left_out(name, names))
        probes = [_means(courses, metric).get(twin) for metric in ("probe", "probe_start")]
        if probes[0] is not None and probes[1] is not None:
            ends[source.left_out], starts[source.left_out] = probes[0], probes[1]
    if len(ends) < 2:
        return None
    return _corrected([_tested("probe", "the encoder at the end", "the one at the start", ends, starts)])[0]


def tables(results: Results) -> list[list[OverTwins]]:
    """One list per metric that is tested over twins; of domains left out in turn one list only: their variants differ in who is tested."""
    turn = left_out(results)
    if turn:
        return [[turn]]
    metrics = dict.fromkeys((results.lead.key, *SHOWN))
    found = [over_twins(results, metric) for metric in metrics if metric in results.results]
    return [rows for rows in found if any(row.pairs for row in rows)]


def said(results: Results) -> Iterator[str]:
    """Lines for the terminal."""
    for rows in tables(results):
        if rows[0].metric == results.lead.key:
            yield f"{results.lead.name} over {len(rows[0].pairs)} twins, differences to {rows[0].other}, Wilcoxon's signed ranks:"
            yield from (f"  {row.variant}  {signed(row.difference)}  {row.sentence}" for row in rows)


def section(results: Results, names: Mapping[str, str]) -> str:
    """The same for the page, with every twin's value. names: metric -> what it is called."""
    drawn = []
    for rows in tables(results):
        first = rows[0]
        twins = sorted({twin for row in rows for twin in row.pairs})
        heads = ("variant", *(f">{twin}" for twin in twins), ">difference", ">p", ">Holm\u00a0p", "so it is")
        base = {twin: pair[1] for row in rows for twin, pair in row.pairs.items()}
        cells = [[words(first.other), *(figure(base.get(twin)) for twin in twins), "", "", "", "the baseline"]]
        for row in rows:
            mine = [figure(row.pairs[twin][0]) if twin in row.pairs else NOTHING for twin in twins]
            cells.append([words(row.variant), *mine, signed(row.difference), _p(row.p), _p(row.holm), words(row.sentence)])
        drawn.append(tag("h3", words(names.get(first.metric, first.metric))) + table(heads, cells, "said"))
    text = (
        "Each twin's value is its mean over the seeds. Differences are tested over the twins by Wilcoxon's signed ranks, exact and "
        "two-sided, and corrected over the rows by Holm's method. n twins cannot give a p below 2^(1-n)."
    )
    return tag("section", tag("h2", "Over the twins"), tag("p", text, class_="hint"), *drawn)


def text(results: Results) -> str:
    """CSV: metric, variant, twin, its value and the baseline's (means over the seeds), then the row's test."""
    whole = io.StringIO()
    writer = csv.writer(whole, lineterminator="\n")
    writer.writerow(("metric", "variant", "baseline", "twin", "value", "baseline_value", "twins", "difference", "p", "p_holm", "verdict"))
    for rows in tables(results):
        for row in rows:
            test = (len(row.pairs), row.difference, row.p, row.holm, row.word)
            for twin, (mine, theirs) in sorted(row.pairs.items()):
                line = (row.metric, row.variant, row.other, twin, mine, theirs, *test)
                writer.writerow([f"{cell:.10g}" if isinstance(cell, float) else cell for cell in line])
    return whole.getvalue()


def _means(courses: Sequence[Course], metric: str) -> dict[str, float]:
    """Twin -> mean over the courses in all of which it has the metric."""
    twins = set.intersection(*(set(one.each) for one in courses)) if courses else set()
    values = {twin: [value for one in courses if (value := one.each[twin].get(metric)) is not None] for twin in sorted(twins)}
    return {twin: fmean(found) for twin, found in values.items() if len(found) == len(courses)}


def _tested(metric: str, variant: str, other: str, mine: Mapping[str, float], theirs: Mapping[str, float]) -> OverTwins:
    pairs = {twin: (mine[twin], theirs[twin]) for twin in mine if twin in theirs}
    if not pairs:
        return OverTwins(metric, variant, other, pairs, None, None)
    found = compared({twin: pair[0] for twin, pair in pairs.items()}, {twin: pair[1] for twin, pair in pairs.items()})
    return OverTwins(metric, variant, other, pairs, found.difference, found.p)


def _corrected(rows: Sequence[OverTwins]) -> list[OverTwins]:
    return [replace(row, holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]


def _p(value: float | None) -> str:
    return "" if value is None else "below 0.001" if value < 0.001 else f"{value:.3f}"
