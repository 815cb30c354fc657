"""A task with a known answer: is there a bright blob in the noise?"""

from __future__ import annotations

import numpy as np

from p2pftl.draw import draw
from p2pftl.imaging.cohort import Cohort


def blobs(n: int, size: int = 32, seed: int = 0) -> Cohort:
    """Half the images hold a disc of radius size/6 somewhere; uint8 grey."""
    rng = draw(seed, "blobs")
    labels = np.arange(n) % 2
    y, x = np.mgrid[:size, :size]
    pixels = rng.normal(90, 25, (n, size, size))
    for row in np.flatnonzero(labels):
        top, left = rng.uniform(size / 4, 3 * size / 4, 2)
        pixels[row] += 60 * (np.hypot(y - top, x - left) < size / 6)
    return Cohort(np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64), "grey")
