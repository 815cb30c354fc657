"""Who can talk to whom: the graph of a run, round by round, and the names of its twins."""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import networkx as nx

from p2pftl.errors import ScenarioError, TopologyError
from p2pftl.world.links import Override

Graph: TypeAlias = "nx.Graph[str]"
Pair = tuple[str, str]

CLOUD = "cloud"
MOST_TWINS = 10_000
MOST_EDGES = 1_000_000
KEPT_ROUNDS = 16
KEPT_NUMBERS = 1 << 22
"""Of graphs that never repeat, so many numbers are remembered (4 bytes each): 1,300 rounds of 1,000 twins with two neighbours."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Still:
    """The same graph in every round."""

    graph: Graph

    def __call__(self, round: int) -> Graph:
        return self.graph


@dataclass(frozen=True)
class Topology:
    """The graph of a run.

    kind: the policy's name; names: all twins, sorted; rounds: round -> graph over all names; order: the twins as the
    policy laid them out; period: rounds after which a time-varying graph repeats (1 if static, 0 if it never does);
    links: what single links have of their own, by (source, destination); groups: region of a twin, where there are
    regions; columns: twins per row of a lattice, else 0; notes: warnings to show ("E206 ...").
    """

    kind: str
    names: tuple[str, ...]
    rounds: Callable[[int], Graph]
    order: tuple[str, ...]
    directed: bool = False
    period: int = 1
    links: Mapping[Pair, Override] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    columns: int = 0
    notes: tuple[str, ...] = ()
    _graphs: OrderedDict[int, Graph] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)
    _shapes: OrderedDict[int, _Shape] = field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    @property
    def static(self) -> bool:
        """Whether every round has the same graph."""
        return self.period == 1

    def graph(self, round: int = 0) -> Graph:
        """The frozen graph of `round`; an nx.DiGraph if directed (edge a -> b: a sends to b)."""
        key = round % self.period if self.period else round
        found = self._graphs.get(key)
        if found is None:
            found = self._graphs[key] = self.rounds(key)
            while len(self._graphs) > KEPT_ROUNDS:
                self._graphs.popitem(last=False)
        return found

    def neighbours(self, name: str, round: int = 0) -> tuple[str, ...]:
        """Sorted twins that `name` can send to in `round`."""
        return self._shape(round).outward[name]

    def inward(self, name: str, round: int = 0) -> tuple[str, ...]:
        """Sorted twins that can send to `name` in `round`."""
        return self._shape(round).inward[name]

    def possible(self, name: str) -> tuple[str, ...]:
        """Sorted twins that share an edge with `name`, either way, in any round: union() without building the graph."""
        if self.period:
            return tuple(sorted(self.union().adj[name]))
        return tuple(other for other in self.names if other != name)

    def union(self) -> Graph:
        """Undirected graph of all edges of all rounds: complete if the graph never repeats."""
        return self._union

    @cached_property
    def _union(self) -> Graph:
        if not self.period:
            return _frozen(nx.complete_graph(self.names))
        if self.static and not self.directed:
            return self.graph()
        joined: Graph = nx.Graph()
        joined.add_nodes_from(self.names)
        for round in range(self.period):
            joined.add_edges_from(self.graph(round).edges)
        return _frozen(joined)

    def _shape(self, round: int) -> _Shape:
        """Who sends to whom in `round`. Twins of unequal speed are many rounds apart, so far more of these are kept than graphs."""
        key = round % self.period if self.period else round
        found = self._shapes.get(key)
        if found is None:
            found = self._shapes[key] = _shape(self.graph(key), {} if self.period else self._place)
            most = KEPT_ROUNDS if self.period else max(KEPT_ROUNDS, KEPT_NUMBERS // found.numbers)
            while len(self._shapes) > most:
                self._shapes.popitem(last=False)
        elif not self.period:
            self._shapes.move_to_end(key)
        return found

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered: a topology travels to every actor."""
        state = {key: value for key, value in self.__dict__.items() if key not in ("_union", "_place")}
        return state | {"_graphs": OrderedDict(), "_shapes": OrderedDict()}


class _Peers(Protocol):
    def __getitem__(self, name: str, /) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class _Shape:
    """Whom each twin sends to and who sends to it. numbers: how many a packed one takes."""

    outward: _Peers
    inward: _Peers
    numbers: int


class _Packed:
    """Peers of all twins by their places in the sorted names: a tenth of the memory of tuples of names."""

    def __init__(self, peers: Mapping[str, tuple[str, ...]], place: Mapping[str, int]) -> None:
        self._names, self._place = tuple(place), place
        self._ends = array("i", accumulate((len(peers[name]) for name in place), initial=0))
        self._peers = array("i", (place[peer] for name in place for peer in peers[name]))

    def __getitem__(self, name: str) -> tuple[str, ...]:
        place = self._place[name]
        return tuple([self._names[peer] for peer in self._peers[self._ends[place] : self._ends[place + 1]]])


