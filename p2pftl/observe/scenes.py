"""Two drawings of a whole run: the topology with what it carried, and the timeline of every participant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx

from p2pftl.device.troubles import KINDS, MOMENTS
from p2pftl.observe.board import CLOUD
from p2pftl.observe.charts import Scale
from p2pftl.observe.history import History, Span
from p2pftl.observe.markup import drawing, label, number, path, tag, title
from p2pftl.observe.units import figure, seconds, size

ROWS = 40  # of the timeline
LABELS, CROWD, EDGES = 40, 100, 3000  # of the topology picture: twins with names, twins with links to the cloud, edges
CIVIDIS = ((0, 34, 78), (66, 78, 108), (124, 123, 120), (187, 173, 107), (254, 232, 56))  # Nunez et al. 2018, readable to all eyes
OVERLAYS = frozenset({"slow_link", "cut_link", "partition", "slow_scanner"}) | (KINDS.keys() - MOMENTS)


def topology(history: History, width: float = 520, height: float = 430) -> str:
    """The graph: edges by the bytes they carried, twins by their final accuracy, the cloud as a square."""
    facts = history.board.plan.facts if history.board.plan else {}
    places = positions(history, facts, width, height)
    carried = _carried(history, facts)
    most = max(carried.values(), default=0) or 1
    split = history.board.split
    what = f"{split} {history.board.lead.name}"
    scores = {name: row.accuracy(split) for name, row in history.board.rows.items()}
    known = [score for score in scores.values() if score is not None]
    tint = Scale(min(known), max(known), 0.0, 1.0) if known else Scale(0.0, 1.0, 0.0, 1.0)
    parts = []
    crowd = len(places) > CROWD
    for (a, b), count in sorted(carried.items(), key=lambda item: item[1])[-EDGES:]:
        if a in places and b in places and not (crowd and CLOUD in (a, b)):
            parts.append(_edge(a, b, count, count / most, places))
    radius = 11.0 if len(places) <= 24 else 7.0 if not crowd else 3.0
    for name, (x, y) in places.items():
        if name == CLOUD:
            parts.append(_cloud(history, x, y))
            continue
        score = scores.get(name)
        fill = _cividis(tint(score)) if score is not None else "none"
        dot = tag("circle", cx=x, cy=y, r=radius, fill=fill, class_=None if crowd else "twin")
        text = f"{name}: {what} {figure(score)}, {size(history.traffic[name].bytes)} sent"
        parts.append(tag("g", title(text), dot, _name(name, x, y, radius, width, height) if len(places) <= LABELS else ""))
    parts.append(_legend(tint, most, what, width, height))
    return drawing(width, height, *parts, name=f"topology: edges by bytes carried, twins by {history.board.lead.name}")


def timeline(history: History, spans: Sequence[Span], width: float = 1060) -> str:
    """Gantt over virtual time: when each twin was there, fitted, was down or dead, and when its rounds ended."""
    names = rows_shown(history, spans)
    left, right, top, pitch = 78.0, 14.0, 26.0, 22.0
    height = top + pitch * len(names) + 40
    x = Scale(0.0, history.end or 1.0, left, width - right)
    parts = [_hatch()]
    for tick in x.ticks(10):
        parts.append(tag("line", x1=x(tick), x2=x(tick), y1=top, y2=height - 36, class_="grid"))
        parts.append(label(x(tick), height - 20, f"{tick:,.6g}", "tick", "middle"))
    parts.append(label((left + width - right) / 2, height - 4, "virtual time, s", "axis-name", "middle"))
    parts += _numbers(spans, x, top, height)
    for i, name in enumerate(names):
        parts.append(_row(history, name, spans, x, top + pitch * i + 3, pitch - 7))
    return drawing(width, height, *parts, name="timeline of every participant")


def rows_shown(history: History, spans: Sequence[Span]) -> list[str]:
    """All participants, or of very many those to whom something happened and the weakest."""
    names = list(history.board.rows)
    if len(names) > ROWS:
        touched = {name for span in spans for name in span.twins}
        split = history.board.split
        scores = {name: row.accuracy(split) for name, row in history.board.rows.items()}
        order = sorted(names, key=lambda name: (name not in touched, 2.0 if (score := scores[name]) is None else score, name))
        names = sorted(order[:ROWS])
    return names + ([CLOUD] if history.board.cloud is not None else [])


def positions(history: History, facts: Mapping[str, Any], width: float, height: float) -> dict[str, tuple[float, float]]:
    """Pixels of every participant: the plan's own places, else a circle for a ring, else forces. The cloud where nobody is."""
    names = list(history.board.rows)
    given = {name: tuple(place) for name, place in facts.get("positions", {}).items() if name in history.board.rows}
    if len(given) != len(names):
        given = _laid_out(names, facts)
    xs, ys = [place[0] for place in given.values()] or [0.0], [place[1] for place in given.values()] or [0.0]
    across = Scale(min(xs), max(xs), 56, width - 56)
    down = Scale(min(ys), max(ys), 44, height - 84)
    places = {name: (across(place[0]), down(place[1])) for name, place in given.items()}
    if history.board.cloud is not None:
        middle = (width / 2, (44 + height - 84) / 2)
        ends = [(places[edge[0]], places[edge[1]]) for edge in facts.get("edges", ()) if edge[0] in places and edge[1] in places]
        free = all(math.dist(middle, place) > 60 for place in places.values()) and all(_away(middle, *pair) > 24 for pair in ends)
        places[CLOUD] = middle if free else (44.0, 20.0)
    return places


