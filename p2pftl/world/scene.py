"""A picture of a topology as lines, boxes and words, whoever paints them."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from p2pftl.world.layout import Point, bends, curve, positions
from p2pftl.world.links import Link
from p2pftl.world.topology import Pair, Topology

WIDTH, HEIGHT = 800, 640
INK, PALE, PAPER = "#22313f", "#8795a1", "#fbfcfd"

_TOP, _TALL = 84.0, 452.0
_FAST, _SLOW = (0x2B, 0x7A, 0x9E), (0xD1, 0x3F, 0x4F)
_PLAIN = "#7f95a8"
_HUES = (0.56, 0.09, 0.36, 0.78, 0.94, 0.16, 0.47, 0.66)
_LOSSY = 0.004
_SIZES = (15.0, 13.0, 11.0, 9.0)


@dataclass(frozen=True)
class Line:
    """points: at least two; fill: closed and filled with it; arrow: a head at the last point."""

    points: Sequence[Point]
    colour: str
    width: float = 1.5
    dashed: bool = False
    arrow: bool = False
    fill: str = ""
    title: str = ""


@dataclass(frozen=True)
class Box:
    """x, y: its centre; radius: of its corners."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    colour: str = ""
    title: str = ""


@dataclass(frozen=True)
class Words:
    """y: their middle; anchor: "start", "middle" or "end" of the text is at x."""

    x: float
    y: float
    text: str
    size: float
    colour: str = INK
    anchor: str = "middle"
    bold: bool = False


Mark = Line | Box | Words


@dataclass(frozen=True)
class _Style:
    """How links are shown: their latency [s] by pair, and the range of the colour scale (None: all alike)."""

    links: Mapping[Pair, Link]
    scale: tuple[float, float] | None

    def colour(self, pair: Pair) -> str:
        return _PLAIN if self.scale is None else _shade(self.links[pair].latency, *self.scale)


def short(name: str, most: int = 14) -> str:
    """`name` in at most `most` characters; the end stays, names tend to differ there."""
    tail = (most - 1) // 3
    return name if len(name) <= most else name[: most - 1 - tail] + "…" + name[-tail:]


def compose(
    topology: Topology,
    round: int = 0,
    places: Mapping[str, Point] | None = None,
    groups: Mapping[str, str] | None = None,
    link: Link | None = None,
) -> list[Mark]:
    """Return the marks of the picture of `round`, the lowest first, on WIDTH x HEIGHT.

    places: name -> (x, y) in [0, 1]; groups: name -> region; link: what links are where the topology is silent.
    """
    regions = topology.groups if groups is None else groups
    unit = positions(topology, regions) if places is None else places
    spots, size = _spots({name: unit[name] for name in topology.names})
    graph = topology.graph(round)
    pairs: list[Pair] = sorted(graph.edges)
    style = _style(topology, pairs, link or Link())
    title, facts = heading(topology, round, len(pairs))
    marks: list[Mark] = [
        Words(32, 32, title, 19, bold=True, anchor="start"),
        Words(WIDTH - 32, 33, facts, 13, PALE, "end"),
        *_blobs(spots, regions),
    ]
    bows = bends(pairs, unit, 0.035 if size else 0.008)
    ranked = sorted(pairs, key=lambda pair: style.links[pair].latency)
    marks += [_edge(pair, spots, bows[pair], style, size if topology.directed else None, len(pairs)) for pair in ranked]
    marks += _twins(topology, round, spots, regions, size)
    return marks + _legend(style, topology)


def _style(topology: Topology, pairs: Sequence[Pair], link: Link) -> _Style:
    links = {pair: topology.links[pair].on(link) if pair in topology.links else link for pair in pairs}
    latencies = [one.latency for one in links.values()]
    scale = (min(latencies), max(latencies)) if latencies and max(latencies) > 1.01 * min(latencies) else None
    return _Style(links, scale)


