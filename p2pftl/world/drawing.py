"""Pictures of a topology: for the terminal, as SVG, as PNG."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise, takewhile

from PIL import Image, ImageDraw, ImageFont

from p2pftl.world.layout import Point, positions
from p2pftl.world.links import Link
from p2pftl.world.scene import HEIGHT, PAPER, WIDTH, Box, Line, Mark, Words, compose, heading, short
from p2pftl.world.topology import Topology

__all__ = ["png", "positions", "svg", "terminal"]

COLUMNS, ROWS = 78, 25
MOST_DRAWN = 40
_DASH = (7.0, 5.0)
_FINE = 3
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def svg(
    topology: Topology,
    round: int = 0,
    positions: Mapping[str, Point] | None = None,
    groups: Mapping[str, str] | None = None,
    link: Link | None = None,
) -> str:
    """Return a self-contained SVG of the graph of `round`: links coloured by latency, hover for numbers.

    positions: name -> (x, y) in [0, 1]; groups: name -> region; link: the scenario's link, where the topology has no own.
    """
    marks = compose(topology, round, positions, groups, link)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif" role="img">'
    )
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    return "\n".join([head, ground, *map(_tag, marks), "</svg>", ""])


def png(
    topology: Topology,
    round: int = 0,
    positions: Mapping[str, Point] | None = None,
    groups: Mapping[str, str] | None = None,
    link: Link | None = None,
    *,
    scale: int = 2,
) -> bytes:
    """Return the same picture as PNG, `scale` pixels per unit."""
    image = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), PAPER)
    brush = ImageDraw.Draw(image)
    for mark in compose(topology, round, positions, groups, link):
        _paint(brush, mark)
    small = image.resize((WIDTH * scale, HEIGHT * scale), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def terminal(topology: Topology, round: int = 0) -> str:
    """Return a plain-text picture of the graph of `round`, at most 80 columns wide; lists only, for more than 40 twins."""
    graph = topology.graph(round)
    degrees = dict.fromkeys(topology.names, 0) | {name: len(topology.neighbours(name, round)) for name in topology.names}
    low, high = min(degrees.values()), max(degrees.values())
    edges = graph.number_of_edges()
    title, facts = heading(topology, round, edges)
    lines = [f"{title} · {facts} · degree {low}" + (f"-{high}" if high > low else ""), ""]
    if len(topology.names) > MOST_DRAWN:
        return "\n".join([*lines, *_degrees(degrees), "", *_lists(topology, round, 12)]) + "\n"
    drawn = _braille(topology, round) if edges <= 160 else []
    lists = _arrows(topology, round) if topology.directed else [] if drawn else _lists(topology, round, MOST_DRAWN)
    return "\n".join([*lines, *drawn, *([""] if drawn and lists else []), *lists, *_slowest(topology)]) + "\n"


def _tag(mark: Mark) -> str:
    if isinstance(mark, Words):
        weight = ' font-weight="600"' if mark.bold else ""
        place = f'x="{mark.x:.1f}" y="{mark.y + 0.35 * mark.size:.1f}" font-size="{mark.size:g}" text-anchor="{mark.anchor}"'
        return f'<text {place} fill="{mark.colour}"{weight}>{escape(mark.text)}</text>'
    title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
    if isinstance(mark, Box):
        stroke = f' stroke="{mark.colour}" stroke-width="1.6"' if mark.colour else ""
        place = f'x="{mark.x - mark.width / 2:.1f}" y="{mark.y - mark.height / 2:.1f}" width="{mark.width:.1f}" height="{mark.height:.1f}"'
        return f'<rect {place} rx="{mark.radius:.1f}" fill="{mark.fill}"{stroke}>{title}</rect>'
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in mark.points)
    dash = f' stroke-dasharray="{_DASH[0]:g} {_DASH[1]:g}"' if mark.dashed else ""
    shape = f'd="{path}{"Z" if mark.fill else ""}" fill="{mark.fill or "none"}"'
    line = f'<path {shape} stroke="{mark.colour}" stroke-width="{mark.width:.2f}"{dash}>{title}</path>'
    if not mark.arrow:
        return line
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(mark))
    return line + f'<polygon points="{head}" fill="{mark.colour}"/>'


def _head(line: Line) -> list[Point]:
    """The arrow's head: a triangle around the last point."""
    (x0, y0), (x1, y1) = line.points[-2], line.points[-1]
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    return [(x1 + 5 * dx, y1 + 5 * dy), (x1 - 6 * dx - 4.2 * dy, y1 - 6 * dy + 4.2 * dx), (x1 - 6 * dx + 4.2 * dy, y1 - 6 * dy - 4.2 * dx)]


