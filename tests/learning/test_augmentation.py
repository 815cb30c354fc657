"""Shifts and mirror images: drawn anew each time, by name, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from p2pftl.draw import draw
from p2pftl.learning.fit import augmented, fit
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.transfer import Full
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()
IMAGES = draw(1, "images").random((64, 1, 16, 16), np.float32)


def test_every_image_is_one_of_the_shifts_and_mirrors_the_recipe_allows() -> None:
    seen = augmented(IMAGES, Recipe(shift=2, flip=True), draw(1, "augment"))
    found = set()
    for image, target in zip(IMAGES[:, 0], seen[:, 0], strict=True):
        padded = np.pad(image, 2, mode="edge")
        views = {(d, r, m): padded[d : d + 16, r : r + 16][:, :: -1 if m else 1] for d in range(5) for r in range(5) for m in (0, 1)}
        found.add(next(key for key, view in views.items() if np.array_equal(view, target)))
    assert len(found) > 20
    assert {mirrored for _, _, mirrored in found} == {0, 1}


def test_the_same_key_gives_the_same_images_and_another_key_others() -> None:
    recipe = Recipe(shift=3)
    first = augmented(IMAGES, recipe, draw(1, "augment", "ct-01", 0, 0))
    assert np.array_equal(first, augmented(IMAGES, recipe, draw(1, "augment", "ct-01", 0, 0)))
    assert not np.array_equal(first, augmented(IMAGES, recipe, draw(1, "augment", "ct-01", 0, 1)))


def test_a_shift_alone_never_mirrors() -> None:
    ramp = np.tile(np.arange(16, dtype=np.float32), (8, 1, 16, 1))
    seen = augmented(ramp, Recipe(shift=2), draw(1, "augment"))
    assert (np.diff(seen, axis=3) >= 0).all()


def trained(recipe: Recipe, *, round: int, moved: int | None = None) -> Vector:
    """What a fit makes of the blobs; moved: of the blobs as that view shows them."""
    model, cohort, moving = Model(ModelSpec(), 2, 1), blobs(12), Recipe(shift=3, flip=True)
    if moved is not None:
        seen = augmented(cohort.images(), moving, draw(7, "view", "ct-01", moved))
        cohort = replace(cohort, pixels=np.rint(seen[:, 0] * 255).astype(np.uint8))
    return fit(
        model, model.take(), cohort, recipe, Full().plan(round, model.layout), Full(), seed=7, twin="ct-01", round=round
    ).vector  # fmt: skip


def test_a_fixed_view_is_a_cohort_that_was_moved_beforehand_and_comes_again_after_the_others() -> None:
    still = Recipe(lr=0.02, batch=8)
    views = replace(still, shift=3, flip=True, views=3)
    for round in (0, 1, 4):
        assert np.array_equal(trained(views, round=round), trained(still, round=round, moved=round % 3))


def test_views_without_any_movement_are_the_images_themselves() -> None:
    still = Recipe(lr=0.02, batch=8, epochs=2)
    assert np.array_equal(trained(replace(still, views=5), round=0), trained(still, round=0))