def _away(point: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    """Distance of `point` from the line between `a` and `b`."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / ((dx * dx + dy * dy) or 1.0)
    share = min(1.0, max(0.0, along))
    return math.dist(point, (a[0] + share * dx, a[1] + share * dy))


def _laid_out(names: Sequence[str], facts: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    graph: nx.Graph[str] = nx.Graph()
    graph.add_nodes_from(names)
    graph.add_edges_from((edge[0], edge[1]) for edge in facts.get("edges", ()) if edge[0] in graph and edge[1] in graph)
    if len(names) < 3 or max(degree for _, degree in graph.degree()) <= 2 or len(names) > 400:
        return {name: (math.sin(2 * math.pi * i / len(names)), -math.cos(2 * math.pi * i / len(names))) for i, name in enumerate(names)}
    found = nx.spring_layout(graph, seed=1, iterations=60)
    return {name: (float(place[0]), float(place[1])) for name, place in found.items()}


def _carried(history: History, facts: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Bytes per undirected edge, those of the plan that carried nothing included."""
    planned = {(min(edge[0], edge[1]), max(edge[0], edge[1])): 0 for edge in facts.get("edges", ())}
    return planned | dict(history.edges)


def _edge(a: str, b: str, count: int, share: float, places: Mapping[str, tuple[float, float]]) -> str:
    (x1, y1), (x2, y2) = places[a], places[b]
    kind = "edge-idle" if not count else "edge-cloud" if CLOUD in (a, b) else "edge"
    line = tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, stroke_width=1.2 + 3.8 * share, stroke_opacity=f"{0.25 + 0.75 * share:.2f}")
    return tag("g", title(f"{a} – {b}: {size(count)} both ways"), line)


def _cloud(history: History, x: float, y: float) -> str:
    box = tag("rect", x=x - 24, y=y - 12, width=48, height=24, rx=6, class_="cloud")
    return tag("g", title(f"the cloud: {size(history.traffic[CLOUD].bytes)} sent"), box, label(x, y + 4, "cloud", "cloud-name", "middle"))


def _name(name: str, x: float, y: float, radius: float, width: float, height: float) -> str:
    """Beside the dot, away from the middle of the picture."""
    dx, dy = x - width / 2, y - (height - 40) / 2
    if abs(dy) > abs(dx):
        return label(x, y + (radius + 14 if dy > 0 else -radius - 6), name, "name", "middle")
    return label(x + (radius + 6 if dx > 0 else -radius - 6), y + 4, name, "name", "start" if dx > 0 else "end")


