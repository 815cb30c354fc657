"""One small picture per twin for the report, written by the twin itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from p2pftl.imaging.cohort import Cohort


def write_preview(cohort: Cohort, path: Path) -> None:
    """Write one slice of each class, side by side, as a grey PNG in the cohort's window."""
    rows = [int(np.flatnonzero(cohort.labels == label)[0]) for label in np.unique(cohort.labels)]
    pictures = cohort.images(rows)[:, 0]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(np.hstack(list(pictures)) * 255).astype(np.uint8)).save(path, optimize=True)
