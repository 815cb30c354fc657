"""Which participants share a process."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import networkx as nx

from p2pftl.world.topology import Topology

TWINS_PER_CORE = 2  # processes beyond that win nothing, and each costs a second or two of one core at the start
PROCESS_BYTES = 0.4e9  # of a torch process without data; half of the machine's memory is left to data and others


@dataclass(frozen=True)
class Packing:
    """crews: participants by process; why: one sentence."""

    crews: tuple[tuple[str, ...], ...]
    why: str


def packing(together: Mapping[str, float], alone: Sequence[str], asked: int | Literal["auto"], cores: int) -> Packing:
    """Deal the twins `together` (name -> compute speed, neighbours near each other) to processes of `asked` twins each.

    Everybody in `alone` has its own. Processes get fast and slow twins alike, or one would be done long before the other.
    auto: one process per twin while cores and memory hold them comfortably, else one process per core.
    """
    count = len(together)
    each, why = (_automatic(count, cores), "chosen by auto") if asked == "auto" else (asked, "as asked")
    actors = math.ceil(count / each)
    crews = tuple(tuple(sorted(crew)) for crew in _dealt(together, actors)) + tuple((name,) for name in alone)
    size = "one twin each" if each == 1 else f"up to {each} twins each"
    more = f", {len(alone)} more for the cloud or scripted crashes" if alone else ""
    return Packing(crews, f"{actors} actor{'s' * (actors > 1)}, {size} ({why}, {cores} cores){more}")


def neighbourly(topology: Topology) -> list[str]:
    """The twins in an order that keeps neighbours near each other (reverse Cuthill-McKee): fewer frames leave a process."""
    graph = nx.Graph(topology.graph(0))
    return list(nx.utils.reverse_cuthill_mckee_ordering(graph))


def _dealt(speeds: Mapping[str, float], actors: int) -> list[list[str]]:
    """As many twins to each process, fast and slow ones alike; those of one speed in stretches, so that neighbours sit together."""
    crews: list[list[str]] = [[] for _ in range(actors)]
    alike: dict[float, list[str]] = {}
    for name, speed in speeds.items():
        alike.setdefault(speed, []).append(name)
    for speed, names in sorted(alike.items(), reverse=True):
        load = [(len(crew), sum(speeds[name] for name in crew), place) for place, crew in enumerate(crews)]
        heapq.heapify(load)
        shares = [0] * actors
        for _ in names:
            size, fast, place = load[0]
            heapq.heapreplace(load, (size + 1, fast + speed, place))
            shares[place] += 1
        rest = iter(names)
        for crew, share in zip(crews, shares, strict=True):
            crew.extend(islice(rest, share))
    return crews


def _automatic(count: int, cores: int) -> int:
    fits = count * PROCESS_BYTES <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    return 1 if count <= TWINS_PER_CORE * cores and fits else math.ceil(count / cores)
