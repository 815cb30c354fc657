"""MedMNIST-style archives (data source `npz`)."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, TypeVar

import numpy as np
import numpy.typing as npt
from annotated_types import Interval
from numpy.lib import format as npy

from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Catalogue, Cohort, Sample, Source
from p2pftl.imaging.files import refusal, regular, squared
from p2pftl.imaging.scanner import Scanner

T = TypeVar("T")

PARTS = ("train", "val", "test")
MEMBER_CAP = 16 * 2**30  # bytes of one array; rows are streamed, never held together
SIDE_CAP = 4096  # pixels
COUNT_CAP = 5_000_000  # images in one part
_NAMES = 26  # bytes of a member's local header before the lengths of its name and of its extra field (APPNOTE.TXT, 4.3.7)
_LUMA = np.array([299, 587, 114], np.float32) / 1000  # ITU-R 601-2, as Pillow's "L"


@dataclass(frozen=True)
class Npz(Source):
    """An archive with train_images, train_labels and, where it has them, val_ and test_ arrays.

    Images are uint8 [N, H, W] or [N, H, W, 1 or 3]; labels are integers [N] or [N, 1]. The archive's test part stays the
    test set, its val part validation. It names no patients: every image is a patient of its own, so two images of
    one patient can lie on both sides. classes: names in label order; without it "0", "1", ...
    """

    path: str
    size: Annotated[int, Interval(ge=16, le=1024)] = 28
    classes: tuple[str, ...] | None = None

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """Read the labels and the shapes of the images. Raises DataError E301, E302, E307, E308, E330, E331, E333."""
        samples: list[Sample] = []
        with _Archive(self.path) as archive:
            parts = [part for part in PARTS if archive.has(f"{part}_images")]
            if "train" not in parts:
                raise DataError("E330", "has no array train_images", where=self.path, fix="MedMNIST names: train_images, train_labels, ...")
            labels = {part: archive.labels(part) for part in parts}
        found = np.unique(np.concatenate(list(labels.values())))
        names = self.classes or tuple(str(i) for i in range(int(found.max(initial=-1)) + 1))
        if len(found) < 2:
            raise DataError("E302", f"{len(found)} class(es) with images; at least 2 are needed", where=self.path)
        if found[0] < 0 or found[-1] >= len(names):
            raise DataError("E333", f"labels run from {found[0]} to {found[-1]}; allowed: 0..{len(names) - 1}", where=self.path)
        for part in parts:
            samples += [Sample(self.path, i, int(label), f"{part}-{i:07d}", split=part) for i, label in enumerate(labels[part])]
        return Catalogue(tuple(samples), names, False, "grey")

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read pixels: [N, size, size] uint8, in the order asked for. Raises DataError or E331."""
        pixels = np.empty((len(samples), self.size, self.size), np.uint8)
        with _Archive(self.path) as archive:
            for part in PARTS:
                wanted: dict[int, list[int]] = defaultdict(list)
                for at, sample in enumerate(samples):
                    if sample.split == part:
                        wanted[sample.index].append(at)
                for index, image in archive.rows(part, sorted(wanted)) if wanted else ():
                    grey = (image @ _LUMA if image.ndim == 3 else image).astype(np.float32)
                    pixels[wanted[index]] = np.rint(np.clip(squared(grey, self.size), 0, 255)).astype(np.uint8)
        return Cohort(pixels, np.array([sample.label for sample in samples], np.int64), "grey")


