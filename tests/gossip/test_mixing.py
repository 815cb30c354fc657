"""Mixing matrices keep what gossip averaging needs of them (Xiao, Boyd, Lall 2005), over random graphs."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.errors import TopologyError
from p2pftl.gossip.mixing import Metropolis, Similarity, Uniform
from p2pftl.gossip.seams import Side, Signs
from p2pftl.gossip.spectrum import DENSE, check, facts, matrix, spectral_gap
from p2pftl.policies import find, registered

calm = settings(deadline=None)
few = settings(deadline=None, max_examples=5)
REGISTERED = [find("mixing", name)() for name in sorted(registered("mixing"))]


QUALITIES = st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)
MARKS = st.tuples(*[st.floats(-20, 20)] * 6)


@st.composite
def graphs(draw: st.DrawFn, connected: bool = False) -> nx.Graph:
    n = draw(st.integers(1, 14))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    graph = nx.Graph()
    graph.add_nodes_from(f"t{i:02d}" for i in range(n))
    tree = [(i, draw(st.integers(0, i - 1))) for i in range(1, n)] if connected else []
    graph.add_edges_from((f"t{i:02d}", f"t{j:02d}") for i, j in chosen + tree)
    return graph


def ring(n: int) -> nx.Graph:
    return nx.relabel_nodes(nx.cycle_graph(n), {i: f"t{i:05d}" for i in range(n)})


def exponential_round(n: int, round: int) -> nx.DiGraph:
    hop = 2 ** (round % (n - 1).bit_length())
    return nx.DiGraph((f"t{i:03d}", f"t{(i + hop) % n:03d}") for i in range(n))


@pytest.mark.parametrize("policy", REGISTERED, ids=lambda policy: type(policy).__name__)
@calm
@given(graph=graphs())
def test_rows_of_every_mixing_sum_to_one_and_every_twin_keeps_a_share(policy: Metropolis | Uniform, graph: nx.Graph) -> None:
    weights = matrix(graph, policy)
    assert np.abs(weights.sum(axis=1) - 1).max() <= 1e-12
    assert (weights >= 0).all()
    assert (np.diag(weights) > 0).all()
    names = sorted(graph)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            assert i == j or (weights[i, j] > 0) == graph.has_edge(a, b)
    check(weights, names)


@calm
@given(graphs())
def test_metropolis_is_symmetric_so_columns_sum_to_one_too(graph: nx.Graph) -> None:
    weights = matrix(graph, Metropolis())
    assert (weights == weights.T).all() or np.abs(weights - weights.T).max() <= 1e-15
    assert np.abs(weights.sum(axis=0) - 1).max() <= 1e-12
    check(weights, sorted(graph), symmetric=True)


@calm
@given(graph=graphs(), data=st.data())
def test_similarity_and_quality_keep_the_mixing_symmetric_doubly_stochastic_and_q_0_isolates(graph: nx.Graph, data: st.DataObject) -> None:
    names = sorted(graph)
    signs = {name: Signs(data.draw(MARKS | st.just(())), data.draw(QUALITIES)) for name in names}
    tau, floor = data.draw(st.sampled_from([0.1, 1.0, 10.0])), data.draw(st.sampled_from([0.01, 0.2, 1.0]))
    weights = matrix(graph, Similarity(tau, floor), signs)
    off = weights - np.diag(np.diag(weights))
    assert (off == off.T).all(), "to the bit: each end computes it for itself"
    assert np.abs(weights.sum(axis=0) - 1).max() <= 1e-12
    assert np.abs(weights.sum(axis=1) - 1).max() <= 1e-12
    assert (np.diag(weights) > 0).all()
    assert (off <= matrix(graph, Metropolis()) + 1e-15).all()
    for i, name in enumerate(names):
        if signs[name].quality == 0:
            assert weights[i, i] == 1
    check(weights, names, symmetric=True)
    trusted = np.array([[min(signs[a].quality, signs[b].quality) * (a != b) for b in names] for a in names])
    assert (off >= floor * trusted * matrix(graph, Metropolis()) - 1e-15).all(), "whoever is trusted stays connected"


SOFT, STANDARD, BONE = ((math.log(5.7 * share), nps, mtf, math.log(5), 6.0, 0.2) for share, nps, mtf in (
    (0.65, 0.28, 0.366), (1.0, 0.35, 0.507), (1.95, 0.49, 0.809)
))  # fmt: skip


def test_similarity_falls_with_the_distance_of_the_fingerprints_down_to_its_floor() -> None:
    policy = Similarity()
    alike, near, far = (policy.likeness(STANDARD, other) for other in (STANDARD, SOFT, BONE))
    assert alike == 1 > near > far > policy.floor
    assert policy.likeness(SOFT, BONE) < far
    assert policy.likeness(STANDARD, (99.0,) * 6) == policy.floor
    other_voltage = (*STANDARD[:4], STANDARD[4] + 1, STANDARD[5])
    assert policy.likeness(STANDARD, other_voltage) == pytest.approx(0.2 + 0.8 * math.exp(-1 / 12))


def test_what_is_not_known_of_a_scanner_takes_nothing_from_it_and_both_halves_can_be_switched_off() -> None:
    known, unknown, doubtful = Side(2, Signs(BONE)), Side(2), Side(2, Signs(SOFT, 0.5))
    plain = Metropolis().weight(known, unknown)
    assert Similarity().weight(known, unknown) == Similarity().weight(unknown, unknown) == plain
    assert Similarity(by_fingerprint=False).weight(known, doubtful) == plain / 2
    assert Similarity(by_quality=False).weight(known, doubtful) == plain * Similarity().likeness(BONE, SOFT)
    assert Similarity(by_fingerprint=False, by_quality=False).weight(known, doubtful) == plain
    assert Similarity(floor=1).weight(known, doubtful) == plain / 2


@calm
@given(graphs(connected=True), st.integers(0, 2**32 - 1))
def test_one_metropolis_step_keeps_the_mean_and_shrinks_disagreement_by_rho_squared(graph: nx.Graph, seed: int) -> None:
    weights = matrix(graph, Metropolis())
    models = np.random.default_rng(seed).normal(size=(len(graph), 5))
    mixed = weights @ models
    assert np.allclose(mixed.mean(axis=0), models.mean(axis=0), rtol=0, atol=1e-12)
    before, after = ((x - x.mean(axis=0)) ** 2 for x in (models, mixed))
    rho = 1 - spectral_gap(weights)
    assert after.sum() <= rho**2 * before.sum() + 1e-12


@calm
@given(graphs(connected=True))
def test_the_gap_is_one_minus_the_second_modulus_and_positive_when_connected(graph: nx.Graph) -> None:
    for policy in (Metropolis(), Uniform()):
        weights = matrix(graph, policy)
        moduli = np.sort(np.abs(np.linalg.eigvals(weights)))[::-1]
        assert spectral_gap(weights) == pytest.approx(1 - moduli[1] if len(moduli) > 1 else 1, abs=1e-9)
        assert spectral_gap(weights) > 1e-6


@calm
@given(graphs(connected=True))
def test_uniform_mixing_weights_a_twin_by_its_neighbourhood_in_the_limit(graph: nx.Graph) -> None:
    weights = matrix(graph, Uniform())
    shares = np.array([1 + graph.degree[name] for name in sorted(graph)], float)
    assert np.allclose(shares / shares.sum() @ weights, shares / shares.sum(), atol=1e-12)


@pytest.mark.parametrize("n", [8, 16])
def test_one_peer_exponential_mixing_gives_the_exact_mean_after_log2_n_steps(n: int) -> None:
    product = np.eye(n)
    for round in range(int(math.log2(n))):
        weights = matrix(exponential_round(n, round), Metropolis())
        assert np.allclose(weights.sum(axis=0), 1)
        assert np.allclose(weights.sum(axis=1), 1)
        product = weights @ product
        assert np.allclose(product, 1 / n) == (round == int(math.log2(n)) - 1)


@pytest.mark.parametrize("n", [5, 12, 100, DENSE + 1, 1000])
def test_the_gap_of_a_ring_is_the_known_one_dense_and_sparse(n: int) -> None:
    moduli = [abs(1 / 3 + 2 / 3 * math.cos(2 * math.pi * k / n)) for k in range(1, n)]
    expected = 1 - max(moduli)
    for policy in (Metropolis(), Uniform()):
        assert facts([ring(n)], policy)["spectral_gap"] == pytest.approx(expected, rel=1e-6)


@few
@given(st.integers(0, 100))
def test_the_sparse_gap_equals_the_dense_one(seed: int) -> None:
    graph = nx.relabel_nodes(nx.barabasi_albert_graph(DENSE + 20, 2, seed=seed), lambda i: f"t{i:05d}")
    weights = matrix(graph, Metropolis())
    assert spectral_gap(weights) == pytest.approx(1 - np.sort(np.abs(np.linalg.eigvalsh(weights)))[-2], rel=1e-6)


def test_facts_of_one_graph() -> None:
    found = facts([ring(6)], Metropolis())
    assert found["twins"] == found["edges"] == 6
    assert (found["diameter"], found["diameter_exact"], found["connected"]) == (3, True, True)
    assert found["degree"] == {"min": 2, "mean": 2.0, "max": 2}
    assert found["contraction"] == pytest.approx((1 - found["spectral_gap"]) ** 2)
    assert found["notes"] == []


def test_facts_of_a_graph_that_changes_say_over_how_many_rounds() -> None:
    found = facts([exponential_round(8, round) for round in range(3)], Metropolis())
    assert found["gap_of"] == "the mean of W over 3 rounds"
    assert found["contraction"] is None
    assert found["connected"]
    assert 0 < found["spectral_gap"] < 1


def test_a_graph_that_falls_apart_is_noted() -> None:
    graph = nx.Graph([("a", "b"), ("c", "d")])
    found = facts([graph], Metropolis())
    assert (found["connected"], found["diameter"]) == (False, None)
    assert found["spectral_gap"] == pytest.approx(0, abs=1e-12)
    assert found["notes"][0].startswith("E208")


def test_facts_of_one_twin() -> None:
    alone = nx.Graph()
    alone.add_node("a")
    found = facts([alone], Metropolis())
    assert (found["spectral_gap"], found["diameter"], found["connected"]) == (1.0, 0, True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((0, 1, -0.1), "ct-a are negative"),
        ((1, 0, math.nan), "ct-b are not finite"),
        ((2, 2, 0.9), "ct-c sum to"),
        ((0, 1, math.inf), "not finite"),
    ],
)
def test_weights_that_cannot_mix_are_refused_with_their_row(change: tuple[int, int, float], says: str) -> None:
    weights = matrix(ring(3), Metropolis())
    i, j, value = change
    weights[i, j] = value
    with pytest.raises(TopologyError, match=says) as caught:
        check(weights, ["ct-a", "ct-b", "ct-c"])
    assert caught.value.code == "E207"


def test_asymmetric_weights_are_refused_where_symmetry_is_needed() -> None:
    star = nx.Graph([("a", "b"), ("a", "c")])
    check(matrix(star, Uniform()), ["a", "b", "c"])
    with pytest.raises(TopologyError, match=r"E207.*asymmetric: a gives b 0\.333333, gets 0\.5"):
        check(matrix(star, Uniform()), ["a", "b", "c"], symmetric=True)