def heading(topology: Topology, round: int, edges: int) -> tuple[str, str]:
    """What the picture shows, and its size."""
    lines = "arrow" if topology.directed else "link"
    facts = [f"{number} {word}" + ("s" if number != 1 else "") for number, word in ((len(topology.names), "twin"), (edges, lines))]
    if not topology.static:
        facts.append(f"round {round}")
    return "drawn network" if topology.kind == "file" else topology.kind.replace("_", " "), " · ".join(facts)


def _edge(pair: Pair, spots: Mapping[str, Point], bow: float, style: _Style, arrow: float | None, many: int) -> Line:
    """arrow: the size of the label that an arrow's head must stay beside, or None for a plain line."""
    link = style.links[pair]
    width = max(0.5, min(2.2, 2.6 - many / 160))
    line = curve(spots[pair[0]], spots[pair[1]], bow)
    if arrow is not None:
        line = _shortened(line, _extent(pair[1], arrow) if arrow else (10.0, 10.0))
    lossy = f", loses {100 * link.loss:g} %" if link.loss else ""
    sign = "–" if arrow is None else "→"
    title = f"{pair[0]} {sign} {pair[1]}: {1000 * link.latency:g} ms, {link.bandwidth / 1e6:g} MB/s{lossy}"
    return Line(line, style.colour(pair), width, dashed=link.loss > _LOSSY, arrow=arrow is not None, title=title)


def _shortened(line: Sequence[Point], label: Point) -> list[Point]:
    """The line up to a few pixels before the label (width, height) that stands at its end."""
    x, y = line[-1]
    wide, high = label[0] / 2 + 6, label[1] / 2 + 6
    outside = [point for point in line[:-1] if abs(point[0] - x) > wide or abs(point[1] - y) > high] or [line[0]]
    dx, dy = x - outside[-1][0], y - outside[-1][1]
    share = 1 - min(wide / abs(dx) if dx else math.inf, high / abs(dy) if dy else math.inf, 0.7)
    return [*outside, (outside[-1][0] + share * dx, outside[-1][1] + share * dy)]


def _spots(unit: Mapping[str, Point]) -> tuple[dict[str, Point], float]:
    """Places in the picture and the largest type in which no two labels touch; 0: twins are dots."""
    for size in (*_SIZES, 0.0):
        side = max(_extent(name, size)[0] for name in unit) / 2
        left, width = max(70.0, 30 + side), min(660.0, WIDTH - 60 - 2 * side)
        spots = {name: (left + width * x, _TOP + _TALL * y) for name, (x, y) in unit.items()}
        boxes = [(x, y, *_extent(name, size)) for name, (x, y) in sorted(spots.items(), key=lambda item: item[1][0])]
        if not size or not any(_touch(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 : i + 60]):
            break
    return spots, size


def _extent(name: str, size: float) -> tuple[float, float]:
    return 0.6 * size * len(short(name)) + 1.1 * size, 1.9 * size


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return abs(a[0] - b[0]) < (a[2] + b[2]) / 2 + 3 and abs(a[1] - b[1]) < (a[3] + b[3]) / 2 + 3


def _twins(topology: Topology, round: int, spots: Mapping[str, Point], regions: Mapping[str, str], size: float) -> list[Mark]:
    hue = _hues(regions)
    marks: list[Mark] = []
    for name, (x, y) in sorted(spots.items()):
        colour = _tint(hue[regions[name]], 0.38, 0.55) if name in regions and regions[name] in hue else "#3d5a73"
        title = f"{name}: {len(topology.neighbours(name, round))} neighbours"
        if not size:
            dot = 10.0 if len(spots) <= 120 else 7.0 if len(spots) <= 400 else 4.5
            marks.append(Box(x, y, dot, dot, dot / 2, colour, PAPER if dot > 5 else "", title))
            continue
        width, height = _extent(name, size)
        marks += [Box(x, y, width, height, height / 2, "#ffffff", colour, title), Words(x, y, short(name), size)]
    return marks