class _Archive:
    """An open .npz, of which headers are checked before anything is allocated, and pickle is never loaded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> _Archive:
        file = Path(self._path).expanduser()
        regular(file, self._path)
        self._zip = self._guard(lambda: zipfile.ZipFile(file))
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def has(self, name: str) -> bool:
        return f"{name}.npy" in self._zip.namelist()

    def labels(self, part: str) -> npt.NDArray[np.int64]:
        """Return [N] labels of one part, N being that of its images."""
        name = f"{part}_labels"
        if not self.has(name):
            raise DataError("E333", f"has no array {name}", where=self._path, fix="add the labels")
        with self._array(name) as (stream, shape, kind):
            if kind.kind not in "iub" or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
                raise DataError("E333", f"{name} is not one integer per image", where=self._path, fix="multi-label tasks are not supported")
            count = self._images(part)[0]
            if shape[0] != count:
                raise DataError("E333", f"{name} has {shape[0]} labels for {count} images", where=self._path)
            raw = self._guard(lambda: stream.read(count * kind.itemsize))
        if len(raw) < count * kind.itemsize:
            raise DataError("E330", f"{name} is cut short", where=self._path, fix="download the archive again")
        return np.frombuffer(raw, kind).astype(np.int64)

    def rows(self, part: str, wanted: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield (index, [H, W] or [H, W, 3]) for ascending indices, streaming past the others where the archive is compressed."""
        count, *shape = self._images(part)
        stride = int(np.prod(shape))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < count:
            raise DataError("E330", f"{part}_images has {count} images, fewer than when it was listed", where=self._path)
        with self._array(f"{part}_images") as (stream, _, _kind), self._seekable(f"{part}_images", stream, count * stride) as (rows, first):
            at = 0
            for index in wanted:
                if rows is stream:
                    self._skip(stream, (index - at) * stride)
                else:
                    rows.seek(first + index * stride)
                raw = self._guard(lambda: rows.read(stride))
                if len(raw) < stride:
                    raise DataError("E330", f"{part}_images is cut short", where=self._path, fix="download the archive again")
                image = np.frombuffer(raw, np.uint8).reshape(shape)
                yield index, image[..., 0] if shape[-1] == 1 and len(shape) == 3 else image
                at = index + 1

    def _images(self, part: str) -> tuple[int, ...]:
        with self._array(f"{part}_images") as (_, shape, kind):
            flat = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
            if kind != np.uint8 or not flat or not all(8 <= side <= SIDE_CAP for side in shape[1:3]) or shape[0] > COUNT_CAP:
                found = " x ".join(map(str, shape))
                raise DataError(
                    "E331", f"{part}_images is {kind} [{found}]; allowed: uint8 [N, H, W], or with 1 or 3 last", where=self._path
                )
        return shape

    @contextmanager
    def _array(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype[np.generic]]]:
        about = self._zip.getinfo(f"{name}.npy")
        if about.file_size > MEMBER_CAP or (about.file_size > 2**26 and about.file_size > 500 * max(about.compress_size, 1)):
            raise DataError("E330", f"{name} inflates to {about.file_size >> 20} MB, which is not plausible", where=self._path)
        with self._guard(lambda: self._zip.open(about)) as stream:
            shape, fortran, kind = self._guard(lambda: _header(stream))
            if kind.hasobject:
                raise DataError("E330", f"{name} holds Python objects, which are never loaded", where=self._path, fix="store numbers")
            if fortran and len(shape) > 1:
                raise DataError("E331", f"{name} is in Fortran order", where=self._path, fix="save it with numpy.ascontiguousarray")
            yield stream, shape, kind

    @contextmanager
    def _seekable(self, name: str, stream: IO[bytes], size: int) -> Iterator[tuple[IO[bytes], int]]:
        """The file itself and where `size` bytes begin that `stream` has before it, if they lie there as they are; else `stream`."""
        about = self._zip.getinfo(f"{name}.npy")
        if about.compress_type != zipfile.ZIP_STORED:
            yield stream, 0
            return
        if stream.tell() + size > about.file_size:
            raise DataError("E330", f"{name} is cut short", where=self._path, fix="download the archive again")
        with Path(self._path).expanduser().open("rb") as file:
            file.seek(about.header_offset + _NAMES)
            names = sum(int.from_bytes(self._guard(lambda: file.read(2)), "little") for _ in range(2))
            yield file, about.header_offset + _NAMES + 4 + names + stream.tell()

    def _skip(self, stream: IO[bytes], count: int) -> None:
        for start in range(0, count, 2**22):
            part = min(2**22, count - start)
            self._guard(partial(stream.read, part))

    def _guard(self, step: Callable[[], T]) -> T:
        problem: DataError | None = None
        try:
            return step()
        except PermissionError as failure:
            problem = refusal(failure, self._path)
        except Exception:
            problem = DataError("E330", "is not an .npz archive, or a damaged one", where=self._path, fix="download it again")
        raise problem


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
    shape, fortran, kind = read(stream)
    return tuple(int(side) for side in shape), bool(fortran), kind
