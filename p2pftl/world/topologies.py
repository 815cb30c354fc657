"""The graphs a scenario can ask for by name. Each is a frozen dataclass whose fields are its YAML keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import networkx as nx
from annotated_types import Ge, Interval

from p2pftl.draw import number
from p2pftl.errors import TopologyError
from p2pftl.world import graphml
from p2pftl.world.links import Override
from p2pftl.world.topology import Graph, Pair, Topology, alone, bound, graph_of, roll, still

DRAWS = 100
"""How often a random graph is drawn anew before it is given up as disconnected."""

Twins = Annotated[int, Ge(1)] | None
Names = tuple[str, ...]


@dataclass(frozen=True)
class Ring:
    """Every twin has two neighbours, in the order of the names."""

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        return still("ring", order, nx.cycle_graph(len(order)).edges if len(order) > 1 else ())


@dataclass(frozen=True)
class Complete:
    """Every twin is a neighbour of every other."""

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        bound(len(order), len(order) * (len(order) - 1) / 2)
        return still("complete", order, nx.complete_graph(len(order)).edges)


@dataclass(frozen=True)
class Star:
    """The first twin is the only neighbour of all others."""

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        return still("star", order, nx.star_graph(len(order) - 1).edges)


@dataclass(frozen=True)
class Line:
    """A ring that is not closed."""

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        return still("line", order, nx.path_graph(len(order)).edges)


@dataclass(frozen=True)
class Grid:
    """Rows times columns of twins, each beside up to four neighbours; names run along the rows."""

    rows: Annotated[int, Ge(1)]
    columns: Annotated[int, Ge(1)]
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.rows * self.columns, self.names, known="rows x columns")
        return still("grid", order, _lattice(self.rows, self.columns, periodic=False), columns=self.columns)


@dataclass(frozen=True)
class Torus:
    """A grid whose borders are joined: every twin has four neighbours."""

    rows: Annotated[int, Ge(3)]
    columns: Annotated[int, Ge(3)]
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.rows * self.columns, self.names, known="rows x columns")
        if min(self.rows, self.columns) < 3:
            raise TopologyError("E205", f"torus of {self.rows} x {self.columns}: both must be at least 3", fix="use grid or ring")
        return still("torus", order, _lattice(self.rows, self.columns, periodic=True), columns=self.columns)


@dataclass(frozen=True)
class Tree:
    """Every twin but the leaves has `branching` twins below it; the first is the root."""

    branching: Annotated[int, Ge(1)] = 2
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        if self.branching < 1:
            raise TopologyError("E205", f"tree: branching = {self.branching}, at least 1 is needed")
        return still("tree", order, nx.full_rary_tree(self.branching, len(order)).edges)


@dataclass(frozen=True)
class Regular:
    """A random connected graph in which every twin has `k` neighbours."""

    k: int
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        _check_regular("regular", "k", self.k, len(order))
        bound(len(order), len(order) * self.k / 2)
        fix = "use k of at least 3" if self.k < 3 else "use another seed or a larger k"
        return _connected("regular", order, lambda draw: nx.random_regular_graph(self.k, len(order), seed=draw), seed, fix)


@dataclass(frozen=True)
class SmallWorld:
    """Watts and Strogatz 1998: a ring with `k` nearest neighbours, each edge rewired with probability `p`."""

    k: int
    p: float
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        n = len(order)
        if self.k < 2 or self.k % 2 or self.k >= n:
            raise TopologyError(
                "E205", f"small_world: k = {self.k} for {n} twins", fix="k must be even, at least 2 and less than the number of twins"
            )
        _check_probability("small_world", self.p)
        bound(n, n * self.k / 2)
        draw = partial(_small_world, n, self.k, self.p)
        return _connected("small_world", order, draw, seed, "use a larger k or a smaller p")


@dataclass(frozen=True)
class ErdosRenyi:
    """Every pair is joined with probability `p`; drawn again until connected."""

    p: float
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        n = len(order)
        _check_probability("erdos_renyi", self.p)
        bound(n, self.p * n * (n - 1) / 2)
        fix = f"raise p: above ln(n)/n = {math.log(n) / n:.2f} most draws are connected" if n > 1 else ""
        return _connected("erdos_renyi", order, lambda draw: nx.fast_gnp_random_graph(n, self.p, seed=draw), seed, fix)


@dataclass(frozen=True)
class ScaleFree:
    """Barabasi and Albert 1999: each new twin joins `m` others, the well-connected ones more often."""

    m: int
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        if not 1 <= self.m < max(2, len(order)):
            raise TopologyError(
                "E205", f"scale_free: m = {self.m} for {len(order)} twins", fix="m must be at least 1 and less than the number of twins"
            )
        bound(len(order), len(order) * self.m)
        if len(order) == 1:
            return still("scale_free", order, ())
        return _connected("scale_free", order, lambda draw: nx.barabasi_albert_graph(len(order), self.m, seed=draw), seed, "")


@dataclass(frozen=True)
class Exponential:
    """Static exponential graph: neighbours at distance 1, 2, 4, ... either way, among the sorted names."""

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = tuple(sorted(roll(self.twins, self.names)))
        hops = [2**k for k in range(_log2(len(order)))]
        return still("exponential", order, nx.circulant_graph(len(order), hops).edges)


@dataclass(frozen=True)
class Clusters:
    """Regions of fully joined hospitals; neighbouring regions share `bridges` slower links.

    The regions form a ring. A regional link has the scenario's latency times latency_factor and its bandwidth times
    bandwidth_factor.
    """

    hospitals: Annotated[int, Ge(1)]
    clusters: Annotated[int, Ge(1)]
    bridges: Annotated[int, Ge(1)] = 1
    latency_factor: Annotated[float, Interval(ge=1, le=1e6)] = 4.0
    bandwidth_factor: Annotated[float, Interval(gt=0, le=1)] = 0.25
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.hospitals * self.clusters, self.names, known="hospitals x clusters")
        if not 1 <= self.bridges <= self.hospitals:
            fix = "bridges must be at least 1 and at most the hospitals of a cluster"
            raise TopologyError("E205", f"clusters: {self.bridges} bridges for {self.hospitals} hospitals", fix=fix)
        size = self.hospitals
        bound(len(order), self.clusters * size * (size - 1) / 2)
        inside = [(first + a, first + b) for first in range(0, len(order), size) for a in range(size) for b in range(a + 1, size)]
        between = list(self._bridges())
        slower = Override(latency_factor=self.latency_factor, bandwidth_factor=self.bandwidth_factor)
        links: dict[Pair, Override] = {}
        for a, b in between:
            links[order[a], order[b]] = links[order[b], order[a]] = slower
        groups = {name: f"region {position // size + 1}" for position, name in enumerate(order)}
        return still("clusters", order, inside + between, links=links, groups=groups)

    def _bridges(self) -> Iterable[tuple[int, int]]:
        """A region's first hospitals lead to the last hospitals of the next region, so that few hospitals carry two bridges."""
        pairs = {1: 0, 2: 1}.get(self.clusters, self.clusters)
        for region in range(pairs):
            following = (region + 1) % self.clusters
            for bridge in range(self.bridges):
                yield region * self.hospitals + bridge, following * self.hospitals + self.hospitals - 1 - bridge


