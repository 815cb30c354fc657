"""Networks drawn in an editor: GraphML read with suspicion, every complaint with its line."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from xml.parsers import expat

import networkx as nx

from p2pftl.errors import TopologyError, nearest
from p2pftl.world.links import DAY, Override
from p2pftl.world.topology import Graph, Pair, Still, Topology, alone, bound, check_connected, check_names

LARGEST = 10_000_000
"""Bytes."""

_RANGES = {
    "latency": (0.0, DAY, "seconds, at least 0"),
    "bandwidth": (math.ulp(0.0), 1e15, "bytes per second, more than 0"),
    "jitter": (0.0, DAY, "seconds, at least 0"),
    "loss": (0.0, math.nextafter(1.0, 0.0), "a probability, less than 1"),
    "duplication": (0.0, math.nextafter(1.0, 0.0), "a probability, less than 1"),
}
_TYPES = ("boolean", "int", "long", "float", "double", "string")


def read(path: str, *, disconnected: bool = False) -> Topology:
    """Return the topology drawn in the GraphML file at `path` (as given, relative to the working folder).

    Names are the `id`s of its <node>s, or their `name` attributes if all have one; `region` attributes become groups.
    Edge attributes latency, jitter [s], bandwidth [bytes/s], loss, duplication override the scenario's links. A directed
    drawing in which every edge has its opposite is an undirected one whose links differ by direction.
    Raises TopologyError E201-E204, E209, E211 (cannot be read), E212 (attribute); ScenarioError E124, E125.
    """
    data = _bytes(path)
    scan = _Scan.of(data, path)
    scan.check(path)
    drawn = _parse(data, path)
    bound(drawn.number_of_nodes(), drawn.number_of_edges())
    names = _names(drawn, scan, path)
    links, unused = _links(drawn, names, scan, path)
    graph = nx.relabel_nodes(_bare(drawn), names)
    regions = {names[key]: str(data["region"]) for key, data in drawn.nodes(data=True) if "region" in data}
    if not disconnected:
        check_connected(graph, where=path, fix="add links, or say disconnected: true")
    order = tuple(names[key] for key in scan.lines)
    directed = isinstance(graph, nx.DiGraph)
    notes = (*scan.notes(path), *unused, *alone(order))
    return Topology(
        "file", tuple(sorted(order)), Still(nx.freeze(graph)), order, directed=directed, links=links, groups=regions, notes=notes
    )


def _bytes(path: str) -> bytes:
    place = Path(path)
    try:
        if place.is_dir():
            raise TopologyError("E211", "is a folder, a GraphML file is needed", where=path)
        if place.exists() and not place.is_file():
            raise TopologyError("E211", "is not a regular file", where=path)
        with place.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        near = difflib.get_close_matches(place.name, _beside(place), n=1)
        fix = f"did you mean {place.with_name(near[0])}?" if near else "give the path of a .graphml file"
        raise TopologyError("E211", "no such topology file, or it cannot be opened", where=path, fix=fix) from error
    if len(data) > LARGEST:
        raise TopologyError("E211", f"is larger than {LARGEST // 1_000_000} MB", where=path)
    return data


def _beside(place: Path) -> list[str]:
    try:
        return [item.name for item in place.parent.iterdir()]
    except (OSError, ValueError):
        return []


@dataclass
class _Scan:
    """What a first pass over the text tells: no DOCTYPE, and on which line each node and edge stands."""

    lines: dict[str, int] = field(default_factory=dict)
    edges: list[tuple[str, str, int]] = field(default_factory=list)
    twice: list[tuple[str, int]] = field(default_factory=list)
    drawings: int = 0
    directed: bool = False
    types: list[tuple[str, str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, data: bytes, path: str) -> _Scan:
        scan = cls()
        parser = expat.ParserCreate(namespace_separator=" ")

        def doctype(*_: object) -> None:
            raise TopologyError("E211", "a DOCTYPE or entity is not allowed", where=f"{path}:{parser.CurrentLineNumber}", fix="remove it")

        parser.StartDoctypeDeclHandler = doctype
        parser.StartElementHandler = lambda tag, given: scan._element(tag.rpartition(" ")[2], given, parser.CurrentLineNumber)
        try:
            parser.Parse(data, True)
        except (expat.ExpatError, ValueError, LookupError) as error:
            where = f"{path}:{error.lineno}" if isinstance(error, expat.ExpatError) else path
            raise TopologyError("E211", "is not well-formed XML", where=where, fix="save it as GraphML again") from error
        return scan

    def _element(self, tag: str, given: Mapping[str, str], line: int) -> None:
        if tag == "graph":
            self.drawings += 1
            self.directed = given.get("edgedefault") == "directed"
        elif tag == "node":
            name = given.get("id", "")
            if name in self.lines:
                self.twice.append((name, line))
            self.lines.setdefault(name, line)
        elif tag == "edge":
            self.edges.append((given.get("source", ""), given.get("target", ""), line))
        elif tag == "key" and "attr.name" in given:
            self.types.append((given["attr.name"], given.get("attr.type", "string"), line))

    def check(self, path: str) -> None:
        """Raise for what networkx would quietly accept: unknown ends, self loops, several graphs, unknown types."""
        if self.drawings != 1:
            raise TopologyError("E211", f"holds {self.drawings} graphs, exactly one is needed", where=path)
        if not self.lines:
            raise TopologyError("E211", "holds no node", where=path)
        for name, line in self.twice:
            raise TopologyError("E211", f"node id {name[:64]!a} occurs twice", where=f"{path}:{line}")
        for name, kind, line in self.types:
            if kind not in _TYPES:
                fix = "allowed: " + ", ".join(_TYPES)
                raise TopologyError("E212", f"attribute {name[:64]!a} has the unknown type {kind[:64]!a}", where=f"{path}:{line}", fix=fix)
        for source, target, line in self.edges:
            for end in (source, target):
                if end not in self.lines:
                    fix = nearest(end[:64], list(self.lines)[:50])
                    raise TopologyError("E201", f"edge to unknown twin {end[:64]!a}", where=f"{path}:{line}", fix=fix)
            if source == target:
                raise TopologyError("E202", f"edge from {source[:64]!a} to itself", where=f"{path}:{line}", fix="remove it")

    def notes(self, path: str) -> tuple[str, ...]:
        """Duplicate edges: the last one drawn counts."""
        seen: dict[Pair, int] = {}
        found = []
        for source, target, line in self.edges:
            pair = self._pair(source, target)
            if pair in seen:
                found.append(f"E203 {path}:{line}: edge {source} - {target} is drawn twice (line {seen[pair]}), the last one counts")
            seen[pair] = line
        return tuple(found)

    @cached_property
    def _places(self) -> dict[Pair, int]:
        return {self._pair(source, target): line for source, target, line in self.edges}

    def line(self, source: str, target: str) -> int:
        """Line of the last edge between the two."""
        return self._places[self._pair(source, target)]

    def _pair(self, source: str, target: str) -> Pair:
        return (source, target) if self.directed else (min(source, target), max(source, target))


def _parse(data: bytes, path: str) -> nx.Graph[Any]:
    """Let networkx read it; parallel edges collapse to the last one drawn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = next(nx.readwrite.graphml.GraphMLReader()(string=data))
    except (
        nx.NetworkXError,
        ParseError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        LookupError,
        StopIteration,
    ) as error:
        fix = "plain nodes and edges only; attribute values must fit their types"
        raise TopologyError("E212", "a value or a construct of this GraphML is not understood", where=path, fix=fix) from error
    if isinstance(drawn, nx.MultiDiGraph):
        return nx.DiGraph(drawn)
    return nx.Graph(drawn) if isinstance(drawn, nx.MultiGraph) else drawn


