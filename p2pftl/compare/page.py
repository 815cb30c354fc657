"""The comparison as one HTML page that needs no network: headline, tables with what may be claimed, curves, targets, confusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean

from p2pftl.compare import drawing, grids, units
from p2pftl.compare.course import COSTS, STAY, Evaluation
from p2pftl.compare.statistics import ALPHA, Gap, Limits
from p2pftl.compare.table import SHARE, Arrival, Results, Row, headline
from p2pftl.observe import charts
from p2pftl.observe.lead import FOUND
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.report import POLICY
from p2pftl.observe.units import NOTHING, figure, seconds, signed, size, some

NAMES = {
    "accuracy": "Accuracy", "balanced_accuracy": "Balanced accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1",
    "auroc": "AUROC", "worst_accuracy": "Accuracy of the weakest twin", "bytes_sent": "Bytes sent", "virtual_seconds": "Virtual time",
    "visits": "Images seen in training",
    "map": "mAP@0.5:0.95", "map_50": "mAP@0.5", "map_70": "mAP@0.7", "map_75": "mAP@0.75", "map_strict": "mAP@0.7:0.95",
    "worst_map_50": "mAP@0.5 of the weakest twin",
    "probe": "Linear probe", "probe_start": "Linear probe of the encoder at the start", "worst_probe": "Linear probe of the weakest twin",
    "gain": "Share of masked pixels' error removed", "worst_gain": "Share of masked pixels' error removed, weakest twin",
    "patient_accuracy": "Accuracy by patient", "patient_balanced_accuracy": "Balanced accuracy by patient",
    "patient_precision": "Precision by patient", "patient_recall": "Recall by patient", "patient_f1": "F1 by patient",
}  # fmt: skip
UNITS: Mapping[str, Callable[[float], str]] = {"bytes_sent": size, "virtual_seconds": seconds, "visits": lambda value: f"{value:,.0f}"}
AXES: tuple[tuple[str, Callable[[Evaluation], float]], ...] = (
    (drawing.ROUND, lambda one: float(one.round)),
    ("virtual time, s", lambda one: one.t),
    ("megabytes sent by all", lambda one: one.bytes / 1e6),
)


@dataclass(frozen=True)
class About:
    """What the page says of the comparison itself.

    metric, target: what learning curves and arrivals are about; uneven: variant -> what it has otherwise than the baseline;
    failed: cell -> why; command: makes this page again; unit: "twins" where differences are tested over the twins as well.
    """

    name: str
    kind: str
    metric: str
    target: float | None
    uneven: Mapping[str, Sequence[str]]
    failed: Mapping[str, str]
    command: str
    unit: str = "seeds"


def page(results: Results, about: About) -> str:
    """Return the whole document."""
    grid = grids.section(results, about.metric, _small(about.metric))
    parts = [_header(results, about), grid, _tables(results), _losses(results), _learning(results, about), _arrivals(results, about)]
    parts += [units.section(results, NAMES)] if about.unit == "twins" else []
    parts += [_confusions(results), _costs(results), _footing(results, about), _method(results, about)]
    style = files("p2pftl.observe").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        tag("meta", charset="utf-8"),
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", words(f"{about.name}: p2pftl {about.kind}")),
        tag("style", style + "table.said td:last-child { white-space: normal; min-width: 200px; }\n" + (grids.STYLE if grid else "")),
    )
    body = tag("main", "\n".join(parts))
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", body), lang="en") + "\n"


def _header(results: Results, about: About) -> str:
    badge = tag("span", "synthetic data", class_="badge") if results.synthetic else ""
    top = tag("p", words(f"p2pftl {about.kind}"), class_="over") + tag("h1", words(about.name), " ", badge)
    one, lead = results.courses[0], results.lead
    rows = results.tables[lead.key]
    setting = (
        f"{some(len(rows), 'variant')}, {some(len(results.seeds), 'seed')}, {some(len(results.courses), 'run')}; "
        f"{one.test} test images, common to all twins. Differences are taken to {results.baseline}, seed by seed."
    )
    setting += f" Only these twins' results count: {results.chosen}." if results.chosen.names else ""
    gaps = results.gaps()
    said = "".join(tag("p", words(line), class_="lead") for line in (headline(results, gaps) or [_verdicts(results)]))
    failed = [f"{cell}: {reason}" for cell, reason in about.failed.items()]
    said += tag("p", words(f"{some(len(failed), 'run')} failed and is missing: {'; '.join(failed)}"), class_="warning") if failed else ""
    said += tag("p", words(setting), class_="note")
    index = _colours(results)
    drawn = drawing.means(f"Test {lead.name}: seeds, mean, 95 % interval", [(index[row.variant], row) for row in rows])
    side = tag("dl", *_figures(results, gaps), class_="figures")
    return tag("header", top, said) + tag("div", side, tag("figure", drawn), class_="beside")


def _figures(results: Results, gaps: Mapping[str, Gap]) -> list[str]:
    def one(name: str, value: str, under: str) -> str:
        return tag("div", tag("dt", words(name)), tag("dd", words(value), tag("small", words(under))))

    shown = []
    best = max(gaps, key=lambda name: -math.inf if (share := gaps[name].share) is None else share, default="")
    for name, gap in [(best, gaps[best])] if best else []:
        under = f"95 % interval {100 * gap.interval[0]:.0f} to {100 * gap.interval[1]:.0f} %" if gap.interval else gap.reason
        shown.append(one(f"gap closed by {name}", NOTHING if gap.share is None else f"{100 * gap.share:.0f} %", under))
    known: Mapping[str | None, Row] = {row.variant: row for row in results.tables[results.lead.key]}
    ends = [end for end in dict.fromkeys([results.baseline, results.bound("lower"), results.bound("upper")]) if end in known]
    shown += [one(str(end), figure(known[end].mean), f"{results.lead.name}, {_within(known[end].interval)}") for end in ends]
    return shown[:4]


def _verdicts(results: Results) -> str:
    """The baseline against the others in a sentence."""
    table = [row for row in results.tables[results.lead.key] if row.verdict]
    groups = [(word, [row.variant for row in table if row.verdict and row.verdict.word == word]) for word in ("better", "worse")]
    told = [f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {word}" for word, names in groups if names]
    rest = len(table) - sum(len(names) for _, names in groups)
    told += [f"{some(rest, 'variant')} cannot be told apart from it"] if rest else []
    return f"On test {results.lead.name}, against {results.baseline}: {'; '.join(told) or 'nothing to compare'}."


def _tables(results: Results) -> str:
    drawn = [tag("h3", words(NAMES[metric] + _whose(results))) + _table(results, results.tables[metric]) for metric in results.results]
    rows = [row for metric in results.results for row in results.tables[metric]]
    over = "over the seeds and, within each, the test patients (where no single answers are known, and for AUROC and the weakest twin, "
    over = f"{over}over the seeds alone)" if any(row.persons for row in rows) else "over the seeds"
    text = (
        f"Means over {results.chosen} on the common test images; interval: 95 %, by bootstrap {over}. Difference: to "
        f"{results.baseline} on the same seeds, with the 95 % interval of Student's t, which is over the seeds alone, and where it can be "
        "told the one by bootstrap over seeds and patients. Both p values are two-sided and corrected over the "
        "rows of their table by Holm's method; only the exact test (signs of the differences flipped) decides what is claimed."
    )
    if results.lead is FOUND:
        text += " mAP: average precision as COCO defines it, mean over the classes. Recall: share of the findings that any "
        text += "detection covers. Accuracy, and the confusion below, are of whole images."
    if any(metric.startswith("patient_") for metric in results.results):
        several = max(one.answers.several for one in results.courses if one.answers)
        text += " By patient: a patient is taken for the class of the highest mean probability over its images."
        text += f" {some(several, 'patient')} with images of several classes left out there." if several else ""
    return tag("section", tag("h2", "Results"), tag("p", words(text), class_="hint"), *drawn)


def _table(results: Results, rows: Sequence[Row]) -> str:
    if not any(row.values for row in rows):
        return tag("p", "Undefined for every run.", class_="note")
    best, apart = max(row.mean for row in rows if row.mean is not None), any(row.apart for row in rows)
    cells = []
    for row in rows:
        pair, mean = row.against, figure(row.mean)
        shown = tag("b", "▲ ", mean, class_="best") if row.mean == best and len(rows) > 1 else mean
        said = words(row.verdict.sentence) if row.verdict else ("the baseline" if row.variant == results.baseline else NOTHING)
        cells.append([
            words(row.variant), shown, _within(row.interval), str(len(row.values)),
            signed(pair.mean) if pair else "", _signed_within(pair.interval) if pair else "",
            *([_signed_within(row.apart) if pair else ""] if apart else []), _p(row.exact), _p(row.t), said,
        ])  # fmt: skip
    heads = ("variant", ">mean", ">interval", ">seeds", ">difference", ">t\u00a0interval", *([">with\u00a0patients"] if apart else []))
    heads = (*heads, ">exact\u00a0p", ">t\u00a0test\u00a0p", "so it is")
    return table(heads, cells, "said")


def _losses(results: Results) -> str:
    """What is lost against the reference, and how much of it the baseline loses."""
    if results.reference is None:
        return ""
    drawn = []
    for metric in results.results:
        rows = [[words(one.variant), f"{one.value:+.3f}", _signed_within(one.interval)] for one in results.losses(metric)]
        said = "".join(tag("p", words(one.sentence(_small(metric), results.reference))) for one in results.ratios(metric))
        if rows:
            drawn.append(tag("h3", words(NAMES[metric] + _whose(results))) + table(("variant", ">loss", ">interval"), rows) + said)
    text = (
        f"Mean of {results.reference} minus mean of the variant, on the same seeds; below 0 it gains. Intervals: 95 %, by bootstrap, over "
        "seeds and patients where single answers are known, else over the seeds. A share of a loss is told against half of it only where "
        "the whole loss is shown, and where its interval lies on one side of a half."
    )
    return tag("section", tag("h2", words(f"Loss against {results.reference}")), tag("p", words(text), class_="hint"), *drawn)


def _whose(results: Results) -> str:
    return f" ({results.chosen})" if results.chosen.names else ""


def _learning(results: Results, about: About) -> str:
    if sum(len(row.point) > 1 for row in results.variants) > grids.MANY:
        return ""  # they stand with the grid, a few in each drawing
    index = _colours(results)
    drawn = []
    for across, of in AXES:
        bundles = [(index[name], drawing.bundle(name, list(results.by[name].values()), about.metric, of)) for name in index]
        if any(one.points for _, one in bundles):
            drawn.append(tag("figure", drawing.curves(f"Test {_small(about.metric)}", across, bundles)))
    text = (
        f"Mean over {results.chosen} after each round; the line is the mean over the seeds, the band goes from the lowest seed to the "
        "highest. "
        "Bytes count every frame once at its sender, lost ones and the cloud's included; who sends nothing is a level line."
    )
    key = drawing.key(index)
    return tag("section", tag("h2", "Learning"), tag("p", words(text), class_="hint"), key, tag("div", *drawn, class_="grid2"))


def _arrivals(results: Results, about: About) -> str:
    rows = [_arrival(one) for one in results.arrivals(about.metric, about.target)]
    text = (
        f"The first of {STAY} evaluations in a row with a mean test {_small(about.metric)} at the target or above. Medians over all runs: "
        "a run that did not get there counts as later than any that did. "
    )
    if about.target is None:
        text += f"{100 * SHARE:g} % of its own best says how fast, not how well; --target {about.metric}=0.9 gives one target for all."
    heads = ("variant", "target", ">reached by", ">rounds", ">virtual time", ">bytes")
    return tag("section", tag("h2", "Time and bytes to a target"), tag("p", words(text), class_="hint"), table(heads, rows))


def _arrival(one: Arrival) -> list[str]:
    late = f"not in {one.cap:g}"
    return [
        words(one.variant), words(one.what), f"{one.reached} of {one.runs}",
        late if one.rounds is None else f"{one.rounds:g}", NOTHING if one.seconds is None else seconds(one.seconds),
        NOTHING if one.bytes is None else size(one.bytes),
    ]  # fmt: skip


def _confusions(results: Results) -> str:
    drawn = []
    for name, cells in results.by.items():
        known = [one for one in cells.values() if one.confusion]
        if not known:
            continue
        summed = [[fmean(cell) for cell in zip(*rows, strict=True)] for rows in zip(*(one.confusion for one in known), strict=True)]
        classes = known[0].classes
        cell = max(26.0, min(48.0, 250.0 / max(1, len(classes))))
        picture = charts.matrix(summed, classes, classes, cell, shares=False)
        drawn.append(tag("figure", picture, tag("figcaption", tag("b", words(name)))))
    if not drawn:
        return ""
    text = "Rows are the true class, columns what was predicted: images per seed, summed over the twins of a run (the pooled twin is one)."
    grid = tag("div", *drawn, class_="multiples", style="grid-template-columns:repeat(auto-fill,minmax(190px,1fr))")
    return tag("section", tag("h2", "Confusion"), tag("p", text, class_="hint"), grid)


def _costs(results: Results) -> str:
    names = [row.variant for row in results.tables[results.lead.key]]
    means = {metric: {row.variant: row.mean for row in results.tables[metric]} for metric in COSTS}
    rows = []
    for name in names:
        shown = [(metric, means[metric].get(name)) for metric in COSTS]
        rows.append([words(name), *(NOTHING if value is None else UNITS[metric](value) for metric, value in shown)])
    heads = ("variant", *(f">{NAMES[metric].lower()}" for metric in COSTS))
    return tag("section", tag("h2", "What it took"), tag("p", "Means over the seeds.", class_="hint"), table(heads, rows))


def _footing(results: Results, about: About) -> str:
    visits = results.visits()
    rows = []
    for row in results.variants:
        if not results.by[row.name]:
            continue
        apart = list(about.uneven.get(row.name, ()))
        share = visits.get(row.name)
        if share is not None and abs(share - 1) > 0.01:
            apart.append(f"saw {100 * share:.0f} % of the images that {results.baseline} saw")
        said = "; ".join(apart) or ("the baseline" if row.name == results.baseline else "as the baseline")
        rows.append([words(row.name), words(row.about), words(said)])
    text = (
        "Checked for every seed before anything ran: first parameters, test images, studies and who holds them, rounds, and images per "
        "round. The images seen were counted afterwards."
    )
    drawn = table(("variant", "what it changes", "what it starts from"), rows, "said")
    return tag("section", tag("h2", "Same footing"), tag("p", text, class_="hint"), drawn)


def _method(results: Results, about: About) -> str:
    several = f"{ALPHA:.2g}"
    text = (
        "An interval over seeds tells how much the result depends on the partition, the first head, the order and the network's "
        "weather; one over patients, how much on who was tested: test images are common to all variants of a seed. "
        "The tests are over seeds. "
        f"With n seeds the exact test cannot give a p below 2 / 2^n: 6 seeds are the fewest that can fall below {several} for one row, "
        "more for several rows."
    )
    if results.synthetic:
        text += " All images are synthetic: patients and scanners are models, and nothing here is a claim about real ones."
    return tag("section", tag("h2", "Run it again"), tag("p", words(text), class_="hint"), tag("pre", words(about.command)))


def _colours(results: Results) -> dict[str, int]:
    """Variant -> its place, which gives its colour."""
    return {row.name: place for place, row in enumerate(results.variants) if results.by[row.name]}


def _small(metric: str) -> str:
    return NAMES[metric] if metric in ("f1", "auroc") or metric.startswith("map") else NAMES[metric].lower()


def _within(limits: Limits | None) -> str:
    return f"{limits[0]:.3f} to {limits[1]:.3f}" if limits else "one seed"


def _signed_within(limits: Limits | None) -> str:
    return f"{limits[0]:+.3f} to {limits[1]:+.3f}" if limits else NOTHING


def _p(value: float | None) -> str:
    return "" if value is None else "&lt; 0.001" if value < 0.001 else f"{value:.3f}"
