"""The embedded data source: synthetic thorax patients, each scanned by the scanner of the twin that holds them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from p2pftl.draw import draw, number
from p2pftl.errors import DataError
from p2pftl.imaging.anatomy.render import Order, Pictures, rendered
from p2pftl.imaging.cohort import Anatomy, Catalogue, Cohort, Progress, Sample, Shard, Source
from p2pftl.imaging.scanner import Scanner

if TYPE_CHECKING:  # who only lists the studies need not wait for pydicom and scipy
    from p2pftl.imaging.anatomy.lesions import Pathology

VERSION = "3"  # of anatomy, scanner model, header and what lies beside them; a new one leaves old files alone and makes new ones

Task = Literal["ggo", "nodule", "consolidation", "opacity", "opacity_type", "lesion_type"]
CLASSES: dict[Task, tuple[str, ...]] = {
    "ggo": ("normal", "ggo"),
    "nodule": ("normal", "nodule"),
    "consolidation": ("normal", "consolidation"),
    "opacity": ("normal", "opacity"),
    "opacity_type": ("normal", "ggo", "consolidation"),
    "lesion_type": ("normal", "ggo", "consolidation", "nodule"),
}
ANATOMY, ORDER = "anatomy.i2", "order.json"  # beside the slices: what they show, without noise, and how it is drawn again
PER_HU = 8  # int16 in eighths of a HU: rounding errs by 0.04 HU everywhere, whole HU by 0.3, float16 by 0.15 in lung
OTHERWISE = 32  # patients whose slices of another thickness are kept in memory: 2 MB for two slices of 128 pixels each
OPACITIES: tuple[Pathology, ...] = ("ggo", "consolidation", "mixed")


@dataclass(frozen=True)
class Phantom(Source):
    """Thorax CT of patients who never lived, as DICOM series in a cache.

    task: classes to tell apart: one lesion against normal, `opacity` (ground glass, consolidation or both) against
    normal, `opacity_type` (normal, ground glass, consolidation), or `lesion_type`, all four; every class equally often.
    patients: of all twins together, test patients included. slices: per patient, through the lesion, or where one might be.
    size: pixels. cache: folder for the files; empty is $P2PFTL_CACHE, else ~/.cache/p2pftl.
    """

    task: Task = "ggo"
    patients: Annotated[int, Interval(ge=4, le=100_000)] = 40
    slices: Annotated[int, Interval(ge=1, le=64)] = 2
    size: Literal[128, 256] = 128
    cache: str = ""

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """List the patients to be; nothing is drawn yet. Raises DataError E304 when a class would have fewer than 2."""
        classes = CLASSES[self.task]
        if self.patients < 2 * len(classes):
            problem = f"{self.patients} patients for {len(classes)} classes"
            raise DataError("E304", problem, where="data.patients", fix=f"at least {2 * len(classes)}")
        labels = draw(seed, "phantom", "labels").permutation(np.arange(self.patients) % len(classes))
        samples = tuple(
            Sample(f"phantom:{patient * self.slices + index}", index, int(label), f"p{patient:04d}")
            for patient, label in enumerate(labels)
            for index in range(self.slices)
        )
        return Catalogue(samples, classes, synthetic=True, unit="HU")

    def prepare(self, shards: Mapping[str, Shard], scanners: Mapping[str, Scanner], seed: int, progress: Progress) -> dict[str, Shard]:
        """Scan every patient with the scanner of its twin, test patients with all scanners in turn; write what the cache lacks.

        Raises DataError E307 when the cache cannot be written, ScenarioError E118 for a scanner outside the model.
        """
        series = self._series(shards, scanners, seed)
        missing = {one.folder: one for one in series.values() if not one.folder.is_dir()}
        done = len(series) - len(missing)
        progress(done, len(series))
        for _ in _made(list(missing.values())):
            done += 1
            progress(done, len(series))
        return {
            twin: Shard(*(tuple(series[_place(sample, twin, part)].sample(sample) for sample in getattr(shard, part)) for part in PARTS))
            for twin, shard in shards.items()
        }

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read the files that prepare() made: [N, size, size] int16 HU; pixel_mm is the median. Raises DataError E3xx."""
        from p2pftl.imaging.pixels import hounsfield
        from p2pftl.imaging.slice_file import opened, parse

        pixels = np.empty((len(samples), self.size, self.size), np.int16)
        sides: list[float] = []
        for row, sample in enumerate(samples):
            where = f"phantom cache: slice {row + 1} of the {len(samples)} asked for"
            if sample.file.startswith("phantom:"):
                raise DataError("E301", "has not been drawn yet", where=where, fix="call prepare() first")
            with opened(Path(sample.file), where) as file:
                header, data = parse(file, where)
                hu, _ = hounsfield(header, data, where)
            sides += header.spacing or ()
            if hu.shape != pixels.shape[1:]:
                problem = f"is {hu.shape[0]} pixels wide, not {self.size}"
                raise DataError("E315", problem, where=where, fix="delete the cache folder and run again")
            pixels[row] = np.rint(hu)
        labels = np.array([sample.label for sample in samples], np.int64)
        return Cohort(pixels, labels, "HU", pixel_mm=float(np.median(sides)) if sides else 0.0)

    def anatomy(self, samples: Sequence[Sample], slice_mm: float) -> Anatomy:
        """What a scanner would see of one patient, [k, n, n]: as prepare() drew it, or drawn again for another `slice_mm` (0.4 s).

        Raises DataError E301 or E315 when the cache is incomplete or damaged.
        """
        folder = Path(samples[0].file).parent
        order, pixel_mm = _order(folder)
        true = _kept(folder / ANATOMY, order) if slice_mm == order.thickness else _drawn_again(replace(order, thickness=slice_mm))
        rows = [int(Path(sample.file).stem) - 1 for sample in samples]
        return Anatomy(true[rows].astype(np.float32) / np.float32(PER_HU), pixel_mm)

    def _series(self, shards: Mapping[str, Shard], scanners: Mapping[str, Scanner], seed: int) -> dict[tuple[str, str], Series]:
        """What must lie on disk, by (twin, or "" for the common test, patient)."""
        root = self._root()
        twins = sorted(scanners)
        common = sorted({sample.patient for shard in shards.values() for sample in shard.test})
        turn = {patient: scanners[twins[i % len(twins)]] for i, patient in enumerate(common)}
        found: dict[tuple[str, str], Series] = {}
        for twin, shard in shards.items():
            for part in PARTS:
                for sample in getattr(shard, part):
                    place = _place(sample, twin, part)
                    if place not in found:
                        scanner = turn[sample.patient] if part == "test" else scanners[twin]
                        found[place] = self._one(sample, scanner, seed, root)
        return found

    def _one(self, sample: Sample, scanner: Scanner, seed: int, root: Path) -> Series:
        patient = number(seed, "phantom", "patient", sample.patient)
        pathology = self._pathology(sample, seed)
        physics = (
            scanner.vendor,
            scanner.kernel,
            *map(float, (scanner.kvp, scanner.mas, scanner.dose, scanner.slice_mm, scanner.hu_offset)),
        )
        name = number(patient, VERSION, sample.patient, pathology, *physics, self.size, self.slices, bits=128)
        order = Order(patient, pathology, self.size, self.slices, scanner.slice_mm)
        return Series(sample.patient, order, scanner, root / f"{name:032x}")

    def _pathology(self, sample: Sample, seed: int) -> Pathology:
        name = CLASSES[self.task][sample.label]
        if name == "opacity":
            return OPACITIES[int(draw(seed, "phantom", "opacity", sample.patient).integers(len(OPACITIES)))]
        known: dict[str, Pathology] = {"normal": "normal", "ggo": "ggo", "consolidation": "consolidation", "nodule": "nodule"}
        return known[name]

    def _root(self) -> Path:
        chosen = self.cache or os.environ.get("P2PFTL_CACHE") or "~/.cache/p2pftl"
        return Path(chosen).expanduser().absolute() / "phantom"


PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Series:
    """One patient scanned by one scanner: files 0001.dcm ... in `folder`, which exists only when complete."""

    patient: str
    order: Order
    scanner: Scanner
    folder: Path

    def sample(self, planned: Sample) -> Sample:
        """Return the sample as it lies on disk."""
        from p2pftl.imaging.dicom_write import kernel_name

        file = self.folder / f"{planned.index + 1:04d}.dcm"
        return replace(planned, file=str(file), index=0, scanner=f"{self.scanner.vendor} {kernel_name(self.scanner)}")


def _place(sample: Sample, twin: str, part: str) -> tuple[str, str]:
    return ("" if part == "test" else twin), sample.patient


def _made(series: Sequence[Series]) -> Iterator[Series]:
    """Draw, acquire and write each series."""
    if not series:
        return
    import torch  # here: whoever only lists samples need not wait a second for it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small images: more threads only get in the way of the drawing processes
    try:
        for one, pictures in zip(series, rendered([one.order for one in series]), strict=True):
            _write(one, pictures)
            yield one
    finally:
        torch.set_num_threads(threads)


def _write(series: Series, pictures: Pictures) -> None:
    """Acquire and write a series beside its place, then rename: never half a series, also with two writers."""
    from p2pftl.imaging.acquisition import acquire
    from p2pftl.imaging.dicom_write import Study, write_slice

    # float64: rounding to whole HU then gives the same file on every machine
    seen = acquire(pictures.hu.astype(np.float64), series.scanner, pictures.pixel_mm, draw(series.order.seed, "acquisition"))
    failed: str | None = None
    try:
        series.folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix="unfinished-", dir=series.folder.parent))
        try:
            for row, level in enumerate(pictures.levels):
                remark = "out_of_model: fewer than 30 photons per ray" if seen.out_of_model[row] else ""
                study = Study(series.patient, (series.folder.name,), pictures.sex, pictures.age, remark)
                write_slice(beside / f"{row + 1:04d}.dcm", seen.hu[row].numpy(), series.scanner, study, row + 1, -level, pictures.pixel_mm)
            (beside / ANATOMY).write_bytes(_eighths(pictures.hu).tobytes())
            (beside / ORDER).write_text(json.dumps({"order": asdict(series.order), "pixel_mm": pictures.pixel_mm}))
            _settle(beside, series.folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as problem:
        failed = os.strerror(problem.errno or 0)
    if failed:
        raise DataError("E307", f"the phantom cache cannot be written ({failed})", where="data.cache", fix="set data.cache or P2PFTL_CACHE")


def _settle(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():  # unless somebody else was first
            raise


def _eighths(hu: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    return np.rint(np.clip(hu, -4000, 4000) * PER_HU).astype("<i2")


def _order(folder: Path) -> tuple[Order, float]:
    """How the patient of a series is drawn, and the side of a pixel, mm."""
    try:
        known = json.loads((folder / ORDER).read_bytes())
        return Order(**known["order"]), float(known["pixel_mm"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError("E301", "a series without its anatomy", where="phantom cache", fix="delete the cache folder and run again")


def _kept(path: Path, order: Order) -> npt.NDArray[np.int16]:
    shape = order.slices, order.size, order.size
    true = np.fromfile(path, "<i2") if path.is_file() else np.empty(0, np.int16)
    if true.size != np.prod(shape):
        raise DataError("E315", "an anatomy that is cut short", where="phantom cache", fix="delete the cache folder and run again")
    return true.reshape(shape)


@lru_cache(maxsize=OTHERWISE)
def _drawn_again(order: Order) -> npt.NDArray[np.int16]:
    """In a process of its own, as the first time: one thread, so the same bytes wherever it is asked for."""
    (pictures,) = rendered([order])
    return _eighths(pictures.hu)
