"""Ordinary image files in class folders or listed in a table (data source `images`)."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval
from PIL import Image, ImageOps

from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Catalogue, Cohort, Sample, Source
from p2pftl.imaging.files import Finding, Survey, left_out, natural, place, refusal, regular, same_content, squared, walk
from p2pftl.imaging.manifest import Row, class_numbers, opaque, read_manifest
from p2pftl.imaging.scanner import Scanner

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP", ".pgm": "PPM"}
PIXEL_CAP = 64 * 2**20  # pixels; Pillow would allow 179 million
FILE_CAP = 256 * 2**20  # bytes
_GREY16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_PLAIN = frozenset({"1", "L", "RGB"})
_VEILED = frozenset({"LA", "La", "PA", "P", "RGBA", "RGBa"})


@dataclass(frozen=True)
class Images(Source):
    """PNG, JPEG, BMP, TIFF, WebP or PGM files as 8-bit grey, resampled (not cropped) to a square.

    path: folder; without `manifest` it holds one folder per class, or with `folders: scanner/class` one folder per scanner
    with the same class folders in each. manifest: CSV `file,label[,patient][,split][,scanner]`, `file` counted from `path`
    or from the table's folder. classes: names in the order wanted. block: where no column names patients, every image is
    a patient of its own, which is wrong for slices of one scan; with block n, n consecutive files of one class (natural
    order of path) count as one patient, so that few neighbours end up on both sides. Byte-identical files always are one.
    bits: grey levels used in 16-bit files. broken: refuse the folder for one bad file, or skip such files and count them.
    Transparency is laid over black; colour becomes luma (ITU-R 601-2).
    """

    path: str | None = None
    manifest: str | None = None
    size: Annotated[int, Interval(ge=16, le=1024)] = 128
    folders: Literal["class", "scanner/class"] = "class"
    classes: tuple[str, ...] | None = None
    block: Annotated[int, Ge(1)] | None = None
    bits: Annotated[int, Interval(ge=9, le=16)] = 16
    broken: Literal["refuse", "skip"] = "refuse"

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """Open every file up to its pixels. Raises DataError E301..E308, E330, E333, E334."""
        survey = self.survey()
        return replace(survey.catalogue, notes=tuple(str(finding) for finding in survey.findings))

    def survey(self) -> Survey:
        """Return the catalogue with what was noticed: identical files (E305), codes of skipped files."""
        root = self.path or self.manifest
        if root is None:
            raise DataError("E301", "neither path nor manifest is given", where="data", fix="give a folder or a table")
        rows = read_manifest(self.manifest, self.path) if self.manifest else self._foldered(root)
        rows, skipped = self._readable(rows)
        if not rows:
            raise DataError("E301", f"no usable image; left out: {', '.join(sorted(set(skipped))) or 'none found'}", where=root)
        rows = sorted(rows, key=lambda row: natural(str(row.file)))
        classes, numbers = class_numbers([row.label for row in rows], self.classes, [row.where for row in rows], root)
        patients, doubles = self._patients(rows)
        samples = tuple(
            Sample(file=str(row.file), index=0, label=number, patient=patient, scanner=row.scanner, split=row.split)
            for row, number, patient in zip(rows, numbers, patients, strict=True)
        )
        found = (Finding("E305", "identical files, each group counted as one patient", doubles),) if doubles else ()
        return Survey(Catalogue(samples, classes, False, "grey"), (*left_out(skipped), *found))

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read pixels: [N, size, size] uint8. With `broken: skip` bad files are left out. Raises DataError E301, E307, E330, E332."""
        pixels = np.empty((len(samples), self.size, self.size), np.uint8)
        labels: list[int] = []
        for number, sample in enumerate(samples, 1):
            where = f"{self.path or self.manifest}: image {number} of the {len(samples)} asked for"
            try:
                pixels[len(labels)] = grey(Path(sample.file), where, self.size, self.bits)
            except DataError:
                if self.broken == "refuse":
                    raise
                continue
            labels.append(sample.label)
        if samples and not labels:
            raise DataError("E304", f"none of {len(samples)} images can be read", where=self.path or self.manifest or "")
        return Cohort(pixels[: len(labels)], np.array(labels, np.int64), "grey")

    def _foldered(self, root: str) -> list[Row]:
        base = Path(root).expanduser()
        deep = 2 if self.folders == "scanner/class" else 1
        files = [path for path in walk(root) if path.suffix.lower() in FORMATS and len(path.relative_to(base).parts) > deep]
        if not files:
            raise DataError("E302", f"no images in {self.folders} folders", where=root, fix="arrange as CLASS/IMAGE, see data.folders")
        rows = []
        for number, path in enumerate(files, 1):
            parts = path.relative_to(base).parts
            rows.append(Row(place(root, number, len(files)), path, parts[deep - 1], scanner=parts[0] if deep == 2 else ""))
        if deep == 2:
            _same_classes(rows, root)
        return rows

    def _readable(self, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
        good: list[Row] = []
        skipped: list[str] = []
        for row in rows:
            try:
                with _opened(row.file, row.where):
                    good.append(row)
            except DataError as problem:
                if self.broken == "refuse":
                    raise
                skipped.append(problem.code)
        return good, skipped

    def _patients(self, rows: Sequence[Row]) -> tuple[list[str], int]:
        """Return a local patient key per row and the number of superfluous copies."""
        named = bool(rows[0].patient)
        if named and self.block:
            raise DataError("E306", "the manifest names patients, so block is not needed", where=self.manifest or "", fix="remove block")
        if named:
            keys = [row.patient for row in rows]
        elif self.block:
            keys = _blocks(rows, self.block)
        else:
            keys = [str(i) for i in range(len(rows))]
        doubles = 0
        joined: dict[str, str] = {}
        for alike in same_content([row.file for row in rows]):
            one = rows[alike[0]]
            for i in alike[1:]:
                doubles += 1
                if (rows[i].label, rows[i].split) != (one.label, one.split) or (named and keys[i] != keys[alike[0]]):
                    problem = "is the same image as another, under another class, split or patient"
                    raise DataError("E305", problem, where=rows[i].where, fix=f"see {one.where}; keep one")
                mine, other = _root(keys[i], joined), _root(keys[alike[0]], joined)
                if mine != other:
                    joined[mine] = other
        return opaque([_root(key, joined) for key in keys]), doubles


def grey(path: Path, where: str, size: int, bits: int = 16) -> npt.NDArray[np.uint8]:
    """Read one image as [size, size] uint8. Raises DataError E301, E307, E308, E330 or E332."""
    problem = ""
    levels = np.zeros((0, 0), np.float32)
    with _opened(path, where) as image:
        try:
            levels = _levels(image, bits)
        except Exception:
            problem = "is damaged or cut short"
    if problem:
        raise DataError("E330", problem, where=where, fix="export the image again, or set broken: skip")
    if levels.max() > 255:
        raise DataError("E330", f"has grey values beyond {bits} bits", where=where, fix="raise data.bits")
    if levels.min() == levels.max():
        raise DataError("E332", "every pixel has the same value", where=where, fix="remove it or set broken: skip")
    return np.rint(np.clip(squared(levels, size), 0, 255)).astype(np.uint8)


def _levels(image: Image.Image, bits: int) -> npt.NDArray[np.float32]:
    if image.mode in _GREY16:
        levels: npt.NDArray[np.float32] = np.asarray(image).astype(np.float32)
        levels *= 255.0 / (2**bits - 1)
        return levels
    upright = ImageOps.exif_transpose(image)
    if upright.mode in _VEILED:
        veiled = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", veiled.size, (0, 0, 0, 255)), veiled).convert("RGB")
    return np.asarray(upright.convert("L"), np.float32)


@contextmanager
def _opened(path: Path, where: str) -> Iterator[Image.Image]:
    """Open an image up to its pixels, checked for kind, size and mode; Pillow's warnings stay silent within."""
    if regular(path, where) > FILE_CAP:
        raise DataError("E330", f"is larger than {FILE_CAP >> 20} MB", where=where)
    problem: DataError | None = None
    image: Image.Image | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(path, formats=sorted(set(FORMATS.values())))
        except Image.DecompressionBombError:
            problem = DataError("E330", f"has more than {PIXEL_CAP >> 20} million pixels", where=where, fix="scale it down")
        except PermissionError as failure:
            problem = refusal(failure, where)
        except Exception:
            problem = DataError("E330", "is not an image of a known kind", where=where, fix="allowed: " + ", ".join(sorted(FORMATS)))
        if problem or image is None:
            raise problem or DataError("E330", "cannot be opened", where=where)
        with image:
            _check(image, where)
            yield image


def _check(image: Image.Image, where: str) -> None:
    fix = "export it as 8-bit grey, or set broken: skip"
    wide, high = image.size
    if wide * high > PIXEL_CAP:
        raise DataError("E330", f"has more than {PIXEL_CAP >> 20} million pixels", where=where, fix="scale it down")
    if min(wide, high) < 8:
        raise DataError("E330", f"is {wide} x {high} pixels; at least 8 x 8 are needed", where=where, fix=fix)
    if image.mode not in _GREY16 | _PLAIN | _VEILED:
        raise DataError("E330", f"has colour mode {image.mode}; allowed: grey (8 or 16 bit), palette, RGB, alpha", where=where, fix=fix)
    animated = False
    with suppress(Exception):
        animated = bool(getattr(image, "is_animated", False))
    if animated:
        raise DataError("E330", "holds more than one picture", where=where, fix="store one picture per file")


def _same_classes(rows: Sequence[Row], root: str) -> None:
    held: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        held[row.scanner].add(row.label)
    every = set().union(*held.values())
    for scanner, labels in sorted(held.items()):
        if labels != every:
            missing = ", ".join(sorted(every - labels))
            raise DataError("E303", f"scanner folder {scanner} has no class {missing}", where=root, fix="name them alike everywhere")


def _blocks(rows: Sequence[Row], block: int) -> list[str]:
    rank: dict[tuple[str, str, str], int] = defaultdict(int)
    keys = []
    for row in rows:
        group = (row.label, row.scanner, row.split)
        keys.append("|".join((*group, str(rank[group] // block))))
        rank[group] += 1
    return keys


def _root(key: str, joined: Mapping[str, str]) -> str:
    while key in joined:
        key = joined[key]
    return key
