"""Studies as the learning sees them: a catalogue of samples without pixels, a cohort with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from p2pftl.imaging.scanner import Scanner

Progress = Callable[[int, int], None]


Place = tuple[str, int, str]
"""File, frame or row within it, and of an archive the part."""


@dataclass(frozen=True)
class Sample:
    """One image, known by where it lies. Never leaves its twin's machine.

    file: path (or archive); index: frame or row within it; label: class number; patient: local key
    (splits go by it); scanner: acquisition group ("SIEMENS B70f") or ""; split: "train", "val", "test" or ""
    where the source fixes it.
    """

    file: str
    index: int
    label: int
    patient: str
    scanner: str = ""
    split: str = ""

    @property
    def place(self) -> Place:
        """Where it lies: equal for one image however it is labelled. An archive counts anew in each of its parts."""
        return self.file, self.index, self.split if self.file.endswith(".npz") else ""


@dataclass(frozen=True)
class Catalogue:
    """Every sample of a data source, before it is dealt to twins. No pixels.

    notes: what a person should know of the data ("E327 ..."), naming no patient and no file; own: twin -> the names of its classes
    where twins have label sets of their own.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    synthetic: bool
    unit: Literal["HU", "grey"]
    notes: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """One twin's samples; no patient stands in two of them, nor in another twin's. `test` is common to all twins but those of domains."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass(frozen=True)
class Cohort:
    """Pixels of some samples.

    pixels: [N, H, W], int16 HU or uint8 grey; labels: [N] int64; window: (centre, width) in HU;
    pixel_mm: side of a pixel, mm, 0 where it is not known.
    """

    pixels: npt.NDArray[np.int16] | npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    unit: Literal["HU", "grey"]
    window: tuple[float, float] = (-550.0, 1500.0)
    pixel_mm: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, rows: Sequence[int] | npt.NDArray[np.int64] | slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return [B, 1, H, W] float32 in [0, 1]: the window applied to HU, or grey / 255."""
        chosen = self.pixels[rows].astype(np.float32)
        if self.unit == "HU":
            centre, width = self.window
            chosen += -(centre - width / 2)
            chosen /= width
        else:
            chosen /= 255.0
        return np.clip(chosen, 0.0, 1.0, out=chosen)[:, None]


@dataclass(frozen=True)
class Anatomy:
    """What a scanner would see without noise or blur: hu [k, n, n] float32, pixel_mm the side of a pixel."""

    hu: npt.NDArray[np.float32]
    pixel_mm: float


class Source(Protocol):
    """A data source: a frozen dataclass whose fields are its YAML schema (entry point `p2pftl.data`).

    size: side of the square images that read() returns, in pixels; boxed: what it reads are BoxCohorts, for detectors alone.
    """

    boxed: ClassVar[bool] = False

    @property
    def size(self) -> int: ...

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """List the samples without reading pixels (runs in the driver). Raises DataError E3xx."""
        ...

    def prepare(self, shards: Mapping[str, Shard], scanners: Mapping[str, Scanner], seed: int, progress: Progress) -> dict[str, Shard]:
        """Return the shards to use, after making what they need on disk; `progress(done, of)` reports."""
        return dict(shards)

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read the pixels of `samples` (runs inside the twin's own actor). Raises DataError E3xx."""
        ...

    def anatomy(self, samples: Sequence[Sample], slice_mm: float) -> Anatomy | None:
        """The true anatomy of one patient's `samples` in slices of that thickness; None where only acquired images are known."""
        return None


class Split(Protocol):
    """Deals patients to twins (entry point `p2pftl.split`)."""

    def deal(self, patients: Mapping[str, Sequence[Sample]], twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Return twin -> patient keys, every patient exactly once. Raises DataError E303 or E304 when impossible."""
        ...
