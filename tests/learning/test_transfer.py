from __future__ import annotations

import numpy as np
import pytest
import torch

from p2pftl.errors import ScenarioError
from p2pftl.learning.fit import Fit, Recipe, fit
from p2pftl.learning.models import Model, ModelSpec, layout_of, prepare_torch
from p2pftl.learning.transfer import Adapters, FedBN, FedPer, FedProx, FedRep, FixBN, Full, GradualUnfreezing, Head, Transfer
from p2pftl.params import Layout
from p2pftl.policies import find, registered
from tests.learning.blobs import blobs

prepare_torch()
COHORT = blobs(20)
POLICIES: tuple[Transfer, ...] = (
    Full(), Head(), Adapters(), GradualUnfreezing(every=2), FedPer(), FedPer(layers=2), FedRep(), FedBN(), FixBN(after=1), FedProx(mu=0.1),
)  # fmt: skip
PLAIN = Layout(("a", "b", "c"), ((2,), (3,), (4,)), ("weight", "weight", "weight"), (0, 1, 2))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(ModelSpec(adapters=4), 2, 1)


@pytest.fixture(scope="module")
def start(model: Model) -> np.ndarray:
    return Model(ModelSpec(adapters=4), 2, 1).take()


def taught(model: Model, start: np.ndarray, policy: Transfer, round: int = 0) -> Fit:
    return fit(model, start, COHORT, Recipe(lr=0.1), policy.plan(round, model.layout), policy, seed=1, twin="ct-01", round=round)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("round", [0, 2])
def test_what_is_not_trained_is_bit_identical_and_what_is_trained_moves(
    model: Model, start: np.ndarray, policy: Transfer, round: int
) -> None:
    after = taught(model, start, policy, round)
    for name, (first, stop) in zip(model.layout.names, model.layout.spans, strict=True):
        same = np.array_equal(after.vector[first:stop], start[first:stop])
        assert same == (name not in after.trained), name


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_what_is_shared_is_trained_by_then(model: Model, policy: Transfer) -> None:
    seen: set[str] = set()
    for round in range(12):
        lesson = policy.plan(round, model.layout)
        seen |= {name for phase in lesson.phases for name in phase.trained}
        assert set(lesson.shared) <= seen
        if policy.fixed:
            assert lesson.shared == policy.plan(0, model.layout).shared


def test_head_shares_the_head_and_leaves_frozen_statistics_alone(model: Model, start: np.ndarray) -> None:
    assert Head().plan(4, model.layout).shared == ("head.weight", "head.bias")
    statistics = model.layout.ranges(model.statistics)
    after = taught(model, start, Head()).vector
    assert all(np.array_equal(after[a:b], start[a:b]) for a, b in statistics)
    after = taught(model, start, Full()).vector
    assert not any(np.array_equal(after[a:b], start[a:b]) for a, b in statistics)


def test_fedper_keeps_the_last_groups() -> None:
    assert FedPer().plan(0, PLAIN).shared == ("a", "b")
    assert FedPer(layers=2).plan(0, PLAIN).shared == ("a",)
    assert FedPer(layers=2).plan(0, PLAIN).phases[0].trained == ("a", "b", "c")
    with pytest.raises(ScenarioError, match="3 layer groups, nothing would be shared; at most 2"):
        FedPer(layers=3).plan(0, PLAIN)


def test_fedrep_trains_the_head_then_the_body_and_shares_the_body() -> None:
    lesson = FedRep(head_epochs=3, body_epochs=2).plan(0, PLAIN)
    assert [(phase.trained, phase.epochs) for phase in lesson.phases] == [(("c",), 3), (("a", "b"), 2)]
    assert lesson.shared == ("a", "b")


def test_gradual_unfreezing_thaws_a_group_every_few_rounds_from_the_head_down() -> None:
    policy = GradualUnfreezing(every=3)
    stages = [policy.plan(round, PLAIN) for round in range(12)]
    assert [lesson.shared for lesson in stages] == [("c",)] * 3 + [("b", "c")] * 3 + [("a", "b", "c")] * 6
    assert all(lesson.phases[0].trained == lesson.shared for lesson in stages)
    assert stages[0].phases[0].lr == {2: 1.0}
    assert stages[-1].phases[0].lr == pytest.approx({2: 1, 1: 1 / 2.6, 0: 1 / 2.6**2})
    assert not policy.fixed


