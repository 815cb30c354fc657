"""Phantom lesions with exact boxes: axial CT, or a simulated chest radiograph (data source `phantom_boxes`).

This module also runs as a process of its own that draws the patients it is told on standard input, one thread each: the
same patient gives the same bytes, whoever asks for whatever else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, ClassVar, Literal, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from annotated_types import Interval

from p2pftl.draw import draw, number
from p2pftl.errors import DataError, UsageError
from p2pftl.imaging.boxes import BoxCohort, Boxes, enclosing, image_labels, in_plane
from p2pftl.imaging.cohort import Catalogue, Progress, Sample, Shard, Source
from p2pftl.imaging.phantom import CLASSES, OPACITIES, PARTS, Task
from p2pftl.imaging.scanner import Scanner

if TYPE_CHECKING:
    from p2pftl.imaging.anatomy.lesions import Pathology
    from p2pftl.imaging.anatomy.patient import Patient

VERSION = "1"  # of anatomy, physics and boxes; a new one leaves old files alone and makes new ones
LEAST_MM2, LEAST_MM3 = 20.0, 200.0  # a finding seen smaller than this (5 mm across, 7 mm wide) gets no box
LEVEL_PIXELS = 4  # rows of a radiograph per level that is drawn
TUBE_M, TUBE_MAS = 1.8, 2.0  # of a chest stand: focus to detector, m; mA s at dose 1

View = Literal["ct", "radiograph"]


@dataclass(frozen=True)
class PhantomBoxes(Source):
    """Lesions of patients who never lived, boxed by their own masks, in a cache.

    task, patients, size, cache: as of `phantom`; slices: axial cuts per patient, each lesion in a cut a box.
    view: `ct` in HU as the twin's scanner sees it, or `radiograph`: one frontal projection of the whole lung per patient,
    one box per lesion, with the quantum noise of 2 mA s x dose at the scanner's kV, and no scatter.
    Parts of the lesion mask that touch count as one finding; parts below 20 mm2 of a cut (200 mm3) get no box.
    """

    task: Task = "nodule"
    patients: Annotated[int, Interval(ge=4, le=100_000)] = 40
    slices: Annotated[int, Interval(ge=1, le=64)] = 2
    size: Annotated[int, Interval(ge=64, le=512)] = 256
    view: View = "ct"
    cache: str = ""
    boxed: ClassVar[bool] = True

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """List the patients to be; nothing is drawn yet. Raises DataError E304 when a class would have fewer than 2."""
        classes = CLASSES[self.task]
        if self.patients < 2 * len(classes):
            problem = f"{self.patients} patients for {len(classes)} classes"
            raise DataError("E304", problem, where="data.patients", fix=f"at least {2 * len(classes)}")
        labels = draw(seed, "phantom", "labels").permutation(np.arange(self.patients) % len(classes))
        images = self.slices if self.view == "ct" else 1
        samples = tuple(
            Sample(f"phantom:{patient}", index, int(label), f"p{patient:04d}")
            for patient, label in enumerate(labels)
            for index in range(images)
        )
        return Catalogue(samples, classes, synthetic=True, unit="HU" if self.view == "ct" else "grey")

    def prepare(self, shards: Mapping[str, Shard], scanners: Mapping[str, Scanner], seed: int, progress: Progress) -> dict[str, Shard]:
        """Image every patient with its twin's scanner, test patients with all in turn; draw what the cache lacks.

        Raises DataError E307 when the cache cannot be written, UsageError E610 when a process that draws ends.
        """
        files: dict[tuple[str, str], Path] = {}
        missing: dict[Path, Case] = {}
        for (twin, patient), (sample, scanner) in _placed(shards, scanners).items():
            case = self.case(sample, scanner, seed)
            files[twin, patient] = file = self._root() / case.name
            if not file.is_file():
                missing[file] = case
        done = len(set(files.values())) - len(missing)
        progress(done, done + len(missing))
        for more, _ in enumerate(_made(missing), 1):
            progress(done + more, done + len(missing))
        return {
            twin: Shard(*(tuple(_found(sample, twin, part, files) for sample in getattr(shard, part)) for part in PARTS))
            for twin, shard in shards.items()
        }

    def read(self, samples: Sequence[Sample]) -> BoxCohort:
        """Read what prepare() made: int16 HU (`ct`) or uint8 grey (`radiograph`) [N, size, size]. Raises DataError E301, E330."""
        pictures, boxes, sides = [], [], []
        for row, sample in enumerate(samples, 1):
            where = f"phantom cache: image {row} of the {len(samples)} asked for"
            if sample.file.startswith("phantom:"):
                raise DataError("E301", "has not been drawn yet", where=where, fix="call prepare() first")
            picture, found, side = _read(Path(sample.file), sample.index, where)
            pictures.append(picture)
            boxes.append(found)
            sides.append(side)
        kinds = tuple(np.full(len(found), sample.label, np.int64) for found, sample in zip(boxes, samples, strict=True))
        empty = np.empty((0, self.size, self.size), np.int16 if self.view == "ct" else np.uint8)
        unit: Literal["HU", "grey"] = "HU" if self.view == "ct" else "grey"
        pixels = np.stack(pictures) if pictures else empty
        pixel_mm = float(np.median(sides)) if sides and self.view == "ct" else 0.0
        return BoxCohort(pixels, image_labels(kinds), unit, pixel_mm=pixel_mm, boxes=tuple(boxes), kinds=kinds)

    def case(self, sample: Sample, scanner: Scanner, seed: int) -> Case:
        """What is to be drawn of one patient in front of one scanner."""
        pathology = CLASSES[self.task][sample.label]
        if pathology == "opacity":
            pathology = OPACITIES[int(draw(seed, "phantom", "opacity", sample.patient).integers(len(OPACITIES)))]
        patient = number(seed, "phantom", "patient", sample.patient)
        images = self.slices if self.view == "ct" else 1
        return Case(patient, cast("Pathology", pathology), self.view, self.size, images, scanner)

    def _root(self) -> Path:
        chosen = self.cache or os.environ.get("P2PFTL_CACHE") or "~/.cache/p2pftl"
        return Path(chosen).expanduser().absolute() / "boxes"


@dataclass(frozen=True)
class Case:
    """One patient in front of one scanner."""

    seed: int
    pathology: Pathology
    view: View
    size: int
    images: int
    scanner: Scanner

    @property
    def name(self) -> str:
        """File name in the cache: a hash of everything that matters."""
        about = self.scanner
        physics = (about.kernel, *map(float, (about.kvp, about.mas, about.dose, about.slice_mm, about.hu_offset)))
        return f"{number(self.seed, VERSION, self.pathology, self.view, self.size, self.images, *physics, bits=128):032x}.npz"


@dataclass(frozen=True)
class Imaged:
    """What a case looks like. pixels: [k, n, n]; boxes: k times [m, 4]; pixel_mm: side (of a radiograph: width) of a pixel."""

    pixels: npt.NDArray[np.int16] | npt.NDArray[np.uint8]
    boxes: tuple[Boxes, ...]
    pixel_mm: float


def imaged(case: Case) -> Imaged:
    """Draw one case in this process."""
    from p2pftl.imaging.anatomy.patient import Patient  # here: it brings scipy, which who only lists samples need not wait for

    patient = Patient(case.seed, case.pathology, case.size)
    return _axial(case, patient) if case.view == "ct" else _frontal(case, patient)


def _axial(case: Case, patient: Patient) -> Imaged:
    """Cuts through the lesions as the scanner sees them."""
    from p2pftl.imaging.acquisition import acquire

    cuts = [patient.slice(level, case.scanner.slice_mm) for level in patient.levels(case.images)]
    true = np.stack([hu for hu, _, _ in cuts]).astype(np.float64)
    seen = acquire(true, case.scanner, patient.pixel_mm, draw(case.seed, "acquisition"))
    boxes = tuple(in_plane(enclosing(lesion, LEAST_MM2 / patient.pixel_mm**2)) for _, _, lesion in cuts)
    return Imaged(seen.hu.numpy(), boxes, patient.pixel_mm)


def _frontal(case: Case, patient: Patient) -> Imaged:
    """A parallel projection from front to back (Beer-Lambert at one effective energy), patient upright, bone white."""
    from p2pftl.imaging.acquisition import water_mu
    from p2pftl.imaging.files import squared

    levels = case.size // LEVEL_PIXELS
    step = patient.build.lung_mm / levels
    cuts = [patient.slice((row + 0.5) * step, 1.0) for row in range(levels)]
    density = np.stack([np.clip(hu, -1000, None).sum(0, dtype=np.float64) for hu, _, _ in cuts]) / 1000 + case.size
    paths = water_mu(case.scanner.kvp) * patient.pixel_mm * squared(density.astype(np.float32), case.size).astype(np.float64)
    photons = draw(case.seed, "radiograph").poisson(_photons(case, patient) * np.exp(-paths))
    dark = -np.log(np.maximum(photons, 1).astype(np.float64))
    low, high = np.percentile(dark, (1, 99))
    grey = np.rint(np.clip((dark - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    lesions = np.stack([lesion for _, _, lesion in cuts])
    found = enclosing(lesions, LEAST_MM3 / (step * patient.pixel_mm**2))
    return Imaged(grey[None], (in_plane(found, (1.0, case.size / levels)),), patient.pixel_mm)


def _photons(case: Case, patient: Patient) -> float:
    """Photons per pixel without a patient."""
    from p2pftl.imaging.acquisition import PHOTONS, TUBE_KV

    per_mm2 = float(np.interp(case.scanner.kvp, TUBE_KV, PHOTONS)) / 100 / TUBE_M**2
    return per_mm2 * TUBE_MAS * case.scanner.dose * patient.pixel_mm * patient.build.lung_mm / case.size


def _placed(shards: Mapping[str, Shard], scanners: Mapping[str, Scanner]) -> dict[tuple[str, str], tuple[Sample, Scanner]]:
    """(twin, or "" for the common test; patient) -> one of the patient's samples, and who images it."""
    twins = sorted(scanners)
    common = sorted({sample.patient for shard in shards.values() for sample in shard.test})
    turn = {patient: scanners[twins[i % len(twins)]] for i, patient in enumerate(common)}
    return {
        ("" if part == "test" else twin, sample.patient): (sample, turn[sample.patient] if part == "test" else scanners[twin])
        for twin, shard in shards.items()
        for part in PARTS
        for sample in getattr(shard, part)
    }


