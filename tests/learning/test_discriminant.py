"""A head in closed form: moments that add up, the discriminant that follows, and the task that keeps both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.backbones import BACKBONES
from p2pftl.learning.classification import Classification
from p2pftl.learning.discriminant import DiscriminantLearning
from p2pftl.learning.knowledge import Discriminant, extended
from p2pftl.learning.models import Model, ModelSpec, layout_of, prepare_torch
from p2pftl.learning.moments import counts, discriminant, headed, told
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import Full, Head
from p2pftl.learning.tutoring import Tap, embedded
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()
SPEC = ModelSpec()
MODEL = Model(SPEC, 3, 1)
START = MODEL.take()
COHORTS = {"train": blobs(24), "validation": blobs(0), "test": blobs(40, seed=9)}
RECIPE = Recipe(lr=0.05, batch=8, epochs=2)


def points(n: int = 400, width: int = 5, classes: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians of one covariance around a centre for each class, one class four times as frequent as the others."""
    rng = np.random.default_rng(seed)
    centres, mix = 2 * rng.normal(size=(classes, width)), rng.normal(size=(width, width))
    labels = rng.choice(classes, n, p=[4 / (classes + 3)] + [1 / (classes + 3)] * (classes - 1))
    return centres[labels] + rng.normal(size=(n, width)) @ mix, labels.astype(np.int64)


def closed(policy: Discriminant = Discriminant()) -> DiscriminantLearning:  # noqa: B008
    """Three classes, of which the blobs are two."""
    task = Classification("ct-01", MODEL, START, COHORTS, RECIPE, Full(), 1, 3)
    return DiscriminantLearning(task, policy, extended(MODEL.layout, SPEC, policy))


# ---------------------------------------------------------------------- moments


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    found, labels = points()
    parts = [told(found[some], labels[some], 3, 1) for some in (slice(0, 90), slice(90, 100), slice(100, 400))]
    assert np.allclose(sum(parts), told(found, labels, 3, 1), rtol=1e-5, atol=1e-3)


def test_of_a_class_with_too_few_images_nothing_is_told() -> None:
    found, labels = points()
    few = np.flatnonzero(labels == 2)[4:]
    fewer = np.delete(np.arange(400), few)
    said = told(found[fewer], labels[fewer], 3, least=5)
    without = labels[fewer] != 2
    assert np.array_equal(said, told(found[fewer][without], labels[fewer][without], 3, least=1))
    assert counts(said, 3).tolist()[2] == 0


# ---------------------------------------------------------------------- the discriminant


def test_the_discriminant_is_that_of_the_textbook() -> None:
    """By numpy's own covariance, class by class."""
    found, labels = points()
    weight, bias = discriminant(told(found, labels, 3, 1), 3, 0.2)
    means = np.stack([found[labels == label].mean(0) for label in range(3)])
    within = sum(np.cov(found[labels == label].T, bias=True) * (labels == label).sum() for label in range(3)) / 400
    within = 0.8 * within + 0.2 * np.trace(within) / 5 * np.eye(5)
    inverse = np.linalg.inv(within)
    assert np.allclose(weight, means @ inverse, rtol=2e-3, atol=2e-3)
    assert np.allclose(bias, [-mean @ inverse @ mean / 2 for mean in means], rtol=2e-3, atol=2e-3)


def test_it_favours_no_class_for_being_frequent_and_does_not_care_for_scale() -> None:
    found, labels = points(4000)
    known = told(found, labels, 3, 1)
    weight, bias = discriminant(known, 3, 1e-3)
    right = (found @ weight.T + bias).argmax(1) == labels
    rates = [right[labels == label].mean() for label in range(3)]
    assert min(rates) > 0.85
    assert max(rates) - min(rates) < 0.12
    assert all(np.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip((weight, bias), discriminant(known / 64, 3, 1e-3), strict=True))


def test_a_class_that_nobody_told_of_is_never_chosen() -> None:
    found, labels = points()
    weight, bias = discriminant(told(found, np.minimum(labels, 1), 3, 1), 3, 0.1)
    assert 2 not in (1000 * found @ weight.T + bias).argmax(1)


