from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.amount import samples_seen
from p2pftl.learning.backbones import BACKBONES
from p2pftl.learning.fit import Fit, FitDiverged, Recipe, fit, log_shares
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.score import score
from p2pftl.learning.transfer import FedRep, Full, GradualUnfreezing, Lesson, Transfer
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()
COHORT = blobs(20)
RECIPE = Recipe(lr=0.02, batch=8)
ADAM = replace(RECIPE, optimizer="adam", lr=0.003)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(ModelSpec(), 2, 1)


@pytest.fixture(scope="module")
def start() -> Vector:
    return Model(ModelSpec(), 2, 1).take()


def study(
    model: Model, start: Vector, cohort: Cohort = COHORT, recipe: Recipe = RECIPE, policy: Transfer | None = None,
    *, twin: str = "ct-01", round: int = 0, **more: object,
) -> Fit:  # fmt: skip
    policy = policy or Full()
    lesson = policy.plan(round, model.layout)
    return fit(model, start, cohort, recipe, lesson, policy, seed=7, twin=twin, round=round, **more)  # type: ignore[arg-type]


def test_it_learns(model: Model, start: Vector) -> None:
    cohort, unseen = blobs(96), blobs(64, seed=1)
    before = score(model, start, unseen, 2)
    vector = start
    for round in range(4):
        vector = study(model, vector, cohort, replace(RECIPE, epochs=2, lr=0.05), round=round).vector
    after = score(model, vector, unseen, 2)
    assert before["auroc"] < 0.8 < 0.95 < after["auroc"]  # type: ignore[operator]
    assert after["accuracy"] > 0.85  # type: ignore[operator]


@pytest.mark.parametrize("recipe", [replace(RECIPE, epochs=2, weight_decay=0.01), ADAM], ids=["sgd", "adam"])
def test_it_equals_the_plain_torch_loop_bit_for_bit(model: Model, start: Vector, recipe: Recipe) -> None:
    """Adam to the last bits only: it takes torch's fused step, which rounds in another order."""
    network = BACKBONES["compact"](2).module
    network.load_state_dict({name: torch.from_numpy(values) for name, values in model.layout.tensors(start).items()}, strict=False)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(network.parameters(), recipe.lr)
    else:
        optimizer = torch.optim.SGD(network.parameters(), recipe.lr, 0.9, weight_decay=0.01)
    for epoch in range(recipe.epochs):
        order = draw(7, "order", "ct-01", 0, epoch).permutation(20)
        for rows in (order[:8], order[8:16], order[16:]):
            optimizer.zero_grad()
            images = (torch.from_numpy(COHORT.images(rows)) - 0.5) / 0.35  # type: ignore[arg-type]
            torch.nn.functional.cross_entropy(network(images), torch.from_numpy(COHORT.labels[rows])).backward()
            optimizer.step()
    expected = model.layout.vector({name: network.state_dict()[name].numpy() for name in model.layout.names})
    found = study(model, start, recipe=recipe).vector
    if recipe.optimizer == "adam":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    else:
        assert found.tobytes() == expected.tobytes()


def test_the_same_key_gives_the_same_bytes_and_another_name_others(model: Model, start: Vector) -> None:
    first = study(model, start)
    torch.rand(5)  # somebody else's draws
    again = study(Model(ModelSpec(), 2, 99), start)
    assert again.vector.tobytes() == first.vector.tobytes()
    assert again.loss == first.loss
    assert study(model, start, twin="ct-02").vector.tobytes() != first.vector.tobytes()
    assert study(model, start, round=1).vector.tobytes() != first.vector.tobytes()


def test_dropout_draws_from_the_key_and_torch_gets_its_random_state_back() -> None:
    model = Model(ModelSpec("squeezenet1_1"), 2, 0)
    start = model.take()
    state = torch.random.get_rng_state()
    first = study(model, start)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert study(model, start).vector.tobytes() == first.vector.tobytes()


def test_nothing_given_is_changed(model: Model, start: Vector) -> None:
    keep = replace(ADAM, reset_optimizer=False)
    given = start.copy()
    given.flags.writeable = False
    memory = study(model, given, recipe=keep).memory
    assert memory is not None
    before = {name: values.copy() for name, values in memory.items()}
    study(model, given, recipe=keep, memory=memory, round=1)
    assert np.array_equal(given, start)
    assert all(np.array_equal(memory[name], before[name]) for name in before)


@pytest.mark.parametrize("recipe", [RECIPE, ADAM], ids=["sgd", "adam"])
def test_kept_memory_makes_two_rounds_one_long_fit(model: Model, start: Vector, recipe: Recipe) -> None:
    """Full-batch steps: with the whole cohort in a batch the order of the images hardly matters."""
    keep = replace(recipe, batch=20, reset_optimizer=False, steps=2)
    long = study(model, start, recipe=replace(keep, steps=4)).vector
    first = study(model, start, recipe=keep)
    second = study(model, first.vector, recipe=keep, memory=first.memory, round=1).vector
    forgetful = study(model, first.vector, recipe=replace(keep, reset_optimizer=True), memory=first.memory, round=1)
    assert np.abs(second - long).max() < 0.05 * np.abs(forgetful.vector - long).max()
    assert forgetful.memory is None