def _shape(graph: Graph, place: Mapping[str, int]) -> _Shape:
    """With `place`, the twins' places in the sorted names, the shape is packed."""
    outward = {name: tuple(sorted(peers)) for name, peers in graph.adjacency()}
    inward = {name: tuple(sorted(peers)) for name, peers in graph.pred.items()} if isinstance(graph, nx.DiGraph) else outward
    numbers = graph.number_of_nodes() + 2 * graph.number_of_edges()
    if not place:
        return _Shape(outward, inward, numbers)
    sent = _Packed(outward, place)
    return _Shape(sent, sent if inward is outward else _Packed(inward, place), numbers)


def _frozen(graph: Graph) -> Graph:
    frozen: Graph = nx.freeze(graph)
    return frozen


def graph_of(names: Sequence[str], edges: Iterable[tuple[int, int]], *, directed: bool = False) -> Graph:
    """Return the frozen graph over `names` with `edges` given by position, both in canonical order."""
    graph: Graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(sorted(names))
    pairs = ((names[a], names[b]) for a, b in edges)
    graph.add_edges_from(sorted(pairs if directed else ((min(pair), max(pair)) for pair in pairs)))
    return _frozen(graph)


def still(
    kind: str,
    order: Sequence[str],
    edges: Iterable[tuple[int, int]],
    *,
    links: Mapping[Pair, Override] = MappingProxyType({}),
    groups: Mapping[str, str] = MappingProxyType({}),
    columns: int = 0,
) -> Topology:
    """Return the static undirected topology over `order` with `edges` given by position."""
    return Topology(
        kind=kind,
        names=tuple(sorted(order)),
        rounds=Still(graph_of(order, edges)),
        order=tuple(order),
        links=dict(links),
        groups=dict(groups),
        columns=columns,
        notes=alone(order),
    )


def alone(names: Sequence[str]) -> tuple[str, ...]:
    """The note that a single twin deserves."""
    return ("E206 one twin only: it learns alone, nothing is exchanged",) if len(names) == 1 else ()


def roll(twins: int | None, names: Sequence[str], *, known: str = "twins") -> tuple[str, ...]:
    """Return the names in the order given, or ct-01, ct-02, ... for a number of twins.

    known: the field that gives the number, for messages. Raises ScenarioError E124, E125, E128; TopologyError E209.
    """
    if twins is None and not names:
        raise ScenarioError("E128", f"topology: neither {known} nor names", fix=f"add {known}: 8, or names: [...]")
    count = len(names) if twins is None else twins
    if names and count != len(names):
        raise ScenarioError("E128", f"topology: {known} gives {count} twins but there are {len(names)} names", fix="give one of the two")
    if count < 1:
        raise TopologyError("E205", f"topology: {known} = {count}, at least 1 is needed")
    bound(count, 0)
    if not names:
        width = max(2, len(str(count)))
        return tuple(f"ct-{number:0{width}d}" for number in range(1, count + 1))
    check_names(names)
    return tuple(names)


def bound(twins: int, edges: float) -> None:
    """Raise TopologyError E209 for a graph too large to hold, before it is built."""
    if twins > MOST_TWINS:
        raise TopologyError("E209", f"topology: {twins} twins, at most {MOST_TWINS} are allowed")
    if edges > MOST_EDGES:
        raise TopologyError("E209", f"topology: about {edges:.0f} edges, at most {MOST_EDGES} are allowed", fix="use a sparser graph")


def check_names(names: Iterable[str], *, where: str = "") -> None:
    """Raise ScenarioError E124 (duplicate) or E125 (not a possible name) for the first name that cannot stand."""
    seen: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            fix = "use letters, digits, '.', '_' and '-', up to 64, the first a letter or digit"
            raise ScenarioError("E125", f"twin name {name[:80]!a} is not allowed", where=where, fix=fix)
        folded = name.casefold()
        if folded == CLOUD:
            raise ScenarioError("E125", f"twin name {name} is reserved for the coordinator", where=where, fix="choose another name")
        if folded in seen:
            if seen[folded] == name:
                raise ScenarioError("E124", f"twin name {name} occurs twice", where=where, fix="names must be unique")
            raise ScenarioError("E125", f"twin names {seen[folded]} and {name} differ in case only", where=where, fix="choose another name")
        seen[folded] = name


def check_connected(graph: Graph, *, where: str = "", fix: str = "") -> None:
    """Raise TopologyError E204, listing the parts, if some twin cannot reach another (directed: along the arrows)."""
    directed = isinstance(graph, nx.DiGraph)
    found = nx.strongly_connected_components(graph) if isinstance(graph, nx.DiGraph) else nx.connected_components(graph)
    parts = sorted((sorted(part) for part in found), key=lambda part: (-len(part), part))
    if len(parts) > 1:
        shown = " | ".join(", ".join(part[:4]) + (f" and {len(part) - 4} more" if len(part) > 4 else "") for part in parts[:4])
        rest = f" | and {len(parts) - 4} more parts" if len(parts) > 4 else ""
        how = "disconnected along its arrows" if directed else "disconnected"
        raise TopologyError("E204", f"the graph is {how}, {len(parts)} parts: {shown}{rest}", where=where, fix=fix)
