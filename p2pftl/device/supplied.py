"""Water phantoms that a user supplies as DICOM: measured like simulated ones and judged day by day.

Images are judged per scanner and protocol, study by study in the order of their time; a study with several images counts
once, with the median of each figure; the second study of a day decides an alarm of the first. Files go by number, never by
name: a name can be a patient's.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from p2pftl.device import checkup, headers, surrogates, water
from p2pftl.device.headers import Acquisition
from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import QaPolicy
from p2pftl.device.surrogates import Normal, Surrogates
from p2pftl.device.tube import DAY
from p2pftl.device.words import Salt
from p2pftl.errors import DataError
from p2pftl.imaging.files import walk
from p2pftl.imaging.pixels import hounsfield
from p2pftl.imaging.slice_file import opened, parse

LEAST_PIXELS = 64
_SHOWN = (("config.kvp", "{:g} kV"), ("config.mas", "{:g} mAs"), ("config.slice_mm", "{:g} mm"), ("config.kernel_group", "{}"))


@dataclass(frozen=True)
class Image:
    """One measured image. number: its file's place among those given, 1 first."""

    number: int
    about: Acquisition
    reading: Reading


@dataclass(frozen=True)
class Slice:
    """One patient's slice. number: as of an Image."""

    number: int
    about: Acquisition
    seen: Surrogates


@dataclass(frozen=True)
class Check:
    """One study's phantom. day: days since the first of its scanner and protocol, None where the header has no time, and then
    status is ""; images: how many it has."""

    day: float | None
    images: int
    reading: Reading
    status: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """checks: scanner and protocol in words -> its phantoms; refused: code -> numbers of the files that could not be used."""

    checks: Mapping[str, Sequence[Check]]
    refused: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Patients:
    """What patients' slices of one scanner say. images: how many were looked at; middle: the median of each surrogate, None where it
    was never found; status: pass or warn, never more."""

    images: int
    middle: Surrogates
    status: str
    reasons: tuple[str, ...]


Measured = TypeVar("Measured", "Image", "Slice")


def measure(places: Sequence[Path], policy: QaPolicy | None = None) -> Found:
    """Measure and judge the phantoms in files and folders. Raises DataError E301, E307, E308, and the only file's own refusal."""
    images, refused = _images(places, _image, "water phantom")
    groups: dict[tuple[str, ...], list[Image]] = {}
    for image in images:
        groups.setdefault(_protocol(image), []).append(image)
    titles = [_title(group[0].about) for group in groups.values()]
    several = {title for title in titles if titles.count(title) > 1}
    named = [
        f"{title} (from file {group[0].number})" if title in several else title
        for title, group in zip(titles, groups.values(), strict=True)
    ]
    checks = {title: list(_judged(group, policy or QaPolicy())) for title, group in zip(named, groups.values(), strict=True)}
    return Found(checks, refused)


def patients(places: Sequence[Path], normal: Normal | None = None) -> tuple[dict[str, Patients], Mapping[str, Sequence[int]]]:
    """Measure air, fat and aorta in patients' slices: scanner in words -> what they say, and what was refused. Raises as `measure`."""
    slices, refused = _images(places, _slice, "slice of the trunk")
    groups: dict[tuple[str, str], list[Slice]] = {}
    for one in slices:
        groups.setdefault((one.about.device.key, f"{one.about.device.vendor} {one.about.device.model or 'unknown model'}"), []).append(one)
    titles = [title for _, title in groups]
    found = {}
    for (_, title), group in groups.items():
        seen = [one.seen for one in group]
        status, reasons = surrogates.judge(seen, normal or Normal())
        middle = Surrogates(*(surrogates.median(seen, name) for name in ("air", "fat", "aorta")))
        name = f"{title} (from file {group[0].number})" if titles.count(title) > 1 else title
        found[name] = Patients(len(group), middle, status, reasons)
    return found, refused


