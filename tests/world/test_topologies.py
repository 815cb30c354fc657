"""Every graph a scenario can name is what its name promises."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import yaml

from p2pftl.errors import P2pftlError, ScenarioError, TopologyError
from p2pftl.policies import find
from p2pftl.world.topologies import (
    Clusters,
    Complete,
    Epidemic,
    ErdosRenyi,
    Exponential,
    File,
    Grid,
    Line,
    OnePeerExponential,
    Regular,
    Ring,
    ScaleFree,
    SmallWorld,
    Star,
    Torus,
    Tree,
)
from p2pftl.world.topology import KEPT_ROUNDS, Topology

SHIPPED = sorted((Path(__file__).parents[2] / "topologies").glob("*.yaml"))

STATIC: list[tuple[Any, Callable[[int], bool]]] = [
    (Ring(9), lambda degree: degree == 2),
    (Complete(7), lambda degree: degree == 6),
    (Star(7), lambda degree: degree in (1, 6)),
    (Line(7), lambda degree: degree in (1, 2)),
    (Grid(3, 4), lambda degree: 2 <= degree <= 4),
    (Torus(3, 5), lambda degree: degree == 4),
    (Tree(3, 14), lambda degree: 1 <= degree <= 4),
    (Regular(2, 12), lambda degree: degree == 2),
    (Regular(5, 12), lambda degree: degree == 5),
    (SmallWorld(4, 0.3, 20), lambda degree: degree >= 2),
    (ErdosRenyi(0.25, 20), lambda degree: degree >= 1),
    (ScaleFree(2, 20), lambda degree: degree >= 1),
    (Exponential(16), lambda degree: degree == 7),
    (Exponential(11), lambda degree: degree == 8),
    (Clusters(5, 4, 2), lambda degree: 4 <= degree <= 6),
]


@pytest.mark.parametrize(("policy", "allowed"), STATIC, ids=lambda value: str(value)[:40] if not callable(value) else "")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_static_topologies_are_connected_and_of_the_stated_degree(policy: Any, allowed: Callable[[int], bool], seed: int) -> None:
    topology: Topology = policy.build(seed)
    graph = topology.graph(5)
    assert topology.static
    assert graph is topology.graph(0)
    assert nx.is_connected(graph)
    assert set(graph) == set(topology.names)
    assert list(topology.names) == sorted(topology.names)
    assert all(allowed(degree) for _, degree in graph.degree)
    for name in topology.names:
        assert topology.neighbours(name, 3) == tuple(sorted(graph[name])) == topology.inward(name) == topology.possible(name)


@pytest.mark.parametrize(
    "policy",
    [Regular(4, 16), SmallWorld(4, 0.3, 20), ErdosRenyi(0.3, 16), ScaleFree(2, 20), Epidemic(3, 12)],
    ids=lambda p: type(p).__name__,
)
def test_random_topologies_repeat_with_the_seed_and_change_with_it(policy: Any) -> None:
    def edges(seed: int) -> list[tuple[str, str]]:
        return sorted(policy.build(seed).graph(2).edges)

    assert edges(4) == edges(4)
    assert edges(4) != edges(5)


def test_default_names_count_from_one_and_widen_above_99() -> None:
    assert Ring(3).build(0).names == ("ct-01", "ct-02", "ct-03")
    assert Ring(100).build(0).names[0] == "ct-001"


def test_own_names_are_laid_out_in_the_order_given_and_listed_sorted() -> None:
    topology = Line(names=("south", "north", "east")).build(0)
    assert topology.names == ("east", "north", "south")
    assert topology.neighbours("north") == ("east", "south")
    assert topology.order == ("south", "north", "east")


def test_one_peer_exponential_hops_double_and_repeat_after_tau_rounds() -> None:
    topology = OnePeerExponential(8).build(0)
    assert not topology.static
    assert topology.period == 3
    for round, hop in enumerate((1, 2, 4, 1)):
        assert topology.neighbours("ct-01", round) == (f"ct-{1 + hop:02d}",)
        assert topology.inward(f"ct-{1 + hop:02d}", round) == ("ct-01",)
    assert nx.is_isomorphic(topology.union(), Exponential(8).build(0).union())


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_one_peer_exponential_sends_and_hears_once_each_round(n: int) -> None:
    topology = OnePeerExponential(n).build(0)
    for round in range(topology.period):
        graph = topology.graph(round)
        assert isinstance(graph, nx.DiGraph)
        assert {degree for _, degree in graph.in_degree} == {degree for _, degree in graph.out_degree} == {1}


def test_epidemic_hears_and_sends_s_each_round_and_draws_anew() -> None:
    topology = Epidemic(4, 15).build(3)
    graphs = [topology.graph(round) for round in range(6)]
    assert all({degree for _, degree in graph.degree} == {4} for graph in graphs)
    assert len({tuple(sorted(graph.edges)) for graph in graphs}) == 6
    assert topology.possible("ct-01") == topology.names[1:]
    assert topology.union().number_of_edges() == 15 * 14 // 2


def test_only_a_few_rounds_are_kept_and_forgotten_ones_come_back_the_same() -> None:
    topology = Epidemic(4, 10).build(3)
    first = sorted(topology.graph(0).edges)
    for round in range(1, 3 * KEPT_ROUNDS):
        topology.graph(round)
    assert len(topology._graphs) == KEPT_ROUNDS
    assert sorted(topology.graph(0).edges) == first


def test_whom_twins_many_rounds_apart_send_to_is_not_drawn_again_for_each() -> None:
    drawn = []
    policy = Epidemic(4, 10).build(3)
    topology = replace(policy, rounds=lambda round: drawn.append(round) or policy.rounds(round))  # type: ignore[func-returns-value]
    for round in range(300):
        graph = policy.graph(round)
        assert topology.neighbours("ct-01", round) == topology.inward("ct-01", round) == tuple(sorted(graph["ct-01"]))
        assert topology.neighbours("ct-10", round // 8) == tuple(sorted(policy.graph(round // 8)["ct-10"]))
    assert drawn == list(range(300))


@pytest.mark.parametrize("policy", [Regular(4, 16), OnePeerExponential(8), Epidemic(4, 15), Clusters(3, 3)], ids=lambda p: type(p).__name__)
def test_topologies_survive_pickling(policy: Any) -> None:
    topology: Topology = policy.build(5)
    topology.graph(3)
    topology.union()
    again: Topology = pickle.loads(pickle.dumps(topology))
    assert again.names == topology.names
    assert sorted(again.graph(3).edges) == sorted(topology.graph(3).edges)
    assert again.links == topology.links


def test_graphs_cannot_be_changed_by_who_asks_for_them() -> None:
    with pytest.raises(nx.NetworkXError):
        Ring(4).build(0).graph().remove_node("ct-01")


def test_clusters_are_joined_by_slower_links_only() -> None:
    topology = Clusters(4, 3, bridges=2, latency_factor=5, bandwidth_factor=0.1).build(0)
    assert set(topology.groups.values()) == {"region 1", "region 2", "region 3"}
    for a, b in topology.graph().edges:
        regional = topology.groups[a] != topology.groups[b]
        assert ((a, b) in topology.links) == ((b, a) in topology.links) == regional
    assert len(topology.links) == 2 * 3 * 2


def test_a_thousand_twins_are_quick_to_ask() -> None:
    topology = Epidemic(6, 1000).build(0)
    assert {len(topology.neighbours(name, 1)) for name in topology.names} == {6}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_topologies_can_be_built(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[1])
    fields = yaml.safe_load(path.read_text())
    topology = find("topology", fields.pop("use"))(**fields).build(1)
    assert topology.notes == ()
    assert nx.is_connected(topology.union())


def test_one_twin_is_allowed_with_a_note() -> None:
    for policy in (
        Ring(1),
        Complete(1),
        Star(1),
        Line(1),
        Grid(1, 1),
        Tree(2, 1),
        ErdosRenyi(0.5, 1),
        OnePeerExponential(1),
        Epidemic(0, 1),
    ):
        topology = policy.build(0)
        assert topology.notes[0].startswith("E206")
        assert topology.neighbours("ct-01") == ()


BAD: list[tuple[Any, str]] = [
    (Regular(3, 5), "E205"),
    (Regular(8, 8), "E205"),
    (Regular(0, 8), "E205"),
    (Epidemic(3, 5), "E205"),
    (Epidemic(5, 4), "E205"),
    (ErdosRenyi(1.2, 8), "E205"),
    (ErdosRenyi(-0.1, 8), "E205"),
    (ErdosRenyi(float("nan"), 8), "E205"),
    (SmallWorld(4, 1.5, 12), "E205"),
    (SmallWorld(3, 0.5, 12), "E205"),
    (SmallWorld(12, 0.5, 12), "E205"),
    (ScaleFree(0, 12), "E205"),
    (ScaleFree(12, 12), "E205"),
    (Torus(2, 5), "E205"),
    (Tree(0, 5), "E205"),
    (Clusters(2, 3, bridges=3), "E205"),
    (Ring(0), "E205"),
    (Regular(1, 8), "E204"),
    (ErdosRenyi(0.0, 8), "E204"),
    (Ring(10_001), "E209"),
    (Complete(2_000), "E209"),
    (Grid(200, 200), "E209"),
    (ErdosRenyi(0.5, 9_000), "E209"),
    (Ring(), "E128"),
    (Ring(3, ("a", "b")), "E128"),
    (Ring(names=("a", "b", "a")), "E124"),
    (Ring(names=("ct-1", "CT-1")), "E125"),
    (Ring(names=("cloud", "b")), "E125"),
    (Ring(names=("../etc", "b")), "E125"),
    (Ring(names=("a\n", "b")), "E125"),
    (Ring(names=("", "b")), "E125"),
    (Ring(names=("é", "b")), "E125"),
    (Ring(names=("a" * 65, "b")), "E125"),
    (File("no/such/file.graphml"), "E211"),
]


@pytest.mark.parametrize(("policy", "code"), BAD, ids=lambda value: str(value)[:50])
def test_impossible_topologies_are_refused_with_their_code(policy: Any, code: str) -> None:
    with pytest.raises(P2pftlError) as caught:
        policy.build(0)
    assert caught.value.code == code
    assert isinstance(caught.value, ScenarioError if code.startswith("E1") else TopologyError)
    assert "\n" not in str(caught.value)


def test_a_disconnected_random_graph_says_what_would_help() -> None:
    with pytest.raises(TopologyError, match=r"raise p: above ln\(n\)/n = 0.26"):
        ErdosRenyi(0.0, 8).build(0)
