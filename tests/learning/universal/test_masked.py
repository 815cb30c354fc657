"""Masked images as a task."""

from __future__ import annotations

import numpy as np
import pytest

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged, Scene
from p2pftl.learning.transfer import FedPer, Full
from p2pftl.learning.universal.masked import MaskedImages, masked
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.spec import EncoderSpec, Masking
from tests.learning.universal.shapes import mislabelled, stripes

prepare_torch()
MODEL = Universal(EncoderSpec(width=8), 0, 1)
START = MODEL.take()
COHORTS = {"train": stripes(40), "validation": stripes(12, seed=1), "test": stripes(12, seed=2)}
ADAM = Recipe(optimizer="adam", lr=3e-3, batch=8, steps=12)


def task(recipe: Recipe = ADAM, name: str = "ct-01", **changes: object) -> MaskedImages:
    return MaskedImages(name, MODEL, START, {**COHORTS, **changes}, recipe, Full(), 7)  # type: ignore[dict-item]


@pytest.mark.parametrize(("unit", "ratio", "hidden"), [(8, 0.6, 10), (16, 0.5, 2), (4, 0.1, 6), (32, 0.5, 1)])
def test_every_image_loses_the_same_number_of_whole_squares_each_its_own(unit: int, ratio: float, hidden: int) -> None:
    masks = masked(20, 32, Masking(unit, ratio), draw(1, "mask"))
    assert set(np.unique(masks)) <= {0.0, 1.0}
    assert (masks.sum((1, 2, 3)) == hidden * unit**2).all()
    squares = masks.reshape(20, 32 // unit, unit, 32 // unit, unit)
    assert np.array_equal(squares.min((2, 4)), squares.max((2, 4)))
    if 0 < hidden < (32 // unit) ** 2:
        assert len(np.unique(masks.reshape(20, -1), axis=0)) > 3


@pytest.mark.parametrize(("side", "unit"), [(36, 4), (40, 16)])
def test_images_that_squares_do_not_fill_are_refused(side: int, unit: int) -> None:
    with pytest.raises(DataError) as caught:
        masked(1, side, Masking(unit), draw(1, "mask"))
    assert caught.value.code == "E315"


def test_the_encoder_learns_to_restore_what_is_hidden() -> None:
    one = task(Recipe(optimizer="adam", lr=3e-3, batch=8, steps=150))
    before = one.score(START, "validation", Scene(), 0)
    after = one.score(one.fit(START, 0, Scene(), None).vector, "validation", Scene(), 0)
    assert after["gain"] > 0.15 > before["gain"]
    assert after["loss"] < before["loss"]


def test_the_same_fit_gives_the_same_bytes_and_labels_have_no_part_in_it() -> None:
    poisoned = {split: mislabelled(cohort) for split, cohort in COHORTS.items()}
    one, other = task().fit(START, 3, Scene(), None), task(**poisoned).fit(START, 3, Scene(), None)
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.loss == other.loss
    assert task().score(START, "test", Scene(), 0) == task(**poisoned).score(START, "test", Scene(), 0)
    assert task(name="ct-02").fit(START, 3, Scene(), None).vector.tobytes() != one.vector.tobytes()


def test_a_score_is_under_the_same_masks_in_every_round() -> None:
    assert task().score(START, "test", Scene(), 0) == task().score(START, "test", Scene(), 9)


def test_an_optimiser_that_remembers_goes_on_where_it_was() -> None:
    recipe = Recipe(optimizer="adam", lr=1e-3, batch=8, epochs=1, reset_optimizer=False)
    first = task(recipe).fit(START, 0, Scene(), None)
    assert first.memory is not None
    again, fresh = (task(recipe).fit(first.vector, 1, Scene(), memory) for memory in (first.memory, None))
    assert again.vector.tobytes() != fresh.vector.tobytes()
    assert again.memory is not None
    assert float(again.memory["step"].max()) == 10


def test_a_scene_s_images_take_the_place_of_the_task_s_own() -> None:
    other = {"train": stripes(10, seed=5)}
    assert task().fit(START, 0, Scene(1, other), None).vector.tobytes() == task(**other).fit(START, 0, Scene(), None).vector.tobytes()
    assert task().work(0, Scene(1, other)) == task(**other).work(0, Scene())
    assert task().work(0, Scene(1, other)).held == 10


def test_an_adapting_twin_trains_norms_and_decoder_alone_and_shares_nothing() -> None:
    layout = MODEL.layout
    learnt = task().fit(START, 0, Scene(1, adapt=True), None).vector
    moved = {
        name for name, (start, stop) in zip(layout.names, layout.spans, strict=True) if np.any(learnt[start:stop] != START[start:stop])
    }
    assert moved == {n for n, k, g in zip(layout.names, layout.kinds, layout.groups, strict=True) if k == "norm" or g == layout.depth - 1}
    assert task().work(0, Scene(1, adapt=True)).shared == ()


def test_a_private_decoder_does_not_travel() -> None:
    one = MaskedImages("ct-01", MODEL, START, COHORTS, ADAM, FedPer(), 7)
    assert not [name for name in one.work(0, Scene()).shared if name.startswith("decoder.")]


def test_a_fit_that_diverges_says_so_and_one_without_images_cannot_begin() -> None:
    with pytest.raises(FitDiverged):
        task(Recipe(lr=100.0, steps=30)).fit(START * 1e4, 0, Scene(), None)
    with pytest.raises(DataError):
        task(train=stripes(0)).fit(START, 0, Scene(), None)
    assert task(test=stripes(0)).score(START, "test", Scene(), 0) == {}