def _found(sample: Sample, twin: str, part: str, files: Mapping[tuple[str, str], Path]) -> Sample:
    return replace(sample, file=str(files["" if part == "test" else twin, sample.patient]))


def _read(path: Path, index: int, where: str) -> tuple[npt.NDArray[np.int16], Boxes, float]:
    """Return picture, boxes and pixel side of one image."""
    with (
        suppress(OSError, KeyError, ValueError, IndexError, BadZipFile),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as held,
    ):
        return held["pixels"][index], held["boxes"][held["rows"] == index], float(held["pixel_mm"])
    raise DataError("E330", "cannot be read", where=where, fix="delete the cache folder and run again")


def _made(missing: Mapping[Path, Case]) -> Iterator[str]:
    """Let as many processes as there are cores draw; yield whenever a case lies in the cache."""
    for folder in {path.parent for path in missing}:
        _folder(folder)
    crew = [_started() for _ in range(min(os.cpu_count() or 1, len(missing)))]
    orders = [json.dumps({"path": str(path), **asdict(case)}) for path, case in missing.items()]
    try:
        for turn, artist in enumerate(crew):
            assert artist.stdin
            artist.stdin.write("".join(f"{order}\n" for order in orders[turn :: len(crew)]))
            artist.stdin.close()
        for turn in range(len(orders)):
            artist = crew[turn % len(crew)]
            assert artist.stdout
            answer = artist.stdout.readline()
            if not answer:
                fix = "free some memory and run again"
                raise UsageError("E610", f"a process that draws the phantom ended with {artist.wait()}", fix=fix)
            if refused := json.loads(answer):
                raise _unwritable(refused)
            yield orders[turn]
    finally:
        for artist in crew:
            artist.kill()
            artist.wait()
            assert artist.stdout
            artist.stdout.close()


