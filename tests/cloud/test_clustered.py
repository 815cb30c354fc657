"""Clustered learning finds the groups that were planted, and nothing where there is nothing to find."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.cloud.clustered import Clustered
from p2pftl.cloud.fedavg import FedAvg
from p2pftl.cloud.seams import Coordinator
from p2pftl.cloud.similarity import cosines, halves
from p2pftl.gossip.partners import Nobody
from p2pftl.terms import CloudTerms
from p2pftl.world.incidents import Crash
from p2pftl.world.topologies import Ring
from p2pftl.world.topology import CLOUD
from tests.cloud.opposed import Opposed, coordinated, group, rounds
from tests.toys import play, toy

NAMES = tuple(f"ct-{k}" for k in range(1, 9))
PLANTED = tuple(tuple(name for name in NAMES if group(name) == which) for which in (1, 0))
calm = settings(deadline=None, max_examples=60)


def opposed(seed: int = 1, **more: bool) -> dict[str, Opposed]:
    return {name: Opposed(name, seed, 1.0, **more) for name in NAMES}  # type: ignore[arg-type]


# ---------------------------------------------------------------------- two halves


@calm
@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_single_linkage_gives_the_bipartition_whose_largest_cross_similarity_is_smallest(members: int, seed: int) -> None:
    alike = cosines([vector.astype(np.float32) for vector in np.random.default_rng(seed).standard_normal((members, 3))])
    first, second = halves(alike, "single")
    assert sorted((*first, *second)) == list(range(members))
    assert first[0] == 0
    least = min(
        alike[np.ix_(some, [k for k in range(members) if k not in some])].max()
        for size in range(1, members)
        for some in map(list, combinations(range(members), size))
    )
    assert alike[np.ix_(first, second)].max() == least


def test_complete_linkage_is_scipys() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    for seed in range(30):
        alike = cosines([vector.astype(np.float32) for vector in np.random.default_rng(seed).standard_normal((9, 4))])
        labels = fcluster(linkage(squareform(1 - alike, checks=False), "complete"), 2, "maxclust")
        assert set(halves(alike, "complete")) == {tuple(np.flatnonzero(labels == which).tolist()) for which in (1, 2)}


def test_the_length_of_updates_changes_nothing_in_their_similarity() -> None:
    some = [vector.astype(np.float32) for vector in np.random.default_rng(1).standard_normal((5, 40))]
    scaled = [np.float32(2.0**k) * vector for k, vector in enumerate(some)]
    assert np.allclose(cosines(some), np.corrcoef(some), atol=0.3)
    assert np.allclose(cosines(some), cosines(scaled), atol=1e-7)
    assert (cosines([some[0], np.zeros(40, np.float32)])[0, 1]) == 0


# ---------------------------------------------------------------------- planted groups


@pytest.mark.parametrize("linkage", ["complete", "single"])
@pytest.mark.parametrize("limits", [{}, {"eps1": 0.4, "eps2": 1.0, "gamma": 0.0}, {"eps1": 0.4, "eps2": 1.0, "gamma": 0.5}], ids=repr)
def test_two_groups_with_opposed_labels_are_recovered_exactly(linkage: str, limits: dict[str, float]) -> None:
    policy = Clustered(after=3, linkage=linkage, **limits)  # type: ignore[arg-type]
    found = [rounds(policy, opposed(seed), 12)[0].groups for seed in range(10)]
    assert found == [PLANTED] * 10


def test_then_every_twin_is_right_where_fedavg_cannot_be() -> None:
    tasks = opposed()
    _, clustered = rounds(Clustered(after=3), tasks, 30)
    _, averaged = rounds(FedAvg(), tasks, 30)
    assert min(tasks[name].right(clustered[name]) for name in NAMES) > 0.85
    assert np.mean([tasks[name].right(averaged[name]) for name in NAMES]) < 0.65


@pytest.mark.parametrize("seed", range(5))
def test_twins_that_learn_the_same_are_never_parted_and_learn_as_under_fedavg_bit_for_bit(seed: int) -> None:
    """Thirty points each are so few that the two thresholds alone would part them: it takes the noise criterion."""
    tasks = opposed(seed, alike=True)
    reply, models = rounds(Clustered(after=0), tasks, 30)
    _, averaged = rounds(FedAvg(), tasks, 30)
    assert reply.groups == (NAMES,)
    assert all(models[name].tobytes() == averaged[name].tobytes() for name in NAMES)


@pytest.mark.parametrize(
    "policy", [Clustered(after=12), Clustered(eps1=1e-6), Clustered(after=0, eps2=1e6), Clustered(after=0, gamma=1.0)], ids=repr
)
def test_nothing_is_split_too_early_or_below_a_threshold_or_within_the_noise(policy: Coordinator) -> None:
    assert rounds(policy, opposed(), 12)[0].groups == (NAMES,)


def test_a_cluster_is_split_again_and_never_below_three_twins() -> None:
    """Six directions of pull; whoever is left in pairs stays in pairs."""
    reply, _ = rounds(Clustered(after=0, eps1=1e3, eps2=1e-6, gamma=0.0), opposed(), 20)
    assert len(reply.groups) >= 3
    assert sorted(name for some in reply.groups for name in some) == list(NAMES)
    assert all(len({group(name) for name in some}) == 1 for some in reply.groups)
    assert reply.figures is not None
    assert reply.figures["clusters"] == len(reply.groups)


def test_who_is_away_when_its_cluster_is_split_comes_back_to_its_own_half() -> None:
    away = {round: {"ct-2", "ct-5"} for round in range(2, 9)}
    assert rounds(Clustered(after=3), opposed(), 9, away)[0].groups == tuple(tuple(n for n in half if n not in away[2]) for half in PLANTED)
    assert rounds(Clustered(after=3), opposed(), 10, away)[0].groups == PLANTED


def test_who_comes_for_the_first_time_after_a_split_finds_its_half() -> None:
    away = {round: {"ct-1", "ct-8"} for round in range(8)}
    assert rounds(Clustered(after=3), opposed(), 9, away)[0].groups == PLANTED


def test_a_twin_that_missed_answers_moves_its_cluster_by_what_it_learnt_only() -> None:
    """What it began with, older than the cluster's model, must not pull the cluster back."""
    from p2pftl.cloud.seams import Upload
    from tests.cloud.opposed import LINE

    def flat(value: float) -> Upload:
        return Upload(np.full(LINE.size, value, np.float32), ((0, LINE.size),), 10)

    policy = Clustered()
    memory = policy.answer({"a": flat(1.0), "b": flat(1.0)}, LINE, {}).memory
    memory = policy.answer({"a": flat(5.0)}, LINE, memory).memory
    reply = policy.answer({"a": flat(6.0), "b": flat(3.0)}, LINE, memory)
    assert (reply.offers["b"][0] == 5 + ((6 - 5) + (3 - 1)) / 2).all()


# ---------------------------------------------------------------------- in a run


@pytest.mark.parametrize("incidents", [(), (Crash(CLOUD, 14.3, 1.0),)], ids=["calm", "the cloud crashes"])
def test_in_a_run_too_even_if_the_cloud_loses_its_process_after_the_split(incidents: tuple[Crash, ...], tmp_path: Path) -> None:
    """At 14.3 s of 20 rounds of 1.5 s each the groups were parted: a cloud that forgot them would average all of them again."""
    run = toy(
        Ring(names=NAMES).build(1), rounds=20, rate=1.0, task=Opposed, partners=Nobody(), cloud=CloudTerms(1, 5.0, 3.0), incidents=incidents
    )
    outcome = play(coordinated(run, Clustered(after=3)), tmp_path)
    models = outcome.vectors
    for half in PLANTED:
        assert {models[name].tobytes() for name in half} == {models[half[0]].tobytes()}
    assert min(Opposed(name, 1, 1.0).right(models[name]) for name in NAMES) > 0.85