def _paint(brush: ImageDraw.ImageDraw, mark: Mark) -> None:
    match mark:
        case Words():
            font = ImageFont.load_default(mark.size * _FINE)
            anchor = {"start": "lm", "middle": "mm", "end": "rm"}[mark.anchor]
            stroke = 0.35 * _FINE if mark.bold else 0
            brush.text((mark.x * _FINE, mark.y * _FINE), mark.text, mark.colour, font, anchor, stroke_width=stroke, stroke_fill=mark.colour)
        case Box():
            left, top = (mark.x - mark.width / 2) * _FINE, (mark.y - mark.height / 2) * _FINE
            corners = (left, top, left + mark.width * _FINE, top + mark.height * _FINE)
            brush.rounded_rectangle(corners, mark.radius * _FINE, mark.fill, mark.colour or None, round(1.6 * _FINE) if mark.colour else 0)
        case Line(fill=str(fill)) if fill:
            brush.polygon(_enlarged(mark.points), fill)
        case Line():
            for piece in _pieces(mark):
                brush.line(_enlarged(piece), mark.colour, max(1, round(mark.width * _FINE)), joint="curve")
            if mark.arrow:
                brush.polygon(_enlarged(_head(mark)), mark.colour)


def _enlarged(points: Iterable[Point]) -> list[Point]:
    return [(x * _FINE, y * _FINE) for x, y in points]


def _pieces(line: Line) -> Iterable[list[Point]]:
    """The line itself, or its dashes."""
    if not line.dashed:
        yield list(line.points)
        return
    on, off = _DASH
    walked, at = 0.0, 0.0
    for (x0, y0), (x1, y1) in pairwise(line.points):
        length = math.hypot(x1 - x0, y1 - y0)
        at = -math.fmod(walked, on + off)
        while at < length and length:
            start, stop = max(0.0, at), min(length, at + on)
            if stop > start:
                yield [(x0 + (x1 - x0) * part / length, y0 + (y1 - y0) * part / length) for part in (start, stop)]
            at += on + off
        walked += length


def _braille(topology: Topology, round: int) -> list[str]:
    """Lines as braille dots (2 x 4 per character), names on top; nothing where the names would not fit."""
    places, names = positions(topology), topology.names
    start = _common(names)
    for labels in ({name: short(name, 12) for name in names}, {name: short(name[len(start) :], 12) for name in names}):
        margin = max(len(label) for label in labels.values()) + 2
        across, down = 2 * COLUMNS - 2 * margin, 4 * ROWS - 8
        spots = {name: (margin + x * across, 3 + y * down) for name, (x, y) in places.items()}
        page = _dotted(topology, round, spots)
        if _labelled(page, spots, labels):
            rows = "\n".join((" " + "".join(row)).rstrip() for row in page).strip("\n").split("\n")
            first = names[0]
            return rows if labels[first] == short(first, 12) else [*rows, "", f"  ({labels[first]} stands for {first})"]
    return []


def _common(names: Sequence[str]) -> str:
    """What all (sorted) names begin with, up to their numbers."""
    same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(names[0], names[-1], strict=False)))
    return "" if same in names else same.rstrip("0123456789")


def _dotted(topology: Topology, round: int, spots: Mapping[str, Point]) -> list[list[str]]:
    cells = [[0] * COLUMNS for _ in range(ROWS)]
    for a, b in topology.graph(round).edges:
        for x, y in _walk(spots[a], spots[b]):
            cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    return [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]


