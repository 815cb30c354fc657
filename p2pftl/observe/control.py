"""Drawings of a device over its days: control charts with limits and alarms, bands of its life, steps and curves beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from p2pftl.observe.charts import Scale, step_of
from p2pftl.observe.markup import drawing, label, path, tag, title

Points = Sequence[tuple[float, float]]
MOST = 400  # points of a line; of longer ones every second, third ... is drawn
DOTTED = 250  # with more points a line has no dots
LEFT, RIGHT = 48.0, 62.0


@dataclass(frozen=True)
class Line:
    """A curve of (day, value). kind: its CSS class; name: written at its end; dots: a dot for each value; steps: constant in between."""

    points: Points
    kind: str = "mean"
    name: str = ""
    dots: bool = False
    steps: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over device days with what one needs to judge them.

    limits: (value, name); alarms: (day, value, why), red; shaded: (from, to) days in quarantine; began: day on which the
    learning began; span: first and last day; floor, ceiling: values that the axis has to show at least; area: curve above, below.
    """

    title: str
    lines: Sequence[Line]
    span: tuple[float, float]
    limits: Sequence[tuple[float, str]] = ()
    alarms: Sequence[tuple[float, float, str]] = ()
    shaded: Sequence[tuple[float, float]] = ()
    began: float | None = None
    floor: float | None = None
    ceiling: float | None = None
    area: tuple[Points, Points] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Track:
    """A row of a life. bars: (from, to, CSS class, text); ticks: (day, CSS class, text)."""

    name: str
    bars: Sequence[tuple[float, float, str, str]] = ()
    ticks: Sequence[tuple[float, str, str]] = field(default_factory=tuple)
    link: str = ""


def chart(what: Chart, width: float = 520, height: float = 224) -> str:
    """Draw one chart; alarms are dots in the warning colour with their reason under the pointer."""
    top, bottom = 30.0, 38.0
    low, high = _range(what)
    x = Scale(*what.span, LEFT, width - RIGHT)
    y = Scale(low, high, height - bottom, top)
    parts = [label(0, 13, what.title, "chart-title")]
    parts += [tag("rect", x=x(a), y=top, width=max(1.0, x(b) - x(a)), height=height - bottom - top, class_="shut") for a, b in what.shaded]
    parts.append(_axes(x, y, height - bottom))
    parts += _began(what.began, x, top, height - bottom)
    for value, name in what.limits:
        parts.append(tag("line", x1=x.from_, x2=x.to, y1=y(value), y2=y(value), class_="limit"))
        parts.append(label(x.to + 5, y(value) + 4, name, "limit-name"))
    if what.area is not None and what.area[0]:
        upper, lower = ([(x(a), y(b)) for a, b in _thin(points)] for points in what.area)
        parts.append(tag("path", d=path([*upper, *reversed(lower)]) + "Z", class_="band"))
    for line in what.lines:
        parts.append(_line(line, x, y))
    for day, value, why in what.alarms:
        parts.append(tag("circle", title(f"day {day:.0f}: {why}"), cx=x(day), cy=y(value), r=3.4, class_="alarm"))
    parts += _names(what.lines, x, y)
    return drawing(width, height, *parts, name=what.title)


def lives(tracks: Sequence[Track], span: tuple[float, float], began: float | None = None, width: float = 1060) -> str:
    """Rows of bands and ticks on one axis of device days; wide bands say what they are."""
    left = 16.0 + max([len(track.name) for track in tracks] or [0]) * 6.6
    top, pitch = 18.0, 24.0
    bottom = top + pitch * len(tracks)
    x = Scale(*span, left, width - 14.0)
    parts = []
    for tick in x.ticks(10):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(label(x(tick), bottom + 15, f"{tick:g}", "tick", "middle"))
    parts.append(label((x.from_ + x.to) / 2, bottom + 31, "device day", "axis-name", "middle"))
    for i, track in enumerate(tracks):
        parts.append(_track(track, x, top + pitch * i + 3, pitch - 8))
    parts += _began(began, x, top, bottom)
    return drawing(width, bottom + 36, *parts, name="life of " + ", ".join(track.name for track in tracks[:3]))


