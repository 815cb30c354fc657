"""Where the twins stand in a picture, and how the lines between them run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import networkx as nx

from p2pftl.world.topology import Graph, Pair, Topology

Point = tuple[float, float]

_CIRCLES = ("ring", "complete", "exponential", "one_peer_exponential", "epidemic", "small_world")
_BENDS = (0.0, 0.14, -0.14, 0.24, -0.24, 0.34, -0.34)
_MOST_BENT = 8_000
_FEW = 5
_SWEEPS = 3


def positions(topology: Topology, groups: Mapping[str, str] | None = None) -> dict[str, Point]:
    """Return name -> (x, y) in [0, 1], y downwards, the same for every round and every call.

    groups: regions to keep together, those of the topology by default.
    """
    order, regions = topology.order, topology.groups if groups is None else groups
    if len(order) == 1:
        return {order[0]: (0.5, 0.5)}
    if topology.columns:
        return _fit({name: divmod(i, topology.columns)[::-1] for i, name in enumerate(order)})
    if topology.kind == "line":
        return _fit(_snake(order))
    if topology.kind == "tree":
        return _fit(_tree(topology.graph(), order))
    if topology.kind == "star":
        return _fit(_circle(order[1:]) | {order[0]: (0.0, 0.0)}) if len(order) > 2 else _fit(_circle(order))
    if topology.kind in _CIRCLES:
        return _fit(_circle(order))
    if len(set(regions.values())) > 1:
        return _fit(_regions(topology.union(), order, regions))
    return _fit(_free(topology.union()))


def bends(edges: Iterable[Pair], places: Mapping[str, Point], clear: float) -> dict[Pair, float]:
    """Return how far each line bows aside, as a share of its length, so that it passes other twins at a distance of `clear`."""
    edges = tuple(edges)
    if len(edges) * len(places) > _MOST_BENT:
        return dict.fromkeys(edges, 0.0)
    return {edge: _bend(*edge, places, clear) for edge in edges}


def curve(start: Point, stop: Point, bend: float, pieces: int = 24) -> list[Point]:
    """Return points of the quadratic curve from start to stop whose middle is `bend` x length aside; straight: its ends."""
    if not bend:
        return [start, stop]
    (x0, y0), (x1, y1) = start, stop
    middle = ((x0 + x1) / 2 - 2 * bend * (y1 - y0), (y0 + y1) / 2 + 2 * bend * (x1 - x0))
    points = []
    for piece in range(pieces + 1):
        t = piece / pieces
        u = 1 - t
        points.append(tuple(u * u * p + 2 * u * t * m + t * t * q for p, m, q in zip(start, middle, stop, strict=True)))
    return cast(list[Point], points)


def _bend(a: str, b: str, places: Mapping[str, Point], clear: float) -> float:
    """The slightest bend that runs into nobody, else the one that runs into fewest."""
    costs: dict[float, int] = {}
    for bend in _BENDS:
        costs[bend] = _crossed(a, b, bend, places, clear)
        if not costs[bend]:
            return bend
    return min(_BENDS, key=lambda bend: costs[bend])


def _crossed(a: str, b: str, bend: float, places: Mapping[str, Point], clear: float) -> int:
    """How many twins the line runs into, and whether it leaves the picture."""
    line = curve(places[a], places[b], bend, 16)
    pieces = list(itertools.pairwise(line))
    others = (place for name, place in places.items() if name not in (a, b))
    outside = any(not -0.05 < part < 1.05 for point in line for part in point)
    return outside + sum(any(_distance(place, *piece) < clear for piece in pieces) for place in others)


def _distance(point: Point, start: Point, stop: Point) -> float:
    """Distance of `point` from the segment."""
    (px, py), (ax, ay), (bx, by) = point, start, stop
    length = (bx - ax) ** 2 + (by - ay) ** 2
    t = min(1.0, max(0.0, ((px - ax) * (bx - ax) + (py - ay) * (by - ay)) / length)) if length else 0.0
    return math.hypot(px - ax - t * (bx - ax), py - ay - t * (by - ay))


def _circle(names: Sequence[str], centre: Point = (0.0, 0.0), radius: float = 1.0, turn: float = -math.pi / 2) -> dict[str, Point]:
    """Clockwise from the top."""
    step = 2 * math.pi / len(names)
    x, y = centre
    return {name: (x + radius * math.cos(turn + i * step), y + radius * math.sin(turn + i * step)) for i, name in enumerate(names)}


def _snake(names: Sequence[str]) -> dict[str, Point]:
    """A short line in a slight zigzag, a long one in rows, to and fro."""
    if len(names) <= _FEW * 2:
        return {name: (float(i), 0.3 * (i % 2)) for i, name in enumerate(names)}
    wide = math.ceil(math.sqrt(1.5 * len(names)))
    rows = [divmod(i, wide) for i in range(len(names))]
    return {name: (float(wide - 1 - x if y % 2 else x), float(y)) for name, (y, x) in zip(names, rows, strict=True)}


def _tree(graph: Graph, order: Sequence[str]) -> dict[str, Point]:
    """Root at the top, leaves at equal distances in the order of a walk."""
    children: dict[str, list[str]] = nx.dfs_successors(graph, order[0])
    depth = nx.single_source_shortest_path_length(graph, order[0])
    places: dict[str, Point] = {}
    leaves = 0
    for name in nx.dfs_postorder_nodes(graph, order[0]):
        below = children.get(name, [])
        if below:
            x = sum(places[child][0] for child in below) / len(below)
        else:
            x, leaves = float(leaves), leaves + 1
        places[name] = (x, depth[name])
    width, height = max(1, leaves - 1), max(depth.values())
    return {name: (x / width * 1.5, y / height) for name, (x, y) in places.items()}


def _regions(graph: Graph, order: Sequence[str], regions: Mapping[str, str]) -> dict[str, Point]:
    """Regions on a large circle, each a small circle turned and ordered so that its links are short."""
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(regions.get(name, name), []).append(name)
    centres = _circle(list(members))
    narrow = math.sin(math.pi / len(members))
    radius = 1.01 * narrow / (1 + narrow)
    places: dict[str, Point] = {}
    for region, names in members.items():
        places |= _circle(names, centres[region], radius if len(names) > 1 else 0.0)
    for _ in range(_SWEEPS):
        for region, names in members.items():
            if len(names) > 1:
                rings = (_circle(ring, centres[region], radius, k * math.pi / 12) for ring in _rings(names) for k in range(24))
                best: dict[str, Point] = min(rings, key=lambda ring: round(_strain(ring, graph, places), 9))
                places |= best
    return places


def _rings(names: Sequence[str]) -> Iterable[Sequence[str]]:
    """The orders of a small circle worth trying."""
    if len(names) > _FEW:
        return (names,)
    return ([names[0], *rest] for rest in itertools.permutations(names[1:]))


def _strain(ring: Mapping[str, Point], graph: Graph, places: Mapping[str, Point]) -> float:
    """Summed length of the links of the twins of a region, those inside it counted at a fifth."""
    total = 0.0
    for name, (x, y) in ring.items():
        for peer in graph.adj[name]:
            ox, oy = ring.get(peer) or places[peer]
            total += math.hypot(x - ox, y - oy) * (0.1 if peer in ring else 1.0)
    return total


def _free(graph: Graph) -> dict[str, Point]:
    """Kamada and Kawai while that is affordable, else a spring model; both from a fixed start."""
    start = nx.circular_layout(graph)
    if graph.number_of_nodes() <= 120 and nx.is_connected(graph):
        placed = nx.kamada_kawai_layout(graph, pos=start)
    else:
        placed = nx.spring_layout(graph, pos=start, seed=1, iterations=60)
    return {name: (float(x), float(y)) for name, (x, y) in placed.items()}


def _fit(places: Mapping[str, Point]) -> dict[str, Point]:
    """Scale into the unit square: both sides filled, unless that would distort by more than a half."""
    xs, ys = [x for x, _ in places.values()], [y for _, y in places.values()]
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    most = max(width, height)
    across, down = max(width, most / 1.5) or 1.0, max(height, most / 1.5) or 1.0
    left, top = (min(xs) + max(xs) - across) / 2, (min(ys) + max(ys) - down) / 2
    return {name: ((x - left) / across, (y - top) / down) for name, (x, y) in places.items()}
