"""Boxes that people drew: Pascal VOC beside DICOM (data source `dicom_boxes`), COCO beside image files (`coco_boxes`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval

from p2pftl.errors import DataError, nearest
from p2pftl.imaging.boxes import BoxCohort, Boxes, image_labels
from p2pftl.imaging.cohort import Catalogue, Sample, Source
from p2pftl.imaging.dicom import Dicom
from p2pftl.imaging.files import refusal, regular, walk
from p2pftl.imaging.images import grey
from p2pftl.imaging.manifest import opaque
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.slice_file import Header, read_header

VOC_CAP, COCO_CAP = 2**20, 64 * 2**20  # bytes
Folds = Annotated[int, Interval(ge=0, le=1000)]
NOTHING = "nothing"  # what an image without any box of the wanted classes counts as


@dataclass(frozen=True)
class DicomBoxes(Source):
    """CT slices below `path` with the boxes of the Pascal VOC files in `boxes`, named by SOPInstanceUID; one class, lesion.

    A slice without such a file counts as one without a lesion. size, block, window: as of `dicom`. folds, fold: leave patients
    out in turn: patients of each class are dealt to so many folds, and the fold of that number, 1 first, is tested on; folds 0: drawn.
    """

    path: str
    boxes: str
    size: Annotated[int, Interval(ge=64, le=512)] = 256
    block: Annotated[int, Ge(1)] | None = None
    window: tuple[float, float] = (-550.0, 1500.0)
    folds: Folds = 0
    fold: Annotated[int, Ge(1)] = 1
    boxed: ClassVar[bool] = True

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """Read the headers below `path`. Raises DataError E301..E327, E333; E304 for a fold that is not there."""
        found = self._slices.catalogue(scanners, seed)
        return replace(found, samples=left_out(found.samples, self.folds, self.fold))

    def read(self, samples: Sequence[Sample]) -> BoxCohort:
        """Read pixels, int16 HU [N, size, size], and boxes. Raises DataError E3xx."""
        plain = self._slices.read(samples)
        annotations = {path.stem: path for path in walk(self.boxes) if path.suffix.lower() == ".xml"}
        boxes = []
        for number, sample in enumerate(samples, 1):
            header = read_header(Path(sample.file), f"{self.path}: slice {number} of the {len(samples)} asked for")
            path = annotations.get(header.instance)
            boxes.append(_voc(path, header, self.boxes, self.size) if path else _none())
        kinds = tuple(np.ones(len(found), np.int64) for found in boxes)
        return BoxCohort(
            plain.pixels, image_labels(kinds), "HU", plain.window, plain.pixel_mm, boxes=tuple(boxes), kinds=kinds
        )  # fmt: skip

    @property
    def _slices(self) -> Dicom:
        return Dicom(self.path, self.size, "boxes", boxes=self.boxes, block=self.block, window=self.window)


@dataclass(frozen=True)
class CocoBoxes(Source):
    """Image files in folder `path` with the boxes of the COCO file `annotations`.

    classes: names of the categories to find, in the order wanted; empty: all, in the order of the file. Images are 8-bit grey,
    resampled (not cropped) to a square of `size` pixels. An image's "patient", if the file names one, is never divided. folds, fold:
    as of `dicom_boxes`.
    """

    path: str
    annotations: str
    classes: tuple[str, ...] = ()
    size: Annotated[int, Interval(ge=64, le=512)] = 256
    folds: Folds = 0
    fold: Annotated[int, Ge(1)] = 1
    boxed: ClassVar[bool] = True

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """Read the annotations. Raises DataError E301, E307, E308, E333; E304 for a fold that is not there."""
        classes, listed = self._listed()
        keys = opaque([one.patient for one in listed])
        samples = tuple(
            Sample(str(Path(self.path).expanduser() / one.file), one.index, min(one.kinds, default=0), key)
            for one, key in zip(listed, keys, strict=True)
        )
        return Catalogue(left_out(samples, self.folds, self.fold), (NOTHING, *classes), synthetic=False, unit="grey")

    def read(self, samples: Sequence[Sample]) -> BoxCohort:
        """Read pixels, uint8 [N, size, size], and boxes. Raises DataError E3xx."""
        _, listed = self._listed()
        known = {one.index: one for one in listed}
        pixels = np.empty((len(samples), self.size, self.size), np.uint8)
        boxes, kinds = [], []
        for row, sample in enumerate(samples):
            pixels[row] = grey(Path(sample.file), f"{self.path}: image {row + 1} of the {len(samples)} asked for", self.size)
            one = known[sample.index]
            edges = np.array(one.edges, np.float64).reshape(-1, 4)
            boxes.append(_fitted(edges, (one.width, one.height), self.size, self.annotations))
            kinds.append(np.array(one.kinds, np.int64))
        return BoxCohort(pixels, image_labels(kinds), "grey", boxes=tuple(boxes), kinds=tuple(kinds))

    def _listed(self) -> tuple[tuple[str, ...], list[_Picture]]:
        """Names of the classes wanted, and all images in the order of the file."""
        document = _document(self.annotations)
        with suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            names = {int(one["id"]): str(one["name"]) for one in document["categories"]}
            classes = self.classes or tuple(names.values())
            missing = [name for name in classes if name not in names.values()]
            if missing:
                fix = nearest(missing[0], names.values())
                raise DataError("E333", f"no category is called {missing[0]}", where=self.annotations, fix=fix)
            kinds = {key: classes.index(name) + 1 for key, name in names.items() if name in classes}
            pictures = {int(one["id"]): _Picture.of(one, index) for index, one in enumerate(document["images"])}
            for one in document["annotations"]:
                pictures[int(one["image_id"])].add(one["bbox"], kinds.get(int(one["category_id"])))
            return classes, list(pictures.values())
        raise DataError("E333", "is not a COCO file of boxes", where=self.annotations, fix="export the boxes again")


def left_out(samples: Sequence[Sample], folds: int, fold: int) -> tuple[Sample, ...]:
    """Return `samples` with those of fold number `fold` (1 first) of `folds` marked as test, all others as to train on; 0 marks none.

    A patient is of the highest class that one of its images is of; those of each class go to the folds in turn, in the order given.
    Raises DataError E304 for a fold that nobody is in.
    """
    if not folds:
        return tuple(samples)
    kinds: dict[str, int] = {}
    for sample in samples:
        kinds[sample.patient] = max(kinds.get(sample.patient, 0), sample.label)
    turns: dict[int, list[str]] = {}
    for patient, kind in kinds.items():
        turns.setdefault(kind, []).append(patient)
    tested = {patient for patients in turns.values() for place, patient in enumerate(patients) if place % folds == fold - 1}
    if not tested or len(tested) == len(kinds):
        problem = f"fold {fold} of {folds} leaves nobody on one side"
        raise DataError("E304", problem, where="data.fold", fix=f"from 1 to {folds}, at least 2")
    return tuple(replace(sample, split="test" if sample.patient in tested else "") for sample in samples)


@dataclass(frozen=True)
class _Picture:
    """One image of a COCO file. edges: left, top, right, bottom in its own pixels."""

    file: str
    index: int
    width: float
    height: float
    patient: str
    edges: list[tuple[float, float, float, float]]
    kinds: list[int]

    def add(self, box: Sequence[float], kind: int | None) -> None:
        """Note one annotation: left, top, width, height; not if its category is not wanted."""
        left, top, wide, high = map(float, box)
        if kind:
            self.edges.append((left, top, left + wide, top + high))
            self.kinds.append(kind)

    @classmethod
    def of(cls, about: Mapping[str, Any], index: int) -> _Picture:
        file, width, height = str(about["file_name"]), float(about["width"]), float(about["height"])
        if ".." in Path(file).parts or Path(file).is_absolute() or min(width, height) < 1:
            raise ValueError
        return cls(file, index, width, height, str(about.get("patient", f"image {index}")), [], [])


def _document(path: str) -> Mapping[str, Any]:
    problem: DataError | None = None
    try:
        if regular(Path(path).expanduser(), path) > COCO_CAP:
            raise DataError("E333", f"is larger than {COCO_CAP >> 20} MB", where=path)
        found: Mapping[str, Any] = json.loads(Path(path).expanduser().read_bytes())
    except OSError as failure:
        problem = refusal(failure, path)
    except (ValueError, RecursionError):
        problem = DataError("E333", "is not a COCO file of boxes", where=path, fix="export the boxes again")
    if problem:
        raise problem
    return found


def _voc(path: Path, header: Header, folder: str, size: int) -> Boxes:
    """Boxes of one Pascal VOC file, in the pixels of the resampled image; its corners count from 1 and belong to the box."""
    where, problem = f"{folder}: an annotation", DataError("E333", "is not a Pascal VOC file", where=folder, fix="export the boxes again")
    if regular(path, where) > VOC_CAP:
        raise problem
    edges: list[list[float]] = []
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities could grow without end
            raise ValueError
        for box in ElementTree.fromstring(text).findall("object/bndbox"):
            left, top, right, bottom = (float(box.findtext(name) or "") for name in ("xmin", "ymin", "xmax", "ymax"))
            edges.append([left - 1, top - 1, right, bottom])
    except OSError as failure:
        problem = refusal(failure, where)
    except (ElementTree.ParseError, ValueError):
        pass
    else:
        return _fitted(np.array(edges, np.float64).reshape(-1, 4), (header.columns, header.rows), size, folder)
    raise problem


def _fitted(edges: npt.NDArray[np.float64], side: tuple[float, float], size: int, where: str) -> Boxes:
    """Clip to an image of `side` (width, height) and scale to `size` pixels. Raises DataError E333 for a box outside or inside out."""
    wide, high = side
    clipped = np.clip(edges, 0, (wide, high, wide, high))
    if not np.isfinite(clipped).all() or not (clipped[:, 2:] > clipped[:, :2]).all():
        raise DataError("E333", "holds a box that is empty or lies outside its image", where=where, fix="correct it")
    scaled: Boxes = (clipped * (size / wide, size / high, size / wide, size / high)).astype(np.float32)
    return scaled


def _none() -> Boxes:
    return np.empty((0, 4), np.float32)