@dataclass(frozen=True)
class File:
    """A drawn network: GraphML with node ids as names and, per edge, latency, bandwidth, jitter, loss, duplication."""

    path: str
    disconnected: bool = False

    def build(self, seed: int) -> Topology:
        return graphml.read(self.path, disconnected=self.disconnected)


@dataclass(frozen=True)
class OnePeerExponential:
    """Time-varying, directed: in round k twin i sends to twin i + 2^(k mod tau), tau = ceil(log2 n), among the sorted names.

    For n = 2^tau, tau rounds of halving give the exact mean (Ying et al. 2021, Assran et al. 2019).
    """

    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        names = tuple(sorted(roll(self.twins, self.names)))
        tau = max(1, _log2(len(names)))
        return Topology("one_peer_exponential", names, partial(_one_peer, names), names, directed=True, period=tau, notes=alone(names))


@dataclass(frozen=True)
class Epidemic:
    """Time-varying: a fresh random graph each round in which every twin has `s` neighbours (EL-Oracle, de Vos 2023)."""

    s: int
    twins: Twins = None
    names: Names = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)
        _check_regular("epidemic", "s", self.s, len(order))
        bound(len(order), len(order) * self.s / 2)
        return Topology("epidemic", tuple(sorted(order)), partial(_fresh, order, self.s, seed), order, period=0, notes=alone(order))


def _one_peer(names: Sequence[str], round: int) -> Graph:
    n = len(names)
    hop = 2 ** (round % max(1, _log2(n)))
    return graph_of(names, ((i, (i + hop) % n) for i in range(n) if n > 1), directed=True)


def _fresh(order: Sequence[str], s: int, seed: int, round: int) -> Graph:
    graph = nx.random_regular_graph(s, len(order), seed=number(seed, "topology", "epidemic", round))
    return graph_of(order, graph.edges)


def _small_world(n: int, k: int, p: float, draw: int) -> nx.Graph[Any]:
    graph: nx.Graph[Any] = nx.watts_strogatz_graph(n, k, p, seed=draw)
    return graph


def _connected(kind: str, order: Sequence[str], draw: Callable[[int], nx.Graph[Any]], seed: int, fix: str) -> Topology:
    """Draw until the graph is connected; raise TopologyError E204 when DRAWS draws were not."""
    for attempt in range(DRAWS):
        graph = draw(number(seed, "topology", kind, attempt))
        if nx.is_connected(graph):
            return still(kind, order, graph.edges)
    raise TopologyError("E204", f"{kind}: none of {DRAWS} draws with {len(order)} twins was connected", fix=fix)


def _lattice(rows: int, columns: int, *, periodic: bool) -> Iterable[tuple[int, int]]:
    for (a, b), (c, d) in nx.grid_2d_graph(rows, columns, periodic=periodic).edges:
        yield a * columns + b, c * columns + d


def _check_regular(kind: str, field: str, degree: int, twins: int) -> None:
    lone = twins == 1 and degree == 0
    if not lone and (not 1 <= degree < twins or degree * twins % 2):
        fix = f"{field} must be at least 1, less than the number of twins, and {field} x twins even"
        raise TopologyError("E205", f"{kind}: {field} = {degree} for {twins} twins", fix=fix)


def _check_probability(kind: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise TopologyError("E205", f"{kind}: p = {p:g}, a probability lies in [0, 1]")


def _log2(n: int) -> int:
    """ceil(log2 n), exactly."""
    return (n - 1).bit_length()