def _track(track: Track, x: Scale, y: float, tall: float) -> str:
    name = label(x.from_ - 8, y + tall - 4, track.name, "name", "end")
    parts = [tag("a", name, href=track.link) if track.link else name]
    for start, end, kind, text in track.bars:
        wide = max(1.0, x(end) - x(start))
        inner = [title(f"{text}, day {start:.0f} to {end:.0f}"), tag("rect", x=x(start), y=y, width=wide, height=tall, class_=kind)]
        word = text.split(":")[0]
        if wide > 7.0 * len(word) + 8:
            inner.append(label(x(start) + wide / 2, y + tall - 4.5, word, "in-band", "middle"))
        parts.append(tag("g", *inner))
    for day, kind, text in track.ticks:
        parts.append(tag("circle", title(f"day {day:.0f}: {text}"), cx=x(day), cy=y + tall / 2, r=4.2, class_=kind))
    return tag("g", *parts)


def _range(what: Chart) -> tuple[float, float]:
    values = [value for line in what.lines for _, value in line.points] + [value for value, _ in what.limits]
    values += [value for points in what.area or () for _, value in points]
    values += [value for value in (what.floor, what.ceiling) if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    air = 0.06 * (high - low) or 0.5
    return (low if low == what.floor else low - air), high + air


def _axes(x: Scale, y: Scale, foot: float) -> str:
    parts = []
    step = step_of((y.high - y.low) / 5)
    digits = max(0, -int(f"{step:e}".partition("e")[2]))
    for tick in y.ticks(5):
        parts.append(tag("line", x1=x.from_, x2=x.to, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(label(x.from_ - 6, y(tick) + 4, f"{tick:,.{digits}f}".replace("-0.0", "0.0") if tick else "0", "tick", "end"))
    for tick in x.ticks(6):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=foot, y2=foot + 4, class_="axis"))
        parts.append(label(x(tick), foot + 16, f"{tick:g}", "tick", "middle"))
    parts.append(tag("line", x1=x.from_, x2=x.to, y1=foot, y2=foot, class_="axis"))
    parts.append(label((x.from_ + x.to) / 2, foot + 32, "device day", "axis-name", "middle"))
    return "".join(parts)


def _began(day: float | None, x: Scale, top: float, foot: float) -> list[str]:
    """Where the learning begins, unless that is the first day."""
    if day is None or not x.low < day < x.high:
        return []
    line = tag("line", x1=x(day), x2=x(day), y1=top, y2=foot, class_="began")
    return [tag("g", title("the learning begins"), line, label(x(day) + 3, top - 4, "learning begins", "began-name"))]


def _line(line: Line, x: Scale, y: Scale) -> str:
    points = _thin(line.points)
    if not points:
        return ""
    drawn = [(x(a), y(b)) for a, b in points]
    if line.steps:
        drawn = [
            drawn[0],
            *(corner for (_, before), (at, value) in pairwise(drawn) for corner in ((at, before), (at, value))),
        ]
    parts = [tag("path", d=path(drawn), class_=f"curve {line.kind}")]
    if line.dots and len(points) <= DOTTED:
        parts += [tag("circle", cx=a, cy=b, r=1.7, class_=f"point {line.kind}") for a, b in drawn]
    return "".join(parts)


def _names(lines: Sequence[Line], x: Scale, y: Scale) -> list[str]:
    """Names at the ends of the curves, moved apart where they would overlap."""
    named = sorted(((y(line.points[-1][1]), line) for line in lines if line.name and line.points), key=lambda item: item[0])
    parts, last = [], -100.0
    for place, line in named:
        last = max(place, last + 12)
        parts.append(label(x.to + 5, last + 4, line.name, f"line-name {line.kind}"))
    return parts


def _thin(points: Points) -> Points:
    return [*points[:: -(-len(points) // MOST)], points[-1]] if len(points) > MOST else points