def _folder(path: Path) -> None:
    refused = ""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        refused = os.strerror(problem.errno or 0)
    if refused:
        raise _unwritable(refused)


def _unwritable(why: str) -> DataError:
    return DataError("E307", f"the phantom cache cannot be written ({why})", where="data.cache", fix="set data.cache or P2PFTL_CACHE")


def _started() -> subprocess.Popen[str]:
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    where = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "p2pftl.imaging.boxes_phantom"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | single | where,
        start_new_session=True,  # Ctrl-C reaches only the parent, which ends us
    )


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Draw the cases ordered, one JSON line each; answer each with a line: null, or why it cannot be written."""
    for line in orders:
        about = json.loads(line)
        path, scanner = Path(about.pop("path")), Scanner(**about.pop("scanner"))
        done, refused = imaged(Case(**about, scanner=scanner)), None
        try:
            _write(path, done)
        except OSError as problem:
            refused = os.strerror(problem.errno or 0)
        answers.write(json.dumps(refused) + "\n")
        answers.flush()


def _write(path: Path, done: Imaged) -> None:
    """Write beside its place, then rename: never half a file, also with two writers."""
    rows = np.repeat(np.arange(len(done.boxes)), [len(found) for found in done.boxes])
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="unfinished-", delete=False) as file:
        np.savez(file, pixels=done.pixels, boxes=np.concatenate(done.boxes), rows=rows, pixel_mm=np.float64(done.pixel_mm))
    Path(file.name).replace(path)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