def test_embeddings_without_any_spread_within_classes_give_the_nearest_mean() -> None:
    found = np.repeat([[1.0, 0.0, 3.0], [0.0, 2.0, 3.0]], 4, 0)
    labels = np.repeat([0, 1], 4)
    weight, bias = discriminant(told(found, labels, 2, 1), 2, 0.1)
    assert np.isfinite(weight).all()
    assert (found @ weight.T + bias).argmax(1).tolist() == labels.tolist()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_head_of_every_backbone_computes_the_discriminant(backbone: str) -> None:
    spec = ModelSpec(backbone)  # type: ignore[arg-type]
    model = Model(spec, 3, 1)
    start = model.take()
    rng = np.random.default_rng(1)
    width = Discriminant().behind(spec, layout_of(spec, 3)).shapes[0][1]
    labels = np.arange(30) % 3
    known = told(rng.normal(size=(30, width)) + labels[:, None], labels, 3, 1)
    with_head = headed(start, known, model.layout, 0.5)
    first = model.layout.spans[-2][0]
    assert with_head[:first].tobytes() == start[:first].tobytes()
    model.load(with_head)
    model.rest()
    tap = Tap(model)
    with torch.no_grad():
        logits = model(torch.rand(2, 1, 64, 64)).numpy()
    tap.close()
    weight, bias = discriminant(known, 3, 0.5)
    assert np.allclose(logits, tap.seen.numpy() @ weight.T + bias, rtol=1e-3, atol=1e-3)


def test_while_nothing_is_known_the_model_keeps_its_head() -> None:
    task = closed()
    assert headed(*task.parts(task.initial()), MODEL.layout, 0.1).tobytes() == START.tobytes()
    assert task.score(task.initial(), "test", Scene(), 0) == task.task.score(START, "test", Scene(), 0)


# ---------------------------------------------------------------------- the task


def fitted(task: DiscriminantLearning, vector: Vector | None = None, round: int = 0, **scene: bool) -> Vector:
    return task.fit(task.initial() if vector is None else vector, round, Scene(**scene), None).vector


def test_the_model_learns_as_it_would_without_and_its_moments_stand_behind() -> None:
    task = closed()
    model, known = task.parts(fitted(task))
    assert model.tobytes() == task.task.fit(START, 0, Scene(), None).vector.tobytes()
    cohort = COHORTS["train"]
    assert np.array_equal(known, told(embedded(MODEL, model, cohort), cohort.labels, 3, 3))


def test_what_is_known_of_others_gives_way_by_as_much_as_is_renewed() -> None:
    task = closed(Discriminant(renew=0.25))
    before = np.concatenate((START, np.full(task.layout.size - len(START), 8.0, np.float32)))
    model, known = task.parts(fitted(task, before))
    own = told(embedded(MODEL, model, COHORTS["train"]), COHORTS["train"].labels, 3, 3)
    assert np.allclose(known, 0.75 * 8 + 0.25 * own)


def test_what_is_scored_has_the_head_in_closed_form() -> None:
    task = closed()
    vector = fitted(task)
    model, known = task.parts(vector)
    assert task.score(vector, "test", Scene(), 0) == task.task.score(headed(model, known, MODEL.layout, 0.1), "test", Scene(), 0)
    assert task.score(vector, "test", Scene(), 0)["accuracy"] >= 0.8
    assert task.work(0, Scene()).samples == 2 * 24 + 8
    assert task.work(0, Scene()).shared == (*MODEL.layout.names, "discriminant.sum", "discriminant.product", "discriminant.count")


def test_a_twin_of_one_class_tells_two_apart_by_what_it_heard_of_the_other() -> None:
    task, cohort = closed(), blobs(120)
    bright, dark = (np.flatnonzero(cohort.labels == label) for label in (1, 0))
    own = Cohort(cohort.pixels[bright], cohort.labels[bright], "grey")
    one = replace(task, task=replace(task.task, transfer=Head(), cohorts={**COHORTS, "train": own}))
    heard = told(embedded(MODEL, START, cohort)[dark], cohort.labels[dark], 3, 3)
    alone, wiser = fitted(one), fitted(one, np.concatenate((START, heard)))
    assert one.task.score(one.parts(alone)[0], "test", Scene(), 0)["accuracy"] == 0.5
    assert one.score(wiser, "test", Scene(), 0)["accuracy"] > 0.6


def test_a_twin_that_adapts_keeps_what_it_knew() -> None:
    task = closed()
    before = fitted(task)
    after = fitted(task, before, 1, adapt=True)
    assert np.array_equal(task.parts(after)[1], task.parts(before)[1])
    assert (task.parts(after)[0] != task.parts(before)[0]).any()
