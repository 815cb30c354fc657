from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2pftl.learning.classification import Classification
from p2pftl.learning.features import Features
from p2pftl.learning.models import PLAIN, Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import Backbone, FeatureCache, Recipe
from p2pftl.learning.stack import LEAST, stackable
from p2pftl.learning.task import Coming, FitDiverged, Learnt, Scene
from p2pftl.learning.transfer import FedProx, Full, GradualUnfreezing, Head, Transfer
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(ModelSpec(), 2, 0, replace(PLAIN, together=True))


def crew(model: Model, recipe: Recipe, transfer: Transfer, twins: int = LEAST, images: tuple[int, ...] = (18, 20)) -> list[Classification]:
    """Twins with 18 or 20 images, so with last batches of unequal size."""
    features, start = Features(model, FeatureCache()), model.take()
    cohorts = [blobs(images[twin % len(images)], seed=twin) for twin in range(twins)]
    return [
        Classification(f"ct-{twin:02d}", model, start, {"train": own}, recipe, transfer, 7, 2, features) for twin, own in enumerate(cohorts)
    ]


def coming(tasks: list[Classification], vectors: list[Vector], round: int = 0) -> list[Coming]:
    """Every third twin has acquired other studies since."""
    scenes = [Scene(1, {"train": blobs(tasks[twin].samples, seed=99 + twin)}) if twin % 3 else Scene() for twin in range(len(tasks))]
    return [Coming(task, vector, round, scene) for task, vector, scene in zip(tasks, vectors, scenes, strict=True)]


def asked(fits: list[Coming]) -> list[Learnt]:
    return [one.task.fit(one.vector, one.round, one.scene, None) for one in fits]


@pytest.mark.parametrize(
    ("recipe", "transfer"),
    [
        (Recipe(lr=0.1, batch=8, weight_decay=0.01, epochs=2), Head()),
        (Recipe("adam", lr=0.01, batch=8), Head()),
        (Recipe(lr=0.1, batch=8, shift=2, flip=True, views=2, steps=4), GradualUnfreezing(every=9)),
    ],
    ids=["sgd", "adam", "views"],
)
def test_heads_fitted_together_equal_heads_fitted_one_by_one(model: Model, recipe: Recipe, transfer: Transfer) -> None:
    tasks = crew(model, recipe, transfer)
    together = alone = [task.initial() for task in tasks]
    body = model.layout.ranges(model.layout.of_groups(model.layout.depth - 1))[0][0]
    for round in range(3):
        expected = asked(coming(tasks, alone, round))
        assert tasks[0].fit_together(coming(tasks, together, round)) == {task.name for task in tasks}
        found = asked(coming(tasks, together, round))
        assert [(one.samples, one.steps, one.trained) for one in found] == [(one.samples, one.steps, one.trained) for one in expected]
        np.testing.assert_allclose([one.loss for one in found], [one.loss for one in expected], rtol=1e-4)
        together, alone = [one.vector for one in found], [one.vector for one in expected]
    for own, other, task in zip(together, alone, tasks, strict=True):
        assert own[:body].tobytes() == task.initial()[:body].tobytes()
        assert not np.array_equal(own[body:], task.initial()[body:])
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)


def test_a_fit_that_is_not_the_one_foreseen_is_computed_as_ever(model: Model) -> None:
    tasks = crew(model, Recipe(batch=8), Head())
    fits = coming(tasks, [task.initial() for task in tasks])
    others = [replace(one, vector=one.vector + np.float32(0.01)) for one in fits]
    expected = asked(others)
    tasks[0].fit_together(fits)
    assert [one.vector.tobytes() for one in asked(others)] == [one.vector.tobytes() for one in expected]


def test_studies_that_came_since_a_fit_was_foreseen_are_learnt_from(model: Model) -> None:
    tasks = crew(model, Recipe(batch=8), Head())
    fits = coming(tasks, [task.initial() for task in tasks])
    later = [replace(one, scene=Scene(2, {"train": blobs(20, seed=7)})) for one in fits]
    expected = asked(later)
    assert tasks[0].fit_together(fits) == {task.name for task in tasks}
    assert [one.vector.tobytes() for one in asked(later)] == [one.vector.tobytes() for one in expected]


def test_who_diverges_is_told_so_and_does_no_harm_to_the_others(model: Model) -> None:
    tasks = crew(model, Recipe(batch=8), Head(), twins=LEAST + 1)
    vectors = [task.initial().copy() for task in tasks]
    vectors[3][-1] = np.inf
    fits = coming(tasks, vectors)
    assert tasks[0].fit_together(fits) == {task.name for task in tasks} - {"ct-03"}
    with pytest.raises(FitDiverged):
        asked(fits[3:4])
    assert all(np.isfinite(one.vector).all() for one in asked(fits[:3] + fits[4:]))


@pytest.mark.parametrize(
    ("recipe", "transfer", "twins", "images"),
    [
        (Recipe(batch=8), Head(), LEAST - 1, (20,)),
        (Recipe(batch=8), Head(), LEAST, (8, 20)),
        (Recipe(batch=8), Full(), LEAST, (20,)),
        (Recipe(batch=8), FedProx(), LEAST, (20,)),
        (Recipe(batch=8, reset_optimizer=False), Head(), LEAST, (20,)),
        (Recipe(batch=8, flip=True), Head(), LEAST, (20,)),
    ],
    ids=["few", "unequal numbers of steps", "all layers", "another loss", "kept memory", "moving images"],
)
def test_what_would_not_be_equal_or_faster_is_left_alone(
    model: Model, recipe: Recipe, transfer: Transfer, twins: int, images: tuple[int, ...]
) -> None:
    tasks = crew(model, recipe, transfer, twins, images)
    assert not tasks[0].fit_together(coming(tasks, [task.initial() for task in tasks]))


@pytest.mark.parametrize(("backbone", "can"), [("compact", True), ("resnet18", True), ("squeezenet1_1", False)])
def test_heads_with_draws_of_their_own_are_not_stacked(backbone: Backbone, can: bool) -> None:
    assert stackable(Model(ModelSpec(backbone), 2, 0)) == can