def test_a_thawed_group_moves_at_its_own_rate(model: Model, start: np.ndarray) -> None:
    policy = GradualUnfreezing(every=1)
    lesson = policy.plan(1, model.layout)
    one_step = Recipe(lr=0.1, steps=1, momentum=0)
    gradual = fit(model, start, COHORT, one_step, lesson, policy, seed=1, twin="a", round=1).vector - start
    gradient = model.grad.numpy().copy()
    for group, factor in ((4, 1.0), (3, 1 / 2.6)):
        for first, stop in model.layout.ranges(set(model.layout.of_groups(group, group)) - model.statistics):
            assert np.allclose(gradual[first:stop], -0.1 * factor * gradient[first:stop], rtol=1e-3, atol=1e-6)


def test_fedbn_keeps_batch_norm_and_its_statistics(model: Model) -> None:
    private = set(model.layout.names) - set(FedBN().plan(0, model.layout).shared)
    assert private == {n for n, k in zip(model.layout.names, model.layout.kinds, strict=True) if k in ("norm", "statistic")}
    assert "stem.1.running_mean" in private


def test_fedbn_on_a_network_without_batch_norm_is_full() -> None:
    squeezenet = Model(ModelSpec("squeezenet1_1"), 2, 1)
    assert FedBN().plan(3, squeezenet.layout) == Full().plan(3, squeezenet.layout)
    start = squeezenet.take()
    one = fit(squeezenet, start, COHORT, Recipe(lr=0.01), FedBN().plan(0, squeezenet.layout), FedBN(), seed=1, twin="a", round=0)
    two = fit(squeezenet, start, COHORT, Recipe(lr=0.01), Full().plan(0, squeezenet.layout), Full(), seed=1, twin="a", round=0)
    assert one.vector.tobytes() == two.vector.tobytes()


def test_fedprox_without_a_pull_is_full_bit_for_bit(model: Model, start: np.ndarray) -> None:
    assert taught(model, start, FedProx(mu=0)).vector.tobytes() == taught(model, start, Full()).vector.tobytes()


def test_a_stronger_pull_ends_nearer_to_the_start(model: Model, start: np.ndarray) -> None:
    weights, recipe = model.layout.ranges(model.parameters), Recipe(lr=0.01, epochs=4, momentum=0)
    lesson = Full().plan(0, model.layout)
    pulls = [FedProx(mu=mu) for mu in (0.0, 1.0, 5.0, 20.0)]
    moved = [fit(model, start, COHORT, recipe, lesson, pull, seed=1, twin="a", round=0).vector - start for pull in pulls]
    distances = [sum(float(np.square(step[a:b]).sum()) for a, b in weights) for step in moved]
    assert distances == sorted(distances, reverse=True)
    assert len(set(distances)) == 4


def test_the_pull_is_half_mu_times_the_squared_distance() -> None:
    params = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0]])}
    start = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([[1.0]])}
    assert float(FedProx(mu=0.5).loss(torch.tensor(10.0), params, start)) == 10 + 0.25 * (1 + 4 + 4)


@pytest.mark.parametrize("name", sorted(registered("transfer")))
def test_every_registered_policy_plans_every_backbone(name: str) -> None:
    policy = find("transfer", name)()
    for backbone in ("compact", "mobilenet_v3_small"):
        layout = layout_of(ModelSpec(backbone, adapters=4), 3)  # type: ignore[arg-type]
        lesson = policy.plan(0, layout)
        assert lesson.shared
        assert set(lesson.shared) <= set(layout.names)
        assert lesson.shared == tuple(n for n in layout.names if n in lesson.shared)


def test_fixbn_is_full_at_first_and_then_leaves_the_statistics_as_they_are(model: Model, start: np.ndarray) -> None:
    policy = FixBN(after=2)
    assert policy.plan(1, model.layout) == Full().plan(1, model.layout)
    later = taught(model, start, policy, round=2)
    fixed = set(model.layout.names) - set(policy.plan(2, model.layout).shared)
    assert fixed == model.statistics
    assert later.vector.tobytes() != taught(model, start, Full(), round=2).vector.tobytes()
    for name, (first, stop) in zip(model.layout.names, model.layout.spans, strict=True):
        assert (name in model.statistics) == np.array_equal(later.vector[first:stop], start[first:stop])
