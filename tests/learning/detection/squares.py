"""A detection task with a known answer: bright squares (and, as a second kind, dark ones) in the noise."""

from __future__ import annotations

import numpy as np

from p2pftl.draw import draw
from p2pftl.imaging.boxes import BoxCohort, image_labels


def squares(n: int, size: int = 64, seed: int = 0, kinds: int = 1, empty: bool = True) -> BoxCohort:
    """Images of one or two squares of 12 to 24 pixels; every fourth image is empty."""
    rng = draw(seed, "squares")
    pixels = rng.normal(110, 12, (n, size, size))
    boxes, named = [], []
    for row in range(n):
        edges, types = [], []
        for half in range(0 if empty and row % 4 == 3 else int(rng.integers(1, 3))):
            wide, high = rng.integers(12, 25, 2)
            left, top = int(rng.integers(0, size - wide)), half * size // 2 + int(rng.integers(0, size // 2 - high))
            kind = int(rng.integers(1, kinds + 1))
            pixels[row, top : top + high, left : left + wide] += 90 if kind == 1 else -90
            edges.append((left, top, left + wide, top + high))
            types.append(kind)
        boxes.append(np.array(edges, np.float32).reshape(-1, 4))
        named.append(np.array(types, np.int64))
    grey = np.clip(pixels, 0, 255).astype(np.uint8)
    return BoxCohort(grey, image_labels(named), "grey", boxes=tuple(boxes), kinds=tuple(named))
