"""Small pictures for the report, written by the twin itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from p2pftl.imaging.boxes import BoxCohort, Boxes, outlined
from p2pftl.imaging.cohort import Cohort

LEAST_SPAN = 50.0  # HU (or grey levels) of difference that are black or white, at least
STRIP = 14  # pixels of text above a picture
THERE, FOUND = (80, 220, 100), (255, 150, 40)  # frames: green around findings, orange around what was found


def write_preview(cohort: Cohort, path: Path) -> None:
    """Write one slice of each class, side by side, as a PNG in the cohort's window, grey but for the frames around findings."""
    rows = [int(np.flatnonzero(cohort.labels == label)[0]) for label in np.unique(cohort.labels)]
    if isinstance(cohort, BoxCohort):
        write_found(cohort, rows, [], path)
    else:
        _save(np.hstack(list(cohort.images(rows)[:, 0])), path)


def write_found(cohort: BoxCohort, rows: Sequence[int], found: Sequence[Boxes], path: Path) -> None:
    """Write some images side by side with frames: THERE around what is there, FOUND around what was `found` in each (if given)."""
    layers = [[(boxes, FOUND)] for boxes in found] or [[] for _ in rows]
    pictures = [
        outlined(picture, [*layer, (cohort.boxes[row], THERE)])
        for row, picture, layer in zip(rows, cohort.images(rows)[:, 0], layers, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.hstack(pictures)).save(path, optimize=True)


def write_change(pair: Cohort, path: Path, title: str) -> None:
    """Write the two slices of `pair`, before and after, in its window, and their difference (grey: none), each with its name."""
    before, after = pair.images([0, 1])[:, 0]
    change = pair.pixels[1].astype(np.float32) - pair.pixels[0]
    span = max(LEAST_SPAN, float(np.ceil(np.percentile(np.abs(change), 99))))
    pictures = np.hstack((before, after, np.clip(change / (2 * span) + 0.5, 0, 1)))
    side, unit = before.shape[1], "HU" if pair.unit == "HU" else "levels"
    names = (f"{title} (synthetic)", "before", "after", f"change, +-{span:.0f} {unit}")
    _save(np.vstack((_text(names[:1], 3 * side), _text(names[1:], side), pictures)), path)


def _text(names: tuple[str, ...], width: int) -> npt.NDArray[np.float32]:
    """Names beside each other, white on black, each [STRIP, width]."""
    strip = Image.new("L", (width * len(names), STRIP))
    pen = ImageDraw.Draw(strip)
    for place, name in enumerate(names):
        pen.text((place * width + 2, 1), name, fill=255, font=ImageFont.load_default(10))
    return np.asarray(strip, np.float32) / np.float32(255)


def _save(grey: npt.NDArray[np.float32], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(grey * 255).astype(np.uint8)).save(path, optimize=True)