def _labelled(page: list[list[str]], spots: Mapping[str, Point], labels: Mapping[str, str]) -> bool:
    """Write the labels on the page; False as soon as two would touch."""
    taken: set[tuple[int, int]] = set()
    for name, (x, y) in sorted(spots.items()):
        word = f" {labels[name]} "
        row, left = int(y) // 4, max(0, min(COLUMNS - len(word), int(x) // 2 - len(word) // 2))
        room = {(row, column) for column in range(left, left + len(word) - 1)}
        if room & taken:
            return False
        taken |= room
        page[row][left : left + len(word)] = word
    return True


def _walk(start: Point, stop: Point) -> Iterable[tuple[int, int]]:
    steps = max(1, math.ceil(max(abs(stop[0] - start[0]), abs(stop[1] - start[1]))))
    for step in range(steps + 1):
        share = step / steps
        yield int(start[0] + share * (stop[0] - start[0]) + 1e-6), int(start[1] + share * (stop[1] - start[1]) + 1e-6)


def _degrees(degrees: Mapping[str, int]) -> list[str]:
    """How many twins have how many neighbours, as bars; neighbouring degrees share a bar where there are many."""
    counts = Counter(degrees.values())
    low, high = min(counts), max(counts)
    step = max(1, math.ceil((high - low + 1) / 12))
    bins = [(first, sum(counts[d] for d in range(first, first + step))) for first in range(low, high + 1, step)]
    most = max(count for _, count in bins)
    lines = ["  degree    twins"]
    for first, count in bins:
        last = min(first + step - 1, high)
        span = str(first) if first == last else f"{first}-{last}"
        lines.append(f"  {span:>9} {count:>6}  {_bar(count / most, 48)}".rstrip())
    return lines


def _bar(share: float, width: int) -> str:
    eighths = max(1, round(share * width * 8)) if share else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _lists(topology: Topology, round: int, most: int) -> list[str]:
    """Twins, their degree as a bar, and their neighbours."""
    names = topology.names[:most]
    wide = max(len(name) for name in names)
    wide = min(wide, 20)
    most_peers = max((len(topology.neighbours(name, round)) for name in topology.names), default=0) or 1
    sign = "→" if topology.directed else "–"
    lines = []
    for name in names:
        peers = topology.neighbours(name, round)
        start = f"  {short(name, wide):<{wide}} {_bar(len(peers) / most_peers, 8):<8} {len(peers):>4} {sign} "
        lines.append(start + _listed(peers, 79 - len(start)))
    left = len(topology.names) - len(names)
    return [*lines, f"  ... and {left} more twins"] if left else lines


def _arrows(topology: Topology, round: int) -> list[str]:
    """Who sends to whom, in columns."""
    words = [f"{name} → {' '.join(topology.neighbours(name, round)) or '-'}" for name in topology.names]
    wide = max(len(word) for word in words) + 3
    per_row = max(1, 77 // wide)
    rows = math.ceil(len(words) / per_row)
    return ["  " + "".join(f"{word:<{wide}}" for word in words[row::rows]).rstrip() for row in range(rows)]


def _listed(words: Sequence[str], width: int) -> str:
    """As many words as fit, then how many more."""
    text = " ".join(words)
    if len(text) <= width:
        return text
    shown: list[str] = []
    for word in words:
        if len(" ".join([*shown, word])) + len(f" +{len(words)}") > width:
            break
        shown.append(word)
    return " ".join([*shown, f"+{len(words) - len(shown)}"])


def _slowest(topology: Topology) -> list[str]:
    """The slowest links of a drawn network."""
    known = sorted(((own.latency, a, b) for (a, b), own in topology.links.items() if own.latency is not None and a < b), reverse=True)
    if not known:
        return []
    few = ", ".join(f"{a} - {b} {1000 * latency:g} ms" for latency, a, b in known[:3])
    return ["", f"  slowest links: {few}"[:79]]
