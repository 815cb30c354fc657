"""A task in other scenes: studies that came or went since, and a scanner that was changed on purpose."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.amount import samples_seen
from p2pftl.learning.classification import Classification
from p2pftl.learning.features import Features
from p2pftl.learning.models import Model, ModelSpec, layout_of, prepare_torch
from p2pftl.learning.specs import Backbone, FeatureCache, Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import FedBN, Full, Head, Transfer, adaptation
from tests.learning.blobs import blobs

prepare_torch()
RECIPE = Recipe(lr=0.02, batch=8)
OWN = {"train": blobs(20), "validation": blobs(6, seed=1), "test": blobs(9, seed=2)}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(ModelSpec(), 2, 1)


def task(model: Model, transfer: Transfer, features: Features | None = None, **cohorts: Cohort) -> Classification:
    return Classification("ct-01", model, START, {**OWN, **cohorts}, RECIPE, transfer, 7, 2, features)


START = Model(ModelSpec(), 2, 1).take()


@pytest.mark.parametrize("transfer", [Full(), Head()], ids=str)
def test_a_scene_s_studies_count_as_if_they_were_the_task_s_own(model: Model, transfer: Transfer) -> None:
    other = {"train": blobs(13, seed=5), "validation": blobs(4, seed=6)}
    scene, moved, own = Scene(3, other), task(model, transfer), task(model, transfer, **other)
    assert moved.fit(START, 0, scene, None).vector.tobytes() == own.fit(START, 0, Scene(), None).vector.tobytes()
    assert moved.score(START, "validation", scene, 0) == own.score(START, "validation", Scene(), 0)
    assert moved.score(START, "test", scene, 0) == own.score(START, "test", Scene(), 0)
    work = moved.work(0, scene)
    assert work == own.work(0, Scene())
    assert (work.held, work.samples, moved.samples) == (13, 13, 20)


def test_a_scene_that_brings_training_studies_alone_leaves_validation_as_it_is(model: Model) -> None:
    one = task(model, Head())
    assert one.score(START, "validation", Scene(1, {"train": blobs(4)}), 0) == one.score(START, "validation", Scene(), 0)


def test_a_scene_is_known_by_its_version_not_by_its_images() -> None:
    assert Scene(1, {"train": blobs(4)}) == Scene(1)
    assert Scene(1) != Scene(2)
    assert Scene(1) != Scene(1, adapt=True)


def test_features_of_studies_that_are_learnt_from_no_more_leave_the_memory(model: Model) -> None:
    features = Features(model, FeatureCache())
    kept, computed = task(model, Head(), features), task(model, Head())
    for version in range(1, 6):
        scene = Scene(version, {"train": blobs(18 + version % 3, seed=version)})
        for round in range(2):
            assert kept.fit(START, round, scene, None).vector.tobytes() == computed.fit(START, round, scene, None).vector.tobytes()
        del scene
        gc.collect()
    assert features.counts.memory == 0
    assert (features.counts.misses, features.counts.hits) == (5, 5)


def test_adapting_trains_normalisation_and_head_alone_and_shares_nothing(model: Model) -> None:
    one, scene = task(model, Full()), Scene(1, adapt=True)
    learnt = one.fit(START, 0, scene, None)
    layout = model.layout
    private = {*layout.names} - {*FedBN().plan(0, layout).shared}
    spans = dict(zip(layout.names, layout.spans, strict=True))
    moved = {name for name, (start, stop) in spans.items() if np.any(learnt.vector[start:stop] != START[start:stop])}
    assert moved == private | {*layout.of_groups(layout.depth - 1)}
    assert 0 < learnt.trained < 0.02
    assert one.work(0, scene).shared == ()
    assert one.work(0, scene).samples == samples_seen(RECIPE, adaptation(layout), 20) == 20
    assert one.score(learnt.vector, "test", scene, 0) == task(model, Full()).score(learnt.vector, "test", Scene(), 0)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "resnet18"])
def test_a_network_without_normalisation_adapts_its_head(backbone: Backbone) -> None:
    layout = layout_of(ModelSpec(backbone), 2)
    (phase,) = adaptation(layout).phases
    kinds = dict(zip(layout.names, layout.kinds, strict=True))
    assert {name for name in phase.trained if kinds[name] == "weight"} == {*layout.of_groups(layout.depth - 1)}
    assert {name for name in layout.names if kinds[name] != "weight"} <= {*phase.trained}
    assert (backbone == "squeezenet1_1") == (phase.trained == layout.of_groups(layout.depth - 1))


def test_brighter_images_after_a_change_are_learnt_by_adapting(model: Model) -> None:
    """A network that knows the task, then a scanner that makes every image brighter: norm and head suffice to come back."""

    def shifted(n: int, seed: int, by: int) -> Cohort:
        plain = blobs(n, seed=seed)
        return Cohort(np.clip(plain.pixels * 0.6 + by, 0, 255).astype(np.uint8), plain.labels, "grey")

    one = Classification("ct-01", model, START, OWN | {"train": blobs(64)}, Recipe(lr=0.05, batch=8, epochs=6), Full(), 7, 2)
    vector = one.fit(START, 0, Scene(), None).vector
    later = Scene(1, {"train": shifted(64, 3, 90), "validation": shifted(64, 4, 90)}, adapt=True)
    before = one.score(vector, "validation", later, 1)["balanced_accuracy"]
    after = one.score(one.fit(vector, 1, later, None).vector, "validation", later, 1)["balanced_accuracy"]
    assert after > 0.85
    assert after >= before


def test_the_task_fits_by_the_rate_of_the_round(model: Model) -> None:
    falling = Classification("ct-01", model, START, OWN, replace(RECIPE, decay=0.5), Full(), 7, 2)
    slower = Classification("ct-01", model, START, OWN, replace(RECIPE, lr=RECIPE.lr / 4), Full(), 7, 2)
    assert falling.fit(START, 2, Scene(), None).vector.tobytes() == slower.fit(START, 2, Scene(), None).vector.tobytes()
