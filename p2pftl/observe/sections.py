"""The sections of the report, each a function from what happened to markup."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pftl.observe import charts, scenes, story
from p2pftl.observe.board import CLOUD
from p2pftl.observe.charts import Plot, lines_of
from p2pftl.observe.history import Curves, History, Span, by_round, by_time
from p2pftl.observe.lead import ACCURACY, Lead, told_by
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.summary import FOUND, METRICS, PROBED, RESTORED, Document
from p2pftl.observe.units import NOTHING, clock, figure, owned, said, scanner, seconds, signed, size

SLICES, SLICE_BYTES = 24, 900_000
LISTED = 100
NAMES = {
    "balanced_accuracy": "balanced acc.", "auroc": "AUROC", "f1": "F1", "map": "mAP@0.5:0.95", "map_50": "mAP@0.5", "map_70": "mAP@0.7",
    "map_75": "mAP@0.75", "map_strict": "mAP@0.7:0.95", "probe": "linear probe", "probe_start": "probe at start", "gain": "error removed",
}  # fmt: skip
TOLD = {"map_50": (*FOUND, "recall", "accuracy"), "probe": (*PROBED, *METRICS), "gain": RESTORED}
"""Columns of the table of twins, by what the run is told by; METRICS else."""


@dataclass(frozen=True)
class Told:
    """What a report is made of."""

    document: Document
    history: History
    control: History | None
    spans: list[Span]
    previews: Sequence[tuple[str, Path]]
    source: str = ""  # where the report of the source task is, from here

    @property
    def synthetic(self) -> bool:
        return bool(self.history.board.plan and self.history.board.plan.synthetic)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.history.board.plan.facts if self.history.board.plan else {}


def headline(told: Told) -> str:
    """The run in words, its key figures, and who gained from the exchange."""
    document, history = told.document, told.history
    badge = tag("span", "synthetic data", class_="badge") if told.synthetic else ""
    top = tag("p", "p2pftl report", class_="over") + tag("h1", words(document["name"] or "run"), " ", badge)
    lead = tag("p", words(story.setting(history)), class_="lead") + tag("p", words(story.outcome(document, history)), class_="lead")
    end = story.ending(document)
    lead += tag("p", words(end), class_="warning") if end else ""
    lead += _source(told)
    note = story.caution(document)
    lead += tag("p", words(note), class_="note") if note else ""
    control, main = document.get("control"), told_by(document)
    gains = [
        (name, _score(told.control.board.rows[name].metrics if name in told.control.board.rows else {}, main), twin["test"].get(main.key))
        for name, twin in document["twins"].items()
    ] if told.control else []  # fmt: skip
    figures = tag("dl", *_figures(document, control), class_="figures")
    if 0 < len(gains) <= 60:
        hint = legend(("ring", "without exchange"), ("dot", "with exchange"))
        figures = tag("div", figures, tag("figure", charts.dumbbells(gains, main.name), hint), class_="beside")
    return tag("header", top, lead) + figures


def learning(told: Told) -> str:
    """Curves over virtual time and over rounds, on the test set, on validation data, and the training loss."""
    history, control = told.history, told.control
    drawn = []
    for split in ("test", "validation"):
        other = control.scores[split] if control else {}
        drawn += _pair_of_plots(told, f"{split.capitalize()} {history.board.lead.name}", history.scores[split], other)
    drawn += _pair_of_plots(told, "Training loss", history.losses, control.losses if control else {})
    hint = legend(
        ("mean", "mean of the twins"),
        ("band", "lowest to highest"),
        *([("thin", "each twin")] if len(history.board.rows) <= charts.THIN else []),
        *([("other", "mean without exchange")] if control else []),
    )
    text = "Each twin is scored with its own model. Numbers on top of the time axis are the incidents of the timeline below."
    if not drawn:
        return tag("section", tag("h2", "Learning"), tag("p", "Too few rounds were done to draw a curve."))
    return tag("section", tag("h2", "Learning"), tag("p", text, class_="hint"), hint, tag("div", *drawn, class_="grid2"))


def network(told: Told) -> str:
    """The topology with what it carried, its facts, and who learnt from whom."""
    facts = told.facts.get("topology", {})
    rows = [
        (key, words(shown))
        for key, shown in (
            ("kind", str(facts.get("kind", NOTHING)).replace("_", " ") + ("" if facts.get("static", True) else ", changes each round")),
            ("twins, edges", f"{facts.get('twins', NOTHING)}, {facts.get('edges', NOTHING)}"),
            ("diameter", facts.get("diameter", NOTHING)),
            (
                "degree, lowest, mean, highest",
                ", ".join(f"{facts[f'degree_{key}']:g}" for key in ("min", "mean", "max") if f"degree_{key}" in facts),
            ),
            ("mixing", facts.get("mixing", NOTHING)),
            ("spectral gap", figure(facts.get("spectral_gap"), 4)),
            ("consensus distance at the end", _scientific(told.document.get("consensus_distance"))),
        )
    ]
    picture = tag("figure", scenes.topology(told.history))
    side = tag("div", table(("graph", ">"), rows, "facts"), _influence(told))
    text = "Edges are darker and wider the more bytes they carried; dotted ones carried none. Twins are coloured by their last "
    text += f"{told.history.board.lead.name}."
    return tag("section", tag("h2", "Who learnt from whom"), tag("p", text, class_="hint"), tag("div", picture, side, class_="beside"))


def incidents(told: Told) -> str:
    """The timeline, and each incident with how it was survived."""
    items = [
        tag("li", tag("b", words(story.when(span)), " ") if story.when(span) else "", words(text), value=span.number)
        for span, text in story.trouble(told.history, told.spans)
    ]
    unfit = story.rejected(told.history)
    told_ = tag("ol", *items, class_="incidents") if items else tag("p", "Nothing went wrong, and nothing was scripted to.")
    hint = legend(
        ("fit", "local fit"),
        ("up", "present"),
        ("round", "end of a round"),
        ("down", "switched off"),
        ("dead", "process dead"),
        ("overlay", "other incident"),
    )
    figure_ = tag("figure", scenes.timeline(told.history, told.spans), class_="full")
    note = (
        ""
        if len(told.history.board.rows) <= scenes.ROWS
        else tag("p", f"The {scenes.ROWS} most eventful of {len(told.history.board.rows):,} twins.", class_="hint")
    )
    return tag("section", tag("h2", "Timeline"), note, hint, figure_, tag("h3", "What happened"), told_, tag("p", unfit) if unfit else "")


def twins(told: Told) -> str:
    """Two tables: the scores of every twin, and what it is."""
    document = told.document
    lead = told_by(document)
    metrics = TOLD.get(lead.key, METRICS)
    columns = {metric: [twin["test"].get(metric) for twin in document["twins"].values()] for metric in metrics}
    limits = {metric: _limits(values) for metric, values in columns.items()}
    heads = [
        "twin",
        *(f">{NAMES.get(metric, metric)}" for metric in metrics),
        f">val. {'acc.' if lead is ACCURACY else lead.name}",
        *([">gain"] if told.control else []),
        ">rounds",
        ">sent",
        "state",
    ]
    rows = []
    names = _listed(document)
    for name in names:
        twin = document["twins"][name]
        cells = [
            words(name),
            *(_marked(twin["test"].get(metric), limits[metric]) for metric in metrics),
            figure(twin["validation"].get(lead.key)),
        ]
        if told.control:
            alone = told.control.board.rows.get(name)
            cells.append(_gain(twin["test"].get(lead.key), _score(alone.metrics, lead) if alone else None))
        again = f" #{twin['incarnation']}" if twin["incarnation"] > 1 else ""
        rows.append([*cells, str(twin["rounds"]), size(twin["bytes_sent"]), words(twin.get("state", "") + again)])
    text = (
        f"▲ best and ▼ lowest of a column; gain: test {lead.name} above the same twin without exchange; "
        "#2: second incarnation, after a crash."
    )
    if len(names) < len(document["twins"]):
        text += f" The {len(names)} weakest and strongest of {len(document['twins']):,}; summary.json has all."
    top = tag("h2", "Every twin"), tag("p", text, class_="hint"), table(heads, rows)
    return tag("section", *top, tag("h3", "Scanners and shards"), _scanners(told, names))


def slices(told: Told) -> str:
    """One slice per scanner configuration."""
    shown: list[str] = []
    seen: set[str] = set()
    budget = SLICE_BYTES
    for name, file in told.previews:
        configuration = told.facts.get("twins", {}).get(name, {}).get("scanner") or {}
        key = repr(sorted(configuration.items())) if configuration and file.stem == name else file.stem
        data = file.read_bytes()
        if key in seen or len(data) > budget or len(shown) == SLICES:
            continue
        seen.add(key)
        budget -= len(data)
        image = tag("img", src=f"data:image/png;base64,{base64.b64encode(data).decode()}", alt=f"sample slice of {name}")
        mark = tag("span", "synthetic", class_="badge") if told.synthetic else ""
        thick = configuration.get("slice_mm")
        text = ", ".join(filter(None, (scanner(configuration), "" if thick is None else f"{thick:g}\u00a0mm")))
        shown.append(tag("figure", tag("div", image, mark, class_="slice"), tag("figcaption", tag("b", words(name)), " ", words(text))))
    if not shown:
        return ""
    kind = (
        "Synthetic sample slices, as each scanner twin would acquire them."
        if told.synthetic
        else "Sample slices, one per scanner configuration."
    )
    if told_by(told.document).key in FOUND:
        kind += " Green: findings. Orange: the twin's surest detections in test images at the end, as many as there are findings."
    return tag("section", tag("h2", "What the scanners see"), tag("p", kind, class_="hint"), tag("div", *shown, class_="slices"))


def again(told: Told) -> str:
    """How to get the same run, and what it was made with."""
    document, facts, source = told.document, told.facts, told.facts.get("source")
    executor = f" --executor {document['executor']}" if document.get("executor") in ("local", "ray") else ""
    command = tag("pre", words(f"p2pftl run scenario.yaml{executor}\np2pftl replay .\np2pftl report ."))
    text = "In the folder of this run. The first command gives the same digest with any executor and any number of workers."
    model, data = facts.get("model", {}), facts.get("data", {})
    left = [
        ("seed", words(document["seed"])), ("digest", tag("code", words(document["digest"]))), ("executor", words(document["executor"])),
        ("virtual time", seconds(document["virtual_seconds"])), ("wall time", clock(document["wall_seconds"])),
        *((f"version of {words(name)}", words(version)) for name, version in sorted(document.get("versions", {}).items())),
    ]  # fmt: skip
    left += [(f"source {words(key)}", words(said(str(value) if key == "seed" else value))) for key, value in (source or {}).items()]
    right = [(words(key), words(said(value))) for key, value in sorted(facts.get("policies", {}).items())]
    right += [(f"model {words(key)}", words(said(value))) for key, value in model.items()]
    right += [(f"data {words(key)}", words(said(value))) for key, value in data.items() if key != "classes"]
    tables = tag("div", table(("run", ""), left, "facts"), table(("made of", ""), right, "facts"), class_="grid2")
    return tag("section", tag("h2", "Run it again"), tag("p", text, class_="hint"), command, tables)


def _source(told: Told) -> str:
    """What ran first, and where its report is."""
    source = told.facts.get("source")
    if not source:
        return ""
    text = story.source(source)
    link = tag("a", "Its report", href=f"{told.source}") if told.source else ""
    return tag("p", words(text), " ", link, *(["."] if link else []), class_="lead")


def _figures(document: Document, control: Document | None) -> list[str]:
    def one(name: str, value: str, under: str = "") -> str:
        return tag("div", tag("dt", words(name)), tag("dd", words(value), tag("small", words(under)) if under else ""))

    mean, lost, lead = document["mean"], document["frames"], told_by(document)
    shown = [
        one(f"mean test {lead.name}", figure(mean.get(lead.key)), ", ".join(f"{name} {figure(mean.get(key))}" for name, key in lead.beside))
    ]
    if control:
        limits = control["interval"][lead.key]
        under = f"95 % interval {signed(limits[0])} to {signed(limits[1])}" if limits else ""
        shown += [
            one("without exchange", figure(control["mean"].get(lead.key))),
            one("margin", signed(control["margin"][lead.key]), under),
        ]
    shown.append(one("sent", size(document["bytes_sent"]), f"{lost['sent']:,} frames, {lost['lost']:,} lost, {lost['refused']:,} refused"))
    shown.append(
        one("virtual time", seconds(document["virtual_seconds"]), f"{clock(document['wall_seconds'])} wall, {document['rounds']} rounds")
    )
    return shown


def _pair_of_plots(told: Told, name: str, curves: Curves, other: Curves) -> list[str]:
    marks = [(span.start, span.number, span.text) for span in told.spans] if len(told.spans) <= 12 else []
    rounds, times = by_round(curves), by_time(curves)
    if len(rounds) < 2:
        return []
    over_time = Plot(name, "virtual time, s", times, lines_of(curves, "time"), by_time(other), marks)
    over_rounds = Plot(name, "round", rounds, lines_of(curves, "round"), by_round(other))
    return [tag("figure", charts.curves(plot)) for plot in (over_time, over_rounds)]


def _influence(told: Told) -> str:
    """Mean weight that each twin (row) gave to each (column) when merging."""
    names = [*told.history.board.rows, *([CLOUD] if told.history.board.cloud else [])]
    if not told.history.influence or len(names) > 26:
        return ""
    rows = [[told.history.influence.get((receiver, sender), 0.0) for sender in names] for receiver in names if receiver != CLOUD]
    cell = max(14.0, min(34.0, 330.0 / len(names)))
    drawn = charts.matrix(
        rows, [_tail(name) for name in names] if cell >= 20 else (), [name for name in names if name != CLOUD], cell, shares=True
    )
    return tag("figure", drawn, tag("figcaption", "weight that a twin (row) gave to whom (column), over all its merges"))


def _listed(document: Document) -> list[str]:
    """All twins, or of very many the weakest and the strongest."""
    names, lead = list(document["twins"]), told_by(document)
    if len(names) <= LISTED:
        return names
    order = sorted(names, key=lambda name: (document["twins"][name]["test"].get(lead.key) or 0.0, name))
    chosen = {*order[: LISTED // 2], *order[-LISTED // 2 :]}
    return [name for name in names if name in chosen]


def _scanners(told: Told, names: Sequence[str]) -> str:
    classes = told.history.board.plan.classes if told.history.board.plan else ()
    heads = (
        "twin",
        "vendor",
        "kernel",
        ">kVp",
        ">dose",
        ">slice, mm",
        ">offset, HU",
        ">speed",
        ">patients",
        ">train",
        ">val.",
        ">test",
        "labels",
        "neighbours",
    )
    rows = []
    for name in names:
        facts, shard = told.facts.get("twins", {}).get(name, {}), told.history.shards.get(name)
        device = facts.get("scanner") or (dict(shard.scanner) if shard else {})
        counts = list(facts.get("labels", {}).values()) or (list(shard.labels) if shard else [])
        held = [facts.get(key, getattr(shard, key, NOTHING)) for key in ("patients", "train", "validation", "test")]
        shown = [device.get(key) for key in ("vendor", "kernel", "kvp", "dose", "slice_mm", "hu_offset", "speed")]
        around = story.joined(facts.get("neighbours", ())) if facts.get("neighbours") else ""
        who = f"{name} ({owned(name, facts)})" if "domain" in facts else name
        cells = [who, *(NOTHING if value is None else f"{value:g}" if isinstance(value, float | int) else value for value in shown), *held]
        rows.append([*map(words, cells), charts.balance(counts, classes), words(around)])
    keys = "".join(tag("span", tag("i", class_=f"class-{i % 6}"), words(name)) for i, name in enumerate(classes))
    return table(heads, rows) + tag("p", keys, class_="legend")


def legend(*items: tuple[str, str]) -> str:
    return tag("p", *(tag("span", tag("i", class_=f"key {kind}"), words(text)) for kind, text in items), class_="legend")


def _score(metrics: Mapping[str, Mapping[str, Any]], lead: Lead) -> float | None:
    value = metrics.get("test", {}).get(lead.key)
    return None if value is None else float(value)


def _limits(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """The lowest and the highest value, each only if few share it."""
    known = [value for value in values if value is not None]
    few = max(1, len(known) // 4)
    if len(known) < 2:
        return None, None
    low, high = (edge if known.count(edge) <= few else None for edge in (min(known), max(known)))
    return low, high


def _marked(value: float | None, limits: tuple[float | None, float | None]) -> str:
    if value is None or value not in limits:
        return figure(value)
    best = value == limits[1]
    return tag("b", "▲ " if best else "▼ ", figure(value), class_="best" if best else "worst")


def _gain(mine: float | None, alone: float | None) -> str:
    return signed(mine - alone) if mine is not None and alone is not None else NOTHING


def _scientific(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) and not isinstance(value, bool) else NOTHING


def _tail(name: str) -> str:
    return name.rpartition("-")[2]
