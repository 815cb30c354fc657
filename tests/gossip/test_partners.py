"""Partners: seeded choices among the neighbours, each with the in- and out-degree its name promises."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.errors import ScenarioError
from p2pftl.gossip.pairs import Pairs
from p2pftl.gossip.partners import All, Epidemic, Nobody, OnePeerExponential, Random
from p2pftl.gossip.seams import Partners
from p2pftl.policies import find, registered

calm = settings(deadline=None)
NAMES = tuple(f"ct-{i:02d}" for i in range(1, 17))
EVERY: tuple[Partners, ...] = (All(), Nobody(), Random(2), OnePeerExponential(), Epidemic(3), Pairs())


def others(me: str) -> tuple[str, ...]:
    return tuple(name for name in NAMES if name != me)


def test_every_registered_policy_is_covered_here() -> None:
    assert {type(policy) for policy in EVERY} == {find("partners", name) for name in registered("partners")}


@pytest.mark.parametrize("policy", EVERY, ids=lambda policy: type(policy).__name__)
@calm
@given(round=st.integers(0, 10_000), seed=st.integers(0, 2**31), me=st.sampled_from(NAMES))
def test_choices_are_sorted_neighbours_without_repetition_and_repeat_with_the_seed(
    policy: Partners, round: int, seed: int, me: str
) -> None:
    chosen = policy.choose(me, others(me), NAMES, round, seed)
    assert chosen == policy.choose(me, others(me), NAMES, round, seed)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(others(me))


def test_all_chooses_all_and_nobody_nobody() -> None:
    assert All().choose("ct-01", ("ct-02", "ct-16"), NAMES, 3, 0) == ("ct-02", "ct-16")
    assert Nobody().choose("ct-01", ("ct-02", "ct-16"), NAMES, 3, 0) == ()


@calm
@given(st.integers(1, 20), st.integers(0, 15))
def test_random_and_epidemic_choose_k_or_all_there_are(k: int, neighbours: int) -> None:
    around = NAMES[1 : 1 + neighbours]
    for policy in (Random(k), Epidemic(k)):
        assert len(policy.choose("ct-01", around, NAMES, 0, 0)) == min(k, neighbours)


def test_random_is_uniform_over_neighbours_and_differs_by_twin_round_and_seed() -> None:
    counts = Counter(name for round in range(3000) for name in Random(3).choose("ct-01", others("ct-01"), NAMES, round, 5))
    assert all(count == pytest.approx(600, abs=110) for count in counts.values())
    rows = {
        tuple(Random(1).choose(me, NAMES[8:], NAMES, round, seed)[0] for round in range(first, first + 12))
        for me in NAMES[:2]
        for first in (0, 12)
        for seed in (0, 1)
    }
    assert len(rows) == 8


def test_a_new_neighbour_elsewhere_changes_nobody_elses_choice() -> None:
    before = [Random(2).choose("ct-05", ("ct-04", "ct-06", "ct-09"), NAMES, round, 1) for round in range(10)]
    assert before == [Random(2).choose("ct-05", ("ct-04", "ct-06", "ct-09"), (*NAMES, "ct-99"), round, 1) for round in range(10)]


@pytest.mark.parametrize("n", [2, 3, 8, 13, 16])
def test_one_peer_exponential_hears_and_sends_once_per_round(n: int) -> None:
    names = NAMES[:n]
    for round in range(9):
        chosen = [OnePeerExponential().choose(me, [name for name in names if name != me], names, round, 0) for me in names]
        assert all(len(peers) == 1 for peers in chosen)
        assert sorted(peers[0] for peers in chosen) == list(names)


def test_one_peer_exponential_hops_double() -> None:
    assert [OnePeerExponential().choose("ct-01", others("ct-01"), NAMES, round, 0) for round in range(5)] == [
        ("ct-02",), ("ct-03",), ("ct-05",), ("ct-09",), ("ct-02",)
    ]  # fmt: skip


def test_one_peer_exponential_refuses_a_graph_without_its_edges() -> None:
    with pytest.raises(ScenarioError, match="use topology complete") as caught:
        OnePeerExponential().choose("ct-01", ("ct-02", "ct-16"), NAMES, 1, 0)
    assert caught.value.code == "E128"
    assert OnePeerExponential().choose("ct-01", (), ("ct-01",), 1, 0) == ()


def test_only_the_directed_policies_send_one_way() -> None:
    assert [policy.directed for policy in EVERY] == [False, False, False, True, True, True]