def _images(
    places: Sequence[Path], measured: Callable[[Path, int, Salt], Measured], what: str
) -> tuple[list[Measured], Mapping[str, Sequence[int]]]:
    """What is in files and folders, each image once, and code -> numbers of the files that could not be used."""
    for place in places:
        if not place.exists():
            raise DataError("E301", "no such file or folder", where=place.name, fix="check the path")
    files = [file for place in places for file in (walk(place) if place.is_dir() else [place])]
    if not files:
        raise DataError("E301", "no file here", fix=f"give DICOM files of a {what}, or their folder")
    salt = Salt(secrets.token_bytes(32))
    images: list[Measured] = []
    refused: dict[str, list[int]] = {}
    seen: set[str] = set()
    for number, file in enumerate(files, 1):
        try:
            image = measured(file, number, salt)
        except DataError as problem:
            if len(files) == 1:
                raise
            refused.setdefault(problem.code, []).append(number)
        else:
            images += [] if image.about.instance in seen else [image]  # a copy under another name counts once
            seen.add(image.about.instance)
    if not images:
        codes = ", ".join(f"{code} {len(numbers)}" for code, numbers in sorted(refused.items()))
        raise DataError("E301", f"no {what} in {len(files)} files ({codes})", fix="name the right series")
    return images, refused


def pixels(file: BinaryIO, where: str) -> tuple[npt.NDArray[np.float32], float]:
    """The image [n, m] HU of an open file and its pixel size, mm. Raises DataError: E31x to E33x, E338 for pixels of unknown size."""
    header, data = parse(file, where)
    hu, _ = hounsfield(header, data, where)
    if header.spacing is None or not math.isclose(*header.spacing, rel_tol=1e-3) or min(header.rows, header.columns) < LEAST_PIXELS:
        raise DataError("E338", "a phantom image needs square pixels of known size, 64 and more a side", where=where)
    return hu, header.spacing[0]


def _image(file: Path, number: int, salt: Salt) -> Image:
    about, hu, pixel_mm = _opened(file, number, salt)
    return Image(number, about, water.analyse(hu, pixel_mm))


def _slice(file: Path, number: int, salt: Salt) -> Slice:
    about, hu, pixel_mm = _opened(file, number, salt)
    if about.phantom:
        raise DataError("E319", "a phantom, not a patient", where=f"file {number}", fix="leave --patients out")
    return Slice(number, about, surrogates.measure(hu, pixel_mm))


def _opened(file: Path, number: int, salt: Salt) -> tuple[Acquisition, npt.NDArray[np.float32], float]:
    where = f"file {number}"
    with opened(file, where) as stream:
        about = headers.read(stream, where, salt)
        stream.seek(0)
        return about, *pixels(stream, where)


def _protocol(image: Image) -> tuple[str, ...]:
    """Images with the same ones are of one chart."""
    about = image.about
    return about.device.key, *(str(about.get(path)) for path in ("config.kvp", "config.kernel", "config.slice_mm"))


def _title(about: Acquisition) -> str:
    parts = [about.device.vendor, about.device.model or "unknown model"]
    said = [form.format(value) for path, form in _SHOWN if (value := about.get(path)) is not None]
    return " ".join(parts) + (": " + ", ".join(said) if said else "")


def _judged(images: Sequence[Image], policy: QaPolicy) -> Iterator[Check]:
    studies: dict[str, list[Image]] = {}
    for image in images:
        studies.setdefault(image.about.study, []).append(image)
    timed = [(_time(study), study) for study in studies.values()]
    known = sorted(((t, study) for t, study in timed if t is not None), key=lambda pair: (pair[0], pair[1][0].number))
    log, first = DeviceLog.create("phantom", 0.0, source="qa"), known[0][0] if known else 0.0
    for t, study in known:
        reading = _typical(study)
        verdict = checkup.arrived(log, reading, t, policy)
        yield Check((t - first) / DAY, len(study), reading, verdict.status, verdict.reasons)
    for study in (study for t, study in timed if t is None):
        yield Check(None, len(study), _typical(study), "", ("no time in the header: not judged",))


def _time(study: Sequence[Image]) -> float | None:
    return min((image.about.t for image in study if image.about.t is not None), default=None)


def _typical(study: Sequence[Image]) -> Reading:
    return checkup.median([image.reading for image in study])
