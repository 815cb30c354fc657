"""The kept-up horizon says at every moment exactly what Dijkstra's algorithm over everybody would."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
import pytest

from p2pftl.swarm.horizon import Horizon, Least, Reach, Web, reach
from p2pftl.world.links import Link, Override
from p2pftl.world.topologies import Clusters, Complete, Epidemic, OnePeerExponential, Ring, Star
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

Said = dict[str, tuple[float, float]]


def spelt_out(ways: Reach) -> dict[str, list[tuple[str, float]]]:
    """Whom each participant can send to, one by one."""
    if ways.crowd is None:
        links = {name: list(ways.links[name]) for name in ways.twins}
    else:
        links = {name: [(peer, ways.crowd) for peer in ways.twins if peer != name] for name in ways.twins}
    if ways.cloud is not None:
        for name in ways.twins:
            links[name].append((CLOUD, ways.cloud))
        links[CLOUD] = [(name, ways.cloud) for name in ways.twins]
    return links


def oracle(ways: Reach, said: Said) -> dict[str, float]:
    """Safe times from scratch."""
    links = spelt_out(ways)
    safe = dict.fromkeys(links, math.inf)
    could = {name: said[name][0] for name in links}
    heap = [(t, name) for name, t in could.items() if t < math.inf]
    heapq.heapify(heap)
    while heap:
        t, name = heapq.heappop(heap)
        if t > could[name]:
            continue
        for receiver, latency in links[name]:
            arrival = t + latency
            if arrival < safe[receiver]:
                safe[receiver] = arrival
                if arrival + said[receiver][1] < could[receiver]:
                    could[receiver] = arrival + said[receiver][1]
                    heapq.heappush(heap, (could[receiver], receiver))
    return safe


def some_ways(chance: np.random.Generator) -> Reach:
    """A random graph, a crowd, or a crowd by chance of size one; with and without a cloud."""
    names = tuple(f"ct-{i:02d}" for i in range(int(chance.integers(1, 14))))
    cloud = float(chance.choice([1e-6, 0.1, 3.0])) if chance.random() < 0.5 else None
    if chance.random() < 0.4:
        return Reach(names, {}, float(chance.choice([1e-6, 0.5, 2.0])), cloud)
    links: dict[str, list[tuple[str, float]]] = {name: [] for name in names}
    density = chance.random()
    for i, a in enumerate(names):
        for b in names[:i]:
            if chance.random() < density:
                links[a].append((b, float(chance.choice([1e-6, 0.25, 1.0, chance.random()]))))
                links[b].append((a, float(chance.choice([1e-6, 0.25, 1.0, chance.random()]))))
    return Reach(names, links, None, cloud)


def something(chance: np.random.Generator, now: float) -> tuple[float, float]:
    """What a participant may say: mostly later sends, sometimes earlier ones (a revival), at times gone or deaf."""
    sends = float(chance.choice([now + chance.random(), now + chance.integers(4), math.inf, max(0.0, now - 2.0)], p=[0.5, 0.3, 0.1, 0.1]))
    return sends, float(chance.choice([math.inf, 0.0, 0.5, chance.random()], p=[0.3, 0.2, 0.3, 0.2]))


@pytest.mark.parametrize("seed", range(60))
def test_safe_times_are_those_of_dijkstra_whatever_changes(seed: int) -> None:
    chance = np.random.default_rng(seed)
    ways = some_ways(chance)
    horizon, everybody = Horizon(ways), [*ways.twins, *([CLOUD] if ways.cloud is not None else [])]
    said: Said = dict.fromkeys(everybody, (math.inf, math.inf))
    for step in range(60):
        for name in chance.choice(everybody, int(chance.integers(1, 4))).tolist():
            said[name] = something(chance, step / 4)
            horizon.tell(name, *said[name])
        horizon.passed()
        assert {name: horizon.safe(name) for name in everybody} == oracle(ways, said)


@pytest.mark.parametrize("seed", range(60))
def test_who_is_watched_is_named_exactly_when_its_safe_time_has_passed(seed: int) -> None:
    chance = np.random.default_rng(1000 + seed)
    ways = some_ways(chance)
    horizon, everybody = Horizon(ways), [*ways.twins, *([CLOUD] if ways.cloud is not None else [])]
    said: Said = dict.fromkeys(everybody, (0.0, 1.0))
    for name in everybody:
        horizon.tell(name, *said[name])
    horizon.passed()
    waiting: dict[str, float] = {}
    for step in range(80):
        safe = oracle(ways, said)
        for name in everybody:
            if safe[name] < math.inf and name not in waiting and chance.random() < 0.5:
                waiting[name] = safe[name] + float(chance.choice([0.0, chance.random(), 5.0]))
                horizon.watch(name, waiting[name])
        for name in chance.choice(everybody, int(chance.integers(1, 4))).tolist():
            said[name] = something(chance, step / 4)
            horizon.tell(name, *said[name])
        safe = oracle(ways, said)
        passed = horizon.passed()
        assert sorted(passed) == sorted(name for name, t in waiting.items() if safe[name] > t)
        for name in passed:
            del waiting[name]


def test_one_who_moves_on_a_large_ring_concerns_its_neighbours_only() -> None:
    count = 1000
    web = Web([[((i - 1) % count, 0.1), ((i + 1) % count, 0.1)] for i in range(count)])
    for i in range(count):
        web.tell(i, 1.0 + i % 7, math.inf)
    assert len(web.settle()) == count
    for t in (20.0, 3.0, math.inf):
        web.tell(500, t, math.inf)
        assert set(web.settle()) <= {499, 501}
    assert web.settle() == []


def test_who_says_the_same_again_changes_nothing() -> None:
    web = Web([[(1, 0.5)], [(0, 0.5)]])
    web.tell(0, 1.0, 0.5)
    assert web.settle() == [1]
    web.tell(0, 1.0, 0.5)
    assert web.settle() == []
    assert (web.safe, web.could) == ([math.inf, 1.5], [1.0, math.inf])


@pytest.mark.parametrize("seed", range(10))
def test_the_least_of_many_is_the_least_whatever_was_set(seed: int) -> None:
    chance, least, values = np.random.default_rng(seed), Least(), dict[str, float]()
    for _ in range(400):
        name, value = f"ct-{chance.integers(6)}", float(chance.choice([math.inf, chance.integers(5), chance.random()]))
        values[name] = value
        least.set(name, value)
        assert least.first()[0] == min(values.values())
        assert least.first()[1] == "" or values[least.first()[1]] == least.first()[0]
        assert least.but("ct-3") == min((value for name, value in values.items() if name != "ct-3"), default=math.inf)
    assert len(least._heap) < 200


@pytest.mark.parametrize(
    "policy", [Ring(7), Star(6), Complete(5), Epidemic(2, 9), OnePeerExponential(8), Clusters(3, 3)], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("cloud", [False, True])
def test_everybody_reaches_exactly_those_the_topology_allows_at_the_links_latency(policy: Any, cloud: bool) -> None:
    topology = policy.build(1)
    world = World(topology, Link(latency=0.3), cloud=Link(latency=0.7) if cloud else None)
    names = (*topology.names, CLOUD) if cloud else topology.names
    links = spelt_out(reach(world, names))
    assert links.keys() == set(names)
    for name in names:
        peers = set(names) - {CLOUD} if name == CLOUD else {*topology.union()[name], *([CLOUD] if cloud else [])}
        assert dict(links[name]) == {peer: world.fastest(name, peer) for peer in peers}
        assert sorted(reach(world, names).senders(name)) == sorted(other for other in names if name in dict(links[other]))


def test_a_complete_graph_with_one_slower_link_is_no_crowd() -> None:
    topology = Complete(4).build(1)
    topology.links["ct-01", "ct-02"] = Override(latency=9.0)  # type: ignore[index]
    ways = reach(World(topology, Link(latency=0.3)), topology.names)
    assert ways.crowd is None
    assert dict(ways.links["ct-01"]) == {"ct-02": 9.0, "ct-03": 0.3, "ct-04": 0.3}
