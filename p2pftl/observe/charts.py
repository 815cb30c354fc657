"""Charts drawn by hand as inline SVG: curves, dumbbells, bars, matrices. Colours are CSS variables, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from p2pftl.observe.history import Band, Curves
from p2pftl.observe.markup import drawing, label, number, path, tag, title
from p2pftl.observe.units import figure, size

THIN = 64  # so many single curves are drawn, more would be a carpet


@dataclass(frozen=True)
class Scale:
    """Maps low..high to from_..to (pixels)."""

    low: float
    high: float
    from_: float
    to: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.from_ + ((value - self.low) / span if span else 0.5) * (self.to - self.from_)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the range, about `count`."""
        step = step_of((self.high - self.low) / max(1, count))
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Plot:
    """A bundle of curves to draw.

    bands: mean and range; lines: one per twin as (x, y); other: the run without exchange; marks: (x, number, text) of incidents.
    """

    title: str
    across: str
    bands: Sequence[Band]
    lines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    other: Sequence[Band] = ()
    marks: Sequence[tuple[float, int, str]] = ()
    unit: Callable[[float], str] = figure


def step_of(rough: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten above `rough`."""
    if rough <= 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def curves(plot: Plot, width: float = 520, height: float = 284) -> str:
    """Mean bold, range as a band, every twin thin, the control dashed, incidents numbered at the top."""
    left, right, top, bottom = 44.0, 78.0, 40.0, 40.0
    values = [value for band in plot.bands for value in (band.low, band.high)] + [band.mean for band in plot.other]
    xs = [band.x for band in plot.bands] + [band.x for band in plot.other]
    low, high = _nice(min(values), max(values))
    x = Scale(min(0.0, min(xs)) if max(xs) > 0 else 0.0, max(xs) or 1.0, left, width - right)
    y = Scale(low, high, height - bottom, top)
    parts = [_grid(x, y, plot.across), label(0, 13, plot.title, "chart-title")]
    for at, index, text in plot.marks:
        mark = tag("line", x1=x(at), x2=x(at), y1=top, y2=height - bottom, class_="mark")
        parts.append(tag("g", title(text), mark, label(x(at), top - 3, index, "tick", "middle")))
    upper = [(x(band.x), y(band.high)) for band in plot.bands]
    lower = [(x(band.x), y(band.low)) for band in reversed(plot.bands)]
    parts.append(tag("path", d=path([*upper, *lower]) + "Z", class_="band"))
    for name, line in list(plot.lines.items()) if len(plot.lines) <= THIN else []:
        text = f"{name}: {plot.unit(line[-1][1])} at the end"
        parts.append(tag("g", title(text), tag("path", d=path((x(a), y(b)) for a, b in line), class_="thin")))
    if plot.other:
        parts.append(tag("path", d=path((x(band.x), y(band.mean)) for band in plot.other), class_="other"))
    parts.append(tag("path", d=path((x(band.x), y(band.mean)) for band in plot.bands), class_="mean"))
    parts += [_dot(band, x, y, plot) for band in (plot.bands if len(plot.bands) <= 80 else ())]
    parts.append(_ends(plot, x, y, width - right + 6))
    return drawing(width, height, *parts, name=f"{plot.title} by {plot.across}")


def lines_of(points: Curves, across: str) -> dict[str, list[tuple[float, float]]]:
    """The single curves for a plot over "round" or over time."""
    found = {twin: {float(point.round) if across == "round" else point.t: point.value for point in line} for twin, line in points.items()}
    return {twin: sorted(line.items()) for twin, line in found.items() if line}


def dumbbells(rows: Sequence[tuple[str, float | None, float | None]], what: str = "accuracy", width: float = 520) -> str:
    """One line per twin: without exchange (ring) to with exchange (dot), on one scale of `what`."""
    left, right, top, pitch = 78.0, 58.0, 24.0, 22.0 if len(rows) <= 24 else 14.0
    height = top + pitch * len(rows) + 34
    values = [value for _, a, b in rows for value in (a, b) if value is not None] or [0.0, 1.0]
    x = Scale(*_nice(min(values), max(values)), left, width - right)
    parts = [label(0, 13, f"Test {what} of each twin", "chart-title")]
    for tick in x.ticks(5):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top, y2=height - 30, class_="grid"))
        parts.append(label(x(tick), height - 14, f"{tick:g}" if tick else "0", "tick", "middle"))
    for i, (name, without, with_) in enumerate(rows):
        y = top + pitch * (i + 0.5)
        inner = [title(f"{name}: {figure(without)} without, {figure(with_)} with exchange"), label(left - 12, y + 4, name, "name", "end")]
        if without is not None and with_ is not None:
            inner.append(tag("line", x1=x(without), x2=x(with_), y1=y, y2=y, class_="gain" if with_ >= without else "loss"))
            inner.append(label(width - right + 12, y + 4, f"{with_ - without:+.3f}", "value"))
        if without is not None:
            inner.append(tag("circle", cx=x(without), cy=y, r=4, class_="ring"))
        if with_ is not None:
            inner.append(tag("circle", cx=x(with_), cy=y, r=4.5, class_="dot"))
        parts.append(tag("g", *inner))
    return drawing(width, height, *parts, name=f"test {what} of each twin with and without exchange")


def bars(rows: Sequence[tuple[str, float, float]], width: float = 520) -> str:
    """Bytes per participant, the lost part in the warning colour."""
    left, right, top, pitch = 78.0, 74.0, 24.0, 20.0 if len(rows) <= 24 else 13.0
    height = top + pitch * len(rows) + 8
    x = Scale(0.0, max([whole for _, whole, _ in rows] or [1.0]) or 1.0, left, width - right)
    parts = [label(0, 13, "Sent by each participant, header included", "chart-title")]
    for i, (name, whole, lost) in enumerate(rows):
        y = top + pitch * i + 2
        kept = whole - lost
        inner = [title(f"{name}: {size(whole)} sent, {size(lost)} of it lost"), label(left - 8, y + pitch / 2 + 2, name, "name", "end")]
        inner.append(tag("rect", x=left, y=y, width=max(0.0, x(kept) - left), height=pitch - 6, class_="bar"))
        if lost:
            inner.append(tag("rect", x=x(kept), y=y, width=x(whole) - x(kept), height=pitch - 6, class_="bar-lost"))
        inner.append(label(x(whole) + 6, y + pitch / 2 + 2, size(whole), "value"))
        parts.append(tag("g", *inner))
    return drawing(width, height, *parts, name="bytes sent by each participant")


def matrix(cells: Sequence[Sequence[float]], across: Sequence[str], down: Sequence[str], cell: float = 44, shares: bool = False) -> str:
    """A matrix tinted by the share within its row. Labels are drawn if there are any; numbers if a cell can hold them."""
    left = 8.0 + (max(len(word) for word in down) * 6.4 if down else 0)
    top = 8.0 + (16 if across else 0)
    parts = []
    for j, word in enumerate(across):
        parts.append(label(left + cell * (j + 0.5), top - 6, _fit(word, cell), "tick", "middle"))
    for i, row in enumerate(cells):
        whole = sum(row)
        if down:
            parts.append(label(left - 6, top + cell * (i + 0.5) + 4, down[i], "tick", "end"))
        for j, value in enumerate(row):
            share = value / whole if whole else 0.0
            x, y = left + cell * j, top + cell * i
            box = tag("rect", x=x, y=y, width=cell - 1.5, height=cell - 1.5, class_="cell", fill_opacity=f"{0.04 + 0.9 * share:.2f}")
            shown = f"{share:.2f}" if shares else f"{value:.0f}"
            inner = [title(f"{shown} ({100 * share:.0f} % of the row)"), box]
            if cell >= 26 and (value or not shares):
                inner.append(label(x + (cell - 1.5) / 2, y + cell / 2 + 3.5, shown, "on" if share > 0.7 else "off", "middle"))
            parts.append(tag("g", *inner))
    return drawing(left + cell * len(cells[0]) + 2, top + cell * len(cells) + 2, *parts, name="matrix")


def balance(counts: Sequence[int], classes: Sequence[str], width: float = 96) -> str:
    """How a shard's labels are spread: one bar cut into classes."""
    whole = sum(counts)
    if not whole:
        return ""
    parts, x = [], 0.0
    for i, count in enumerate(counts):
        part = width * count / whole
        name = classes[i] if i < len(classes) else f"class {i}"
        box = tag("rect", x=x, y=1, width=max(0.0, part - 1), height=11, class_=f"class-{i % 6}")
        parts.append(tag("g", title(f"{name}: {count}"), box))
        x += part
    return tag("svg", *parts, viewBox=f"0 0 {number(width)} 13", width=number(width), height="13", role="img", aria_label="label balance")


def _grid(x: Scale, y: Scale, across: str) -> str:
    parts = []
    for tick in y.ticks(5):
        parts.append(tag("line", x1=x.from_, x2=x.to, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(label(x.from_ - 7, y(tick) + 4, f"{tick:.2g}", "tick", "end"))
    for tick in x.ticks(6):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=y.from_, y2=y.from_ + 4, class_="axis"))
        parts.append(label(x(tick), y.from_ + 17, f"{tick:,.6g}", "tick", "middle"))
    parts.append(tag("line", x1=x.from_, x2=x.to, y1=y.from_, y2=y.from_, class_="axis"))
    parts.append(label((x.from_ + x.to) / 2, y.from_ + 34, across, "axis-name", "middle"))
    return "".join(parts)


def _dot(band: Band, x: Scale, y: Scale, plot: Plot) -> str:
    text = f"{plot.across} {band.x:,.5g}: mean {plot.unit(band.mean)}, {plot.unit(band.low)} to {plot.unit(band.high)}, twins: {band.twins}"
    return tag("circle", title(text), cx=x(band.x), cy=y(band.mean), r=6, class_="touch")


def _ends(plot: Plot, x: Scale, y: Scale, at: float) -> str:
    """Name the two means at their ends, apart from each other."""
    last = plot.bands[-1]
    mine = y(last.mean)
    parts = [label(at, mine + 4, f"{plot.unit(last.mean)}", "end")]
    if plot.other:
        theirs = y(plot.other[-1].mean)
        if abs(theirs - mine) < 26:
            below = mine + 26 <= y.from_ - 8 and (theirs >= mine or mine - 26 < y.to)
            theirs = mine + (26 if below else -26)
        parts.append(label(at, theirs + 4, plot.unit(plot.other[-1].mean), "end-other"))
        parts.append(label(at, theirs + 15, "no exchange", "tick"))
    return "".join(parts)


def _nice(low: float, high: float) -> tuple[float, float]:
    """Limits on round numbers that hold both and leave some air."""
    if high <= low:
        low, high = low - 0.05, high + 0.05
    step = step_of((high - low) / 5)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _fit(word: str, cell: float) -> str:
    room = max(1, int(cell / 6.2))
    return word if len(word) <= room else word[: room - 1] + "…"
