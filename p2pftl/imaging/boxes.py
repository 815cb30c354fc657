"""Studies with boxes around their findings: what a detector learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pftl.imaging.cohort import Cohort

Boxes = npt.NDArray[np.float32]
Kinds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BoxCohort(Cohort):
    """A cohort whose images have boxes, some none.

    labels: [N] int64, of the image as a whole: the lowest kind in it, 0 if it holds no box; boxes: N times [k, 4] float32,
    left, top, right, bottom in pixels, edges and not pixel centres; kinds: N times [k] int64, 1.. (0 is the background).
    """

    boxes: tuple[Boxes, ...] = ()
    kinds: tuple[Kinds, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.boxes) == len(self.kinds) == len(self.labels), "one list of boxes per image"


def enclosing(mask: Mask, least: float) -> tuple[tuple[slice, ...], ...]:
    """Return the bounding slices of every connected part of `mask` (any number of axes, diagonals connect) of at least `least` elements."""
    from scipy import ndimage  # here: who only lists samples need not wait for it

    parts, _ = ndimage.label(mask, np.ones((3,) * mask.ndim, np.int64))
    sizes = np.bincount(parts.ravel())
    return tuple(found for number, found in enumerate(ndimage.find_objects(parts), 1) if sizes[number] >= least)


def in_plane(found: Sequence[tuple[slice, ...]], scale: tuple[float, float] = (1.0, 1.0)) -> Boxes:
    """Return boxes [k, 4] of bounding slices (rows first, columns last; axes between are projected away), times `scale` (x, y)."""
    wide, high = scale
    edges = [(one[-1].start * wide, one[0].start * high, one[-1].stop * wide, one[0].stop * high) for one in found]
    return np.array(edges, np.float32).reshape(-1, 4)


def image_labels(kinds: Sequence[Kinds]) -> npt.NDArray[np.int64]:
    """Return the label of each image: its lowest kind, or 0."""
    return np.array([int(one.min()) if len(one) else 0 for one in kinds], np.int64)


def outlined(picture: npt.NDArray[np.float32], layers: Sequence[tuple[Boxes, tuple[int, int, int]]]) -> npt.NDArray[np.uint8]:
    """Return [n, n, 3] of a grey picture [n, n] in [0, 1] with the one-pixel frames of each layer (boxes, colour) drawn over it."""
    shown = np.repeat(np.rint(picture * 255).astype(np.uint8)[:, :, None], 3, 2)
    last = np.array((shown.shape[1], shown.shape[0]) * 2) - 1
    for boxes, colour in layers:
        for left, top, right, bottom in np.clip(np.rint(boxes).astype(int) - (0, 0, 1, 1), 0, last).tolist():
            shown[[top, bottom], left : right + 1] = colour
            shown[top : bottom + 1, [left, right]] = colour
    return shown
