"""Charts of several variants: curves with bands over seeds, and means with intervals. Colours are CSS variables of the report."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from p2pftl.compare.course import Course, Evaluation
from p2pftl.compare.table import Row
from p2pftl.observe.charts import Scale, step_of
from p2pftl.observe.markup import drawing, label, path, tag, title, words
from p2pftl.observe.units import figure

COLOURS = 6
ROUND = "round"
STEPS = 120
DASHES = ("", "7 3", "2 3")


@dataclass(frozen=True)
class Bundle:
    """One variant over the seeds: (x, mean, lowest, highest)."""

    variant: str
    points: tuple[tuple[float, float, float, float], ...]


def bundle(variant: str, cells: Sequence[Course], metric: str, across: Callable[[Evaluation], float]) -> Bundle:
    """At each x the last mean of every seed that has one there; only where all have."""
    lines = [sorted((across(one), one.round, one.value) for one in cell.evaluations.get(metric, ())) for cell in cells]
    lines = [line for line in lines if line]
    if not lines:
        return Bundle(variant, ())
    places = sorted({x for line in lines for x, _, _ in line})
    first = max(line[0][0] for line in lines)
    if len(places) > STEPS:
        places = [first + (places[-1] - first) * i / (STEPS - 1) for i in range(STEPS)]
    points = []
    for x in [place for place in places if place >= first]:
        values = [line[bisect_right(line, x + 1e-9, key=lambda point: point[0]) - 1][2] for line in lines]
        points.append((x, fmean(values), min(values), max(values)))
    return Bundle(variant, tuple(points))


def stroke(index: int) -> str:
    """Colour and dashes of the variant at a place in the table."""
    dash = DASHES[index // COLOURS % len(DASHES)]
    return f"stroke:var(--c{index % COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")


def curves(name: str, across: str, bundles: Sequence[tuple[int, Bundle]], width: float = 520, height: float = 300) -> str:
    """Mean over seeds bold, lowest to highest as a band; a variant with one x only (it sent nothing) is a level line."""
    left, right, top, bottom = 44.0, 16.0, 28.0, 40.0
    known = [(index, one) for index, one in bundles if one.points]
    values = [value for _, one in known for _, _, low, high in one.points for value in (low, high)]
    xs = [x for _, one in known for x, _, _, _ in one.points]
    low, high = _limits(values)
    x, y = Scale(0.0 if across != ROUND else 1.0, max(xs) or 1.0, left, width - right), Scale(low, high, height - bottom, top)
    parts = [_axes(x, y, across), label(0, 13, f"{name} by {across}", "chart-title")]
    for index, one in known:
        if len(one.points) > 1:
            upper = [(x(at), y(most)) for at, _, _, most in one.points]
            lower = [(x(at), y(least)) for at, _, least, _ in reversed(one.points)]
            parts.append(tag("path", d=path([*upper, *lower]) + "Z", style=f"fill:var(--c{index % COLOURS});opacity:.13"))
    for index, one in known:
        line = [(x(at), y(mean)) for at, mean, _, _ in one.points]
        if len(line) == 1:
            line = [(left, line[0][1]), (width - right, line[0][1])]
        text = title(f"{one.variant}: {figure(one.points[-1][1])} at the end")
        parts.append(tag("g", text, tag("path", d=path(line), style=f"fill:none;stroke-width:2.2;stroke-linejoin:round;{stroke(index)}")))
    return drawing(width, height, *parts, name=f"{name} by {across}")


def means(name: str, rows: Sequence[tuple[int, Row]], width: float = 520) -> str:
    """One line per variant: every seed a ring, the mean a dot, its interval a bar."""
    longest = max((len(row.variant) for _, row in rows), default=0)
    left, right, top, pitch = min(300.0, 16 + 6.7 * longest), 54.0, 26.0, 26.0
    known = [(index, row) for index, row in rows if row.values]
    height = top + pitch * len(known) + 32
    ends = [value for _, row in known for value in (*row.values, *(row.interval or ()))]
    x = Scale(*_limits(ends), left, width - right)
    parts = [label(0, 13, name, "chart-title")]
    for tick in x.ticks(5):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top, y2=height - 30, class_="grid"))
        parts.append(label(x(tick), height - 14, f"{tick:g}" if tick else "0", "tick", "middle"))
    for place, (index, row) in enumerate(known):
        y, mean = top + pitch * (place + 0.5), fmean(row.values)
        inner = [title(f"{row.variant}: mean {figure(mean)}, seeds {', '.join(map(figure, row.values))}")]
        inner.append(label(left - 12, y + 4, _fit(row.variant, left - 16), "name", "end"))
        ring = f"fill:none;opacity:.7;stroke:var(--c{index % COLOURS})"
        inner += [tag("circle", cx=x(value), cy=y, r=3.2, style=ring) for value in row.values]
        if row.interval:
            low, high = row.interval
            inner.append(tag("line", x1=x(low), x2=x(high), y1=y, y2=y, style=f"stroke-width:2.4;stroke:var(--c{index % COLOURS})"))
        inner.append(tag("circle", cx=x(mean), cy=y, r=5, style=f"fill:var(--c{index % COLOURS})"))
        inner.append(label(width - right + 12, y + 4, figure(mean), "value"))
        parts.append(tag("g", *inner))
    return drawing(width, height, *parts, name=name)


def key(names: Mapping[str, int]) -> str:
    """Which colour is whose."""
    items = []
    for name, index in names.items():
        line = tag("path", d="M0 6L26 6", style=f"fill:none;stroke-width:2.6;{stroke(index)}")
        mark = tag("svg", line, viewBox="0 0 26 12", width="26", height="12", style="width:26px;display:inline-block", aria_hidden="true")
        items.append(tag("span", mark, words(name)))
    return tag("p", *items, class_="legend")


def _axes(x: Scale, y: Scale, across: str) -> str:
    parts = []
    for tick in y.ticks(5):
        parts.append(tag("line", x1=x.from_, x2=x.to, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(label(x.from_ - 7, y(tick) + 4, f"{tick:.3g}", "tick", "end"))
    for tick in x.ticks(6):
        if across == ROUND and tick % 1:
            continue
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.from_, y2=y.from_ + 4, class_="axis"))
        parts.append(label(x(tick), y.from_ + 17, f"{tick:,.6g}" if abs(tick) > 1e-12 else "0", "tick", "middle"))
    parts.append(tag("line", x1=x.from_, x2=x.to, y1=y.from_, y2=y.from_, class_="axis"))
    parts.append(label((x.from_ + x.to) / 2, y.from_ + 34, across, "axis-name", "middle"))
    return "".join(parts)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Round numbers around all values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    step = step_of((high - low) / 5)
    return step * math.floor(low / step) - 0.2 * step, step * math.ceil(high / step)


def _fit(word: str, room: float) -> str:
    most = max(3, int(room / 6.5))
    return word if len(word) <= most else f"{word[: most - most // 2 - 1]}…{word[-(most // 2) :]}"  # both ends of a point's name tell