def test_memory_survives_a_change_of_what_is_trained(model: Model, start: Vector) -> None:
    policy, keep = GradualUnfreezing(every=1), replace(ADAM, reset_optimizer=False)
    first = study(model, start, recipe=keep, policy=policy, round=0)
    second = study(model, first.vector, recipe=keep, policy=policy, round=1, memory=first.memory)
    assert first.memory is not None
    assert second.memory is not None
    ages = dict(zip(model.layout.names, second.memory["step"], strict=True))
    assert ages["head.weight"] == 6
    assert ages["block3.0.weight"] == 3
    assert ages["stem.0.weight"] == 0
    assert {values.dtype for values in second.memory.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("backbone", ["compact", "mobilenet_v3_small"])
@pytest.mark.parametrize(("n", "batch", "steps"), [(1, 16, 1), (9, 8, 1), (17, 8, 2), (3, 1, 3), (10, 8, 2)])
def test_every_image_is_seen_once_and_a_lone_one_does_no_harm(backbone: str, n: int, batch: int, steps: int) -> None:
    model = Model(ModelSpec(backbone), 2, 0)  # type: ignore[arg-type]
    after = study(model, model.take(), blobs(n), replace(RECIPE, batch=batch))
    assert (after.samples, after.steps) == (n, steps)
    assert np.isfinite(after.vector).all()


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, epochs=3), replace(RECIPE, steps=1), replace(RECIPE, steps=7)])
@pytest.mark.parametrize("policy", [Full(), FedRep(head_epochs=2)], ids=str)
@pytest.mark.parametrize("n", [17, 20])
def test_the_images_seen_are_those_predicted(model: Model, start: Vector, recipe: Recipe, policy: Transfer, n: int) -> None:
    lesson = policy.plan(0, model.layout)
    assert samples_seen(recipe, lesson, n) == study(model, start, blobs(n), recipe, policy).samples


def test_steps_take_the_place_of_epochs(model: Model, start: Vector) -> None:
    assert study(model, start, recipe=replace(RECIPE, epochs=9, steps=4)).steps == 4


def test_a_lesson_without_phases_changes_nothing(model: Model, start: Vector) -> None:
    after = fit(model, start, COHORT, RECIPE, Lesson((), model.layout.names), Full(), seed=1, twin="a", round=0)
    assert np.array_equal(after.vector, start)
    assert (after.samples, after.steps, after.trained) == (0, 0, ())


def test_a_fit_that_diverges_says_so(model: Model, start: Vector) -> None:
    with pytest.raises(FitDiverged, match=r"E340 ct-01, round 3: .*learning rate 100; lower it, to 10") as caught:
        study(model, start * np.float32(1e30), recipe=replace(RECIPE, lr=100.0, epochs=3), round=3)
    assert caught.value.code == "E340"


def test_a_twin_without_images_cannot_fit(model: Model, start: Vector) -> None:
    with pytest.raises(DataError, match="E304 ct-01: no images"):
        study(model, start, blobs(0))


def test_the_balanced_loss_is_that_of_logits_plus_log_shares(model: Model, start: Vector) -> None:
    """One step by hand on a cohort of 15 to 5."""
    rows = np.concatenate([np.flatnonzero(COHORT.labels == 1)[:10], np.flatnonzero(COHORT.labels == 0)[:5]])
    cohort = replace(COHORT, pixels=COHORT.pixels[rows], labels=COHORT.labels[rows])
    recipe = Recipe(lr=0.02, momentum=0.0, batch=15, loss="balanced")
    network = BACKBONES["compact"](2).module
    network.load_state_dict({name: torch.from_numpy(values) for name, values in model.layout.tensors(start).items()}, strict=False)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = draw(7, "order", "ct-01", 0, 0).permutation(15)
    logits = network((torch.from_numpy(cohort.images(order)) - 0.5) / 0.35)
    shares = torch.tensor([6 / 17, 11 / 17])
    torch.nn.functional.cross_entropy(logits + shares.log(), torch.from_numpy(cohort.labels[order])).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.sub_(0.02 * (parameter.grad if parameter.grad is not None else torch.zeros(())))
    expected = model.layout.vector({name: network.state_dict()[name].numpy() for name in model.layout.names})
    np.testing.assert_allclose(study(model, start, cohort, recipe).vector, expected, rtol=1e-5, atol=1e-7)


def test_a_class_that_no_image_has_is_not_impossible() -> None:
    np.testing.assert_allclose(np.exp(log_shares(np.array([0, 0, 1]), 3)), [3 / 6, 2 / 6, 1 / 6])


def test_the_learning_rate_decays_from_round_to_round(model: Model, start: Vector) -> None:
    falling = replace(RECIPE, decay=0.5)
    assert falling.at(0).lr == RECIPE.lr
    assert falling.at(3).lr == RECIPE.lr / 8
    assert RECIPE.at(3) is RECIPE
