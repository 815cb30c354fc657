"""The report's section on the transfer ledger: what every exchange gained its receiver, and what was refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from p2pftl.observe import charts
from p2pftl.observe.board import CLOUD
from p2pftl.observe.charts import Plot, lines_of
from p2pftl.observe.history import by_round
from p2pftl.observe.markup import drawing, label, table, tag, title, words
from p2pftl.observe.sections import NAMES, Told, legend
from p2pftl.observe.tally import Account, Tally, together
from p2pftl.observe.units import figure, signed, size, some

MOST = 26  # rows of the map: more would be a carpet
EDGES = 12

Edges = Mapping[tuple[str, str], Account]


def exchanges(told: Told) -> str:
    """Gain per receiver and sender, gain of whole merges by round, the worst edges; "" without a gate."""
    tally = told.history.board.tally
    if not tally.on:
        return ""
    tried = {edge: account for edge, account in tally.edges.items() if account.offered}
    head = tag("h2", "What the exchanges gained")
    if not tried:
        return tag("section", head, tag("p", "There was a gate, and nothing was offered to it."))
    metric = NAMES.get(tally.metric, tally.metric)
    text = f"Before a merge each twin tries what every sender offers, alone, on its own validation data. Gain: by how much its {metric} "
    text += f"{'falls' if tally.metric == 'loss' else 'rises'}; below 0 it is negative transfer. "
    text += "This is the moment of merging: what costs a little then may still pay after the next fit."
    said = [tag("p", words(one)) for one in findings(tally)]
    colours = legend(("bar", "the receiver gains"), ("bar-lost", "it loses"))
    drawn = tag("div", _map(told, tried), _by_round(told, metric), class_="grid2")
    return tag("section", head, tag("p", text, class_="hint"), *said, colours, drawn, tag("h3", "The worst edges"), _worst(tried))


def findings(tally: Tally) -> list[str]:
    """The ledger in sentences."""
    whole = together(tally.edges.values())
    refused = f"{_part(whole.refused, whole.offered)} refused" if whole.refused else "none refused"
    said = [f"{some(whole.offered, 'update')} offered, {refused}."]
    if whole.measured:
        said[0] += f" {_part(whole.negative, whole.measured)} would alone have made the receiver worse"
        said[0] += f"; the mean gain is {signed(whole.mean, 4)}."
    else:
        said[0] += " No twin had validation data to measure them on."
    if tally.merges:
        worse, mean = sum(gain < 0 for gain in tally.merges), sum(tally.merges) / len(tally.merges)
        said.append(f"{_part(worse, len(tally.merges))} merges as a whole made their twin worse; the mean gain is {signed(mean, 4)}.")
    known = [(account.mean, edge, account) for edge, account in tally.edges.items() if account.mean is not None]
    if known:
        gain, (receiver, sender), account = min(known, key=lambda one: one[:2])
        if gain < 0:
            of = f"{some(account.measured, 'exchange')} ({account.negative} negative, {account.refused} refused)"
            said.append(f"{receiver} lost most by {'the cloud' if sender == CLOUD else sender}: {signed(gain, 4)} on average over {of}.")
        else:
            said.append("On average no edge lost anything.")
    return said


def _part(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} ({100 * count / whole:.1f} %)"


def _map(told: Told, tried: Edges) -> str:
    """Mean gain of each receiver (row) by each sender (column)."""
    names = list(told.history.board.rows)
    if len(names) > MOST:
        return tag("p", f"No map of {len(names):,} twins; summary.json has every edge.", class_="hint")
    senders = [*names, *([CLOUD] if any(sender == CLOUD for _, sender in tried) else [])]
    drawn = _heat([[tried.get((receiver, sender)) for sender in senders] for receiver in names], senders, names)
    return tag("figure", drawn, tag("figcaption", "mean gain of a twin (row) by what came from whom (column); tint: square root of it"))


def _heat(cells: Sequence[Sequence[Account | None]], across: Sequence[str], down: Sequence[str]) -> str:
    """A matrix tinted both ways from 0."""
    cell = max(15.0, min(44.0, 420.0 / len(across)))
    most = max((abs(one.mean) for row in cells for one in row if one and one.mean), default=0.0)
    left, top, parts = 8.0 + 6.4 * max(map(len, down)), 24.0, []
    for j, name in enumerate(across if cell >= 20 else ()):
        parts.append(label(left + cell * (j + 0.5), top - 6, name if name == CLOUD else name.rpartition("-")[2], "tick", "middle"))
    for i, row in enumerate(cells):
        y = top + cell * i
        parts.append(label(left - 6, y + cell / 2 + 4, down[i], "tick", "end"))
        for j, one in enumerate(row):
            x = left + cell * j
            if one is None:
                parts.append(tag("circle", cx=x + cell / 2, cy=y + cell / 2, r=1.0, class_="twin"))
                continue
            share = math.sqrt(abs(one.mean) / most) if one.mean and most else 0.0
            kind = "bar-lost" if (one.mean or 0.0) < 0 else "bar"
            box = tag("rect", x=x, y=y, width=cell - 1.5, height=cell - 1.5, class_=kind, fill_opacity=f"{0.06 + 0.84 * share:.2f}")
            about = f"{down[i]} by {across[j]}: {signed(one.mean, 4)}, {some(one.offered, 'update')}, {one.negative} negative"
            inner = [title(f"{about}, {one.refused} refused"), box]
            if cell >= 36:
                inner.append(label(x + (cell - 1.5) / 2, y + cell / 2 + 3.5, signed(one.mean, 2), "on" if share > 0.7 else "off", "middle"))
            parts.append(tag("g", *inner))
    return drawing(left + cell * len(across) + 2, top + cell * len(cells) + 2, *parts, name="mean gain by receiver and sender")


def _by_round(told: Told, metric: str) -> str:
    """What whole merges gained over the rounds."""
    gains = told.history.gains
    bands = by_round(gains)
    if len(bands) < 2:
        return ""
    plot = Plot(f"Gain of whole merges in {metric}", "round", bands, lines_of(gains, "round"))
    hint = legend(("mean", "mean of the twins"), ("band", "lowest to highest"))
    return tag("figure", charts.curves(plot), hint)


def _worst(tried: Edges) -> str:
    """The edges that lost most by their mean gain."""
    known = sorted((account.mean, edge) for edge, account in tried.items() if account.mean is not None)[:EDGES]
    heads = ("receiver", "sender", ">offered", ">refused", ">negative", ">mean gain", ">heard")
    rows = [
        (
            words(receiver),
            words(sender),
            figure(one.offered, 0),
            figure(one.refused, 0),
            figure(one.negative, 0),
            signed(one.mean, 4),
            size(one.bytes),
        )
        for _, (receiver, sender) in known
        for one in (tried[receiver, sender],)
    ]
    return table(heads, rows) if rows else tag("p", "No gain could be measured.")
