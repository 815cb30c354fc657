"""Shifts and mirror images: drawn anew each time, by name, and nothing else changes."""

from __future__ import annotations

import numpy as np

from p2pftl.draw import draw
from p2pftl.learning.fit import augmented
from p2pftl.learning.specs import Recipe

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
