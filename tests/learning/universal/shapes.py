"""Images with something to restore, and label sets that differ."""

from __future__ import annotations

import numpy as np

from p2pftl.draw import draw
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.universal.probe import Domain


def stripes(n: int, classes: int = 2, size: int = 32, seed: int = 0) -> Cohort:
    """Waves whose direction tells their class; uint8 grey."""
    rng = draw(seed, "stripes")
    labels = np.arange(n) % classes
    y, x = np.mgrid[:size, :size]
    angle = (np.pi * labels / classes)[:, None, None]
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 12 + rng.uniform(0, 2 * np.pi, (n, 1, 1)))
    return Cohort(np.clip(128 + 90 * waves + rng.normal(0, 10, (n, size, size)), 0, 255).astype(np.uint8), labels.astype(np.int64), "grey")


def domain(classes: int, seed: int, train: int = 24, test: int = 24) -> Domain:
    """A domain of stripes in so many directions."""
    return Domain(stripes(train, classes, seed=2 * seed), stripes(test, classes, seed=2 * seed + 1), classes)


def mislabelled(cohort: Cohort) -> Cohort:
    """The same images with labels that mean nothing."""
    return Cohort(cohort.pixels, np.full(len(cohort), -7, np.int64), cohort.unit)