def _names(drawn: nx.Graph[Any], scan: _Scan, path: str) -> dict[str, str]:
    """Map node ids to twin names."""
    given = {key: data.get("name") for key, data in drawn.nodes(data=True)}
    names = (
        {key: str(name) for key, name in given.items()} if all(name is not None for name in given.values()) else {key: key for key in given}
    )
    seen: list[str] = []
    for key in scan.lines:
        check_names([names[key]], where=f"{path}:{scan.lines[key]}")
        seen.append(names[key])
    check_names(seen, where=path)
    return names


def _links(drawn: nx.Graph[Any], names: Mapping[str, str], scan: _Scan, path: str) -> tuple[dict[Pair, Override], tuple[str, ...]]:
    """Return the links' own values by direction, and notes about attributes that look misspelt."""
    known = {item.name for item in fields(Override)} & _RANGES.keys()
    links: dict[Pair, Override] = {}
    others: set[str] = set()
    for source, target, data in drawn.edges(data=True):
        others |= data.keys() - known
        own = {key: _value(key, data[key], f"{path}:{scan.line(source, target)}") for key in sorted(known & data.keys())}
        if own:
            links[names[source], names[target]] = Override(**own)
            if not drawn.is_directed():
                links[names[target], names[source]] = Override(**own)
    return links, tuple(_misspelt(sorted(others), known))


def _misspelt(found: Iterable[str], known: set[str]) -> Iterable[str]:
    for name in found:
        hint = nearest(name, known)
        if hint.startswith("did you mean"):
            yield f"E212 edge attribute {name[:64]!a} is not used; {hint}"


def _value(key: str, value: object, where: str) -> float:
    low, high, meaning = _RANGES[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TopologyError("E212", f"{key} is a {type(value).__name__}, a number is needed", where=where, fix='use attr.type="double"')
    if not low <= value <= high:
        raise TopologyError("E212", f"{key} = {value:g} is out of range", where=where, fix=f"{key} is {meaning}")
    return float(value)


def _bare(drawn: nx.Graph[Any]) -> Graph:
    """The drawing without attributes, sorted; undirected if every edge has its opposite."""
    edges = sorted(drawn.edges)
    both = drawn.is_directed() and all(drawn.has_edge(b, a) for a, b in edges)
    bare: Graph = nx.DiGraph() if drawn.is_directed() and not both else nx.Graph()
    bare.add_nodes_from(sorted(drawn.nodes))
    bare.add_edges_from(edges)
    return bare