def _legend(tint: Scale, most: int, what: str, width: float, height: float) -> str:
    y = height - 26.0
    parts = [label(8, y - 7, what, "tick")]
    parts += [tag("rect", x=8 + i * 3.0, y=y, width=3.2, height=8, fill=_cividis(i / 39)) for i in range(40)]
    parts += [label(8, y + 20, figure(tint.low, 2), "tick"), label(128, y + 20, figure(tint.high, 2), "tick", "end")]
    left = width - 150
    parts.append(label(left, y - 7, "bytes on the edge", "tick"))
    wedge = path([(left, y + 4), (left + 140, y), (left + 140, y + 7)]) + "Z"
    parts += [tag("path", d=wedge, class_="wedge"), label(left, y + 20, "0", "tick"), label(left + 140, y + 20, size(most), "tick", "end")]
    return "".join(parts)


def _hatch() -> str:
    line = tag("path", d="M0 6L6 0", class_="hatch-line")
    ground = tag("rect", width=6, height=6, class_="hatch-ground")
    return tag("defs", tag("pattern", ground, line, id="hatch", width=6, height=6, patternUnits="userSpaceOnUse"))


def _numbers(spans: Sequence[Span], x: Scale, top: float, height: float) -> list[str]:
    """Numbers of the incidents along the top; where two would overlap the later one moves right."""
    parts, last = [], -100.0
    for span in spans if len(spans) <= 40 else []:
        at = x(span.start)
        last = max(at, last + 15)
        line = tag("line", x1=at, x2=at, y1=top - 6, y2=height - 36, class_="mark")
        parts.append(tag("g", title(f"{seconds(span.start)}: {span.text}"), line, label(last, top - 9, span.number, "number", "middle")))
    return parts


def _row(history: History, name: str, spans: Sequence[Span], x: Scale, y: float, tall: float) -> str:
    row = history.board.rows.get(name)
    fits = history.fits.get(name, [])
    start = fits[0][0] if fits else 0.0
    end = history.ended.get(name, history.end)
    state = row.state if row else "cloud"
    text = title(f"{name}: {state}, {seconds(start)} to {seconds(end)}")
    whole = tag("rect", text, x=x(start), y=y, width=_wide(x, start, end), height=tall, class_="up")
    parts = [label(x.from_ - 8, y + tall - 3, name, "name", "end"), whole]
    gone = [span for span in spans if name in span.twins and span.kind in ("outage", "crash")]
    for begin, until in fits:
        stop = min([until, *(span.start for span in gone if begin <= span.start < until)])
        if stop > begin:
            parts.append(tag("rect", x=x(begin), y=y, width=_wide(x, begin, min(stop, history.end)), height=tall, class_="fit"))
    ticks = "".join(f"M{number(x(tick))} {number(y)}v{number(tall)}" for tick in history.ticks.get(name, []))
    parts.append(tag("path", d=ticks, class_="round") if ticks else "")
    parts += [_span(span, history.end, x, y, tall) for span in spans if name in span.twins]
    if row is not None and row.lost:
        parts.append(label(x(end) + 2, y + tall - 2, "✕ lost", "lost"))
    return tag("g", *parts)


def _span(span: Span, end: float, x: Scale, y: float, tall: float) -> str:
    until = span.end if span.end is not None else span.start if span.kind in ("join", "leave") else end
    text = title(f"{span.number}: {span.text}, {seconds(span.start)} to {seconds(until)}")
    wide = _wide(x, span.start, until)
    if span.kind in ("outage", "crash"):
        return tag("rect", text, x=x(span.start), y=y, width=wide, height=tall, class_="dead" if span.kind == "crash" else "down")
    if span.kind in OVERLAYS:
        return tag("rect", text, x=x(span.start), y=y + tall, width=wide, height=3, class_="overlay")
    return tag("circle", text, cx=x(span.start), cy=y + tall / 2, r=4, class_="moment")


def _wide(x: Scale, start: float, end: float) -> float:
    return max(1.0, x(end) - x(start))


def _cividis(share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(CIVIDIS) - 1)
    index = min(int(place), len(CIVIDIS) - 2)
    part = place - index
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(CIVIDIS[index], CIVIDIS[index + 1], strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