def _blobs(spots: Mapping[str, Point], regions: Mapping[str, str]) -> list[Mark]:
    """A pale shape behind each region, with its name."""
    hue = _hues(regions)
    marks: list[Mark] = []
    for region, tone in hue.items():
        members = [spots[name] for name in sorted(spots) if regions.get(name) == region]
        if len(members) < 2:
            continue
        hull = _outline(members, 46.0)
        pale = _tint(tone, 0.94, 0.6)
        marks.append(Line(hull, pale, 1.0, fill=pale))
        middle = sum(x for x, _ in members) / len(members)
        above = sum(y for _, y in members) / len(members) < _TOP + _TALL / 2
        edge = min(y for _, y in hull) + 13 if above else max(y for _, y in hull) - 12
        marks.append(Words(middle, edge, short(region, 24), 12.5, _tint(tone, 0.38, 0.5), bold=True))
    return marks


def _outline(points: Sequence[Point], around: float) -> list[Point]:
    """Convex hull of circles of radius `around` at `points` (monotone chain)."""
    cloud = sorted(
        {(x + around * math.cos(k * math.pi / 16), y + around * 0.8 * math.sin(k * math.pi / 16)) for x, y in points for k in range(32)}
    )
    return [*_half(cloud), *_half(cloud[::-1])]


def _half(cloud: Sequence[Point]) -> list[Point]:
    hull: list[Point] = []
    for x, y in cloud:
        while len(hull) > 1 and (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1]) <= (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]):
            hull.pop()
        hull.append((x, y))
    return hull[:-1]


def _legend(style: _Style, topology: Topology) -> list[Mark]:
    y, x = HEIGHT - 34.0, 32.0
    marks: list[Mark] = []
    if style.scale is None:
        latency = next(iter(style.links.values())).latency if style.links else None
        text = "no links" if latency is None else f"every link {_milliseconds(latency)}"
        marks += [Line([(x, y), (x + 30, y)], _PLAIN, 2.5), Words(x + 40, y, text, 12, PALE, "start")]
        x += 190
    else:
        low, high = style.scale
        text = f"latency {_milliseconds(low)}"
        marks.append(Words(x, y, text, 12, PALE, "start"))
        x += 6.3 * len(text) + 8
        floor = max(low, high * 1e-4)
        steps = 48
        for step in range(steps):
            shade = _shade(floor * (high / floor) ** (step / (steps - 1)), low, high)
            marks.append(Box(x + 3 * step + 1.5, y, 3.4, 9, 0, shade))
        marks.append(Words(x + 3 * steps + 10, y, _milliseconds(high), 12, PALE, "start"))
        x += 3 * steps + 100
    if any(link.loss > _LOSSY for link in style.links.values()):
        worst = max(link.loss for link in style.links.values())
        marks += [
            Line([(x, y), (x + 34, y)], INK, 2, dashed=True),
            Words(x + 44, y, f"loses frames, up to {100 * worst:g} %", 12, PALE, "start"),
        ]
    if topology.directed:
        marks += [Line([(x, y), (x + 30, y)], _PLAIN, 2, arrow=True), Words(x + 40, y, "sends to", 12, PALE, "start")]
    return marks


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _shade(latency: float, low: float, high: float) -> str:
    """Blue where fast, red where slow, on a logarithmic scale."""
    floor = max(low, high * 1e-4)
    share = min(1.0, max(0.0, math.log(max(latency, floor) / floor) / math.log(high / floor)))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(_FAST, _SLOW, strict=True))


def _hues(regions: Mapping[str, str]) -> dict[str, float]:
    names = list(dict.fromkeys(regions[name] for name in sorted(regions)))
    return {region: _HUES[i % len(_HUES)] for i, region in enumerate(names)} if len(names) > 1 else {}


def _tint(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))
