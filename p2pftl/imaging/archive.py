"""A twin's studies over time: those there at the start, and those its scanner acquires during the run.

    archive = Archive("ct-03", 7, shard, source, cohorts, scanner, Arrivals(rate=4))
    while archive.next <= t:
        archive.take(scanner_now, condition_now, accept=device.working)
    stock = archive.stock(in_quarantine)    # learn from Scene(stock.version, stock.cohorts)

A study is a patient with all its slices. Whoever comes, and when, and the noise of the images are drawn by name and number:
the same calls give the same bytes, whatever else happens.

Memory: the slices of `keep` studies of every patient who came, int16, beside the cohorts of the start; whatever is not learnt
from is forgotten and acquired anew, the same to the bit, should a quarantine bring it back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval

from p2pftl.draw import draw
from p2pftl.errors import DataError, ScenarioError, nearest
from p2pftl.imaging.cohort import Cohort, Sample, Shard, Source
from p2pftl.imaging.condition import SOUND, Condition
from p2pftl.imaging.scanner import Scanner

PARTS = ("train", "validation")
HOUR = 3600.0
ROUNDING = 1e-9  # a dose that was changed and changed back may be this much above the usual one

Pixels = npt.NDArray[Any]
Moment = tuple[float, str]


@dataclass(frozen=True)
class Arrivals:
    """How studies come in. rate: studies per virtual hour; start: share of each class's patients whose study is there when the run
    begins, at least one; keep: newest studies of a patient that are learnt from.
    """

    rate: Annotated[float, Interval(gt=0, le=1e6)] = 4.0
    start: Annotated[float, Interval(gt=0, le=1)] = 0.5
    keep: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class Arrived:
    """One study that came in, 0 images if the scanner was not working. part: "train" or "validation", "" if none."""

    t: float
    images: int = 0
    part: str = ""


@dataclass(frozen=True)
class Stock:
    """What there is to learn from. cohorts: split -> cohort; version: 0 for the studies that the run began with, else another
    for every change; left_out: images that a quarantine keeps away.
    """

    version: int
    cohorts: Mapping[str, Cohort] = field(compare=False)
    left_out: int = 0

    @property
    def held(self) -> int:
        """Training images."""
        return len(self.cohorts["train"])


@dataclass(frozen=True)
class Study:
    """One patient's study. number: of the arrival, -1 for the one there at the start; at: when it was acquired, virtual s."""

    number: int = -1
    at: float = -math.inf
    scanner: Scanner = field(default_factory=Scanner)
    condition: Condition = SOUND


STORED = Study()
Selection = tuple[tuple[str, Study], ...]


@dataclass(frozen=True)
class Patient:
    """One patient of one twin. label: the class of most of its images; rows: where they lie in the cohort of its part."""

    key: str
    part: str
    label: int
    samples: tuple[Sample, ...]
    rows: tuple[int, ...]


class Archive:
    """One twin's studies. cohorts: pixels of shard.train and shard.validation; scanner: what they were acquired with."""

    def __init__(
        self, name: str, seed: int, shard: Shard, source: Source, cohorts: Mapping[str, Cohort], scanner: Scanner,
        arrivals: Arrivals | None = None, *, classes: Sequence[str] = (), moments: Iterable[Moment] = (), previews: Path | None = None,
    ) -> None:  # fmt: skip
        """arrivals: None if no study ever comes; classes: their names, for shares of them; moments: when something happens to the
        scanner, virtual s, and what: the first study after each is pictured in `previews` as NAME-WHAT.png, beside the one before.
        """
        self.name, self.seed, self.source, self.usual, self.arrivals, self.classes = name, seed, source, scanner, arrivals, tuple(classes)
        self.own = {part: cohorts[part] for part in PARTS}
        self.patients = {one.key: one for part in PARTS for one in _patients(source, getattr(shard, part), self.own[part], part)}
        there = _there(self.patients.values(), arrivals.start if arrivals else 1.0, seed, name)
        self.studies: dict[str, list[Study]] = {key: [STORED] if key in there else [] for key in self.patients}
        self.count = self._due = 0
        self.next = self._after(0.0)
        self._calls = _Calls(self.patients, there, seed, name)
        self._ahead, self._previews = _numbered(moments), previews
        self._whole: dict[str, Selection] = {
            part: tuple((one.key, STORED) for one in self.patients.values() if one.part == part) for part in PARTS
        }
        self._chosen = dict(self._whole)
        self._kept: dict[int, Pixels] = {}  # number of a study that is learnt from -> its pixels, in the cohort they are part of
        self._stock = Stock(0, self.own)

    @property
    def left_out(self) -> int:
        """Images that a quarantine keeps away, as of the last `stock`."""
        return self._stock.left_out

    def take(
        self, scanner: Scanner | None = None, condition: Condition = SOUND, *, accept: bool = True,
        labels: Mapping[Any, float] | None = None,
    ) -> Arrived:  # fmt: skip
        """Acquire the study due at `next` with the scanner as it is then; none is acquired if not `accept`.

        scanner: None for the usual one; labels: class number or name -> share of those who come, the classes not named having what is
        left of 1. Raises ScenarioError E118 for an unknown class.
        """
        t, number = self.next, self._due
        self._due = number + 1
        self.next = self._after(t)
        if not accept:
            return Arrived(t)
        patient = self.patients[self._calls.next(self._wanted(labels or {}, number))]
        study = Study(number, t, scanner or self.usual, condition)
        self.studies[patient.key].append(study)
        self.count += 1
        self._picture(patient, study)
        return Arrived(t, len(patient.samples), patient.part)

    def stock(self, quarantined: Callable[[float], bool] = lambda at: False) -> Stock:
        """What there is to learn from: of every patient the newest studies not acquired at a time that is `quarantined`.

        The studies of the start were acquired by a sound scanner. The same object as long as nothing has changed, and the same
        cohort as long as nothing has changed in its part. Raises ScenarioError E118 and DataError E336 for scanners whose images
        cannot be had (see `acquired`).
        """
        chosen = {part: self._select(part, quarantined) for part in PARTS}
        meant = {one for part in PARTS for one in self._select(part, lambda at: False)}
        left_out = sum(len(self.patients[key].samples) for key, _ in meant.difference(*chosen.values()))
        if chosen != self._chosen:
            before, self._chosen = self._chosen, chosen
            cohorts = {part: self._stock.cohorts[part] if chosen[part] == before[part] else self._made(part) for part in PARTS}
            used = {study.number for selection in chosen.values() for _, study in selection}
            self._kept = {number: pixels for number, pixels in self._kept.items() if number in used}
            self._stock = Stock(self._stock.version + 1, cohorts, left_out)
        elif left_out != self._stock.left_out:
            self._stock = replace(self._stock, left_out=left_out)
        return self._stock

    # ------------------------------------------------------------------ which studies

    def _select(self, part: str, quarantined: Callable[[float], bool]) -> Selection:
        keep = self.arrivals.keep if self.arrivals else 1
        found: list[tuple[str, Study]] = []
        for key, patient in self.patients.items():
            if patient.part == part:
                good = (study for study in reversed(self.studies[key]) if study.number < 0 or not quarantined(study.at))
                found += reversed([(key, study) for study in islice(good, keep)])
        return tuple(found)

    def _after(self, t: float) -> float:
        """When the next study comes: a Poisson process."""
        if self.arrivals is None or not self.patients:
            return math.inf
        return t + float(draw(self.seed, "arrivals", self.name, "gap", self._due).exponential(HOUR / self.arrivals.rate))

    def _wanted(self, labels: Mapping[Any, float], number: int) -> int | None:
        """The class of the patient who comes, None if that is left to the order of all."""
        if not labels:
            return None
        held = Counter(one.label for one in self.patients.values())
        named = {self._class(name): float(share) for name, share in labels.items()}
        rest = {label: count for label, count in held.items() if label not in named}
        left = max(0.0, 1.0 - sum(named.values())) / max(sum(rest.values()), 1)
        shares = {label: named.get(label, left * held[label]) for label in sorted(held)}
        total = sum(shares.values())
        if total <= 0:  # nobody of the classes that come now is a patient here
            return None
        chances = np.array(list(shares.values())) / total
        return int(draw(self.seed, "arrivals", self.name, "class", number).choice(list(shares), p=chances))

    def _class(self, name: Any) -> int:
        if isinstance(name, str) and name in self.classes:
            return self.classes.index(name)
        if str(name).isdecimal() and (not self.classes or int(name) < len(self.classes)):
            return int(name)
        raise ScenarioError("E118", f"labels: there is no class {name}", fix=nearest(str(name), self.classes))

    # ------------------------------------------------------------------ their pixels

    def _made(self, part: str) -> Cohort:
        """The cohort that was chosen; each new study is kept as its place in it."""
        chosen, own = self._chosen[part], self.own[part]
        if chosen == self._whole[part]:
            return own
        pixels = np.concatenate([self._seen(self.patients[key], study) for key, study in chosen])
        rows: list[int] = []
        for key, study in chosen:
            at, count = len(rows), len(self.patients[key].rows)
            rows += self.patients[key].rows
            if study.number >= 0:
                self._kept[study.number] = pixels[at : at + count]
        return replace(own, pixels=pixels, labels=own.labels[rows])

    def _seen(self, patient: Patient, study: Study) -> Pixels:
        if study.number in self._kept:
            return self._kept[study.number]
        own, rows = self.own[patient.part], list(patient.rows)
        stored = replace(own, pixels=own.pixels[rows], labels=own.labels[rows])
        if study.number < 0:
            return stored.pixels
        generator = draw(self.seed, "arrivals", self.name, "image", study.number)
        return acquired(self.source, patient.samples, stored, study, self.usual, generator)

    def _picture(self, patient: Patient, study: Study) -> None:
        """Picture the first study after each moment that something happened to the scanner."""
        while self._ahead and self._ahead[0][0] <= study.at:
            _, what = self._ahead.pop(0)
            if self._previews is not None:
                from p2pftl.imaging.previews import write_change  # here: it brings Pillow

                pair = [self._seen(patient, one)[len(patient.rows) // 2] for one in (STORED, study)]
                pictured = replace(self.own[patient.part], pixels=np.stack(pair), labels=np.full(2, patient.label))
                write_change(pictured, self._previews / f"{self.name}-{what}.png", f"{self.name}: {what}")


def acquired(
    source: Source, samples: Sequence[Sample], stored: Cohort, study: Study, usual: Scanner, generator: np.random.Generator
) -> Pixels:
    """Acquire one patient again: pixels [k, n, n] of the kind of `stored`, which holds its images as `usual` acquired them.

    Where the source knows the true anatomy that is scanned, so anything about the scanner may have changed. Else what can be done to
    images already acquired is done to them: noise for a lower dose or output, then rings, cupping, gain and offset. Grey images stay
    as they are. Raises ScenarioError E118 for more dose, another kernel, voltage or thickness, DataError E336 without a pixel size.
    """
    import torch

    from p2pftl.imaging.acquisition import AIR, BRIGHTEST, TYPICAL, acquire, added_noise  # here: they bring torch
    from p2pftl.imaging.artefacts import degrade

    scanner, condition = study.scanner, study.condition
    true = source.anatomy(samples, scanner.slice_mm)
    if true is not None:
        # float64: rounding to whole HU then gives the same image on every machine
        return acquire(true.hu.astype(np.float64), scanner, true.pixel_mm, generator, condition=condition).hu.numpy()
    factor = _dose(scanner, usual, condition)
    if stored.unit != "HU":
        return stored.pixels
    if stored.pixel_mm <= 0:
        raise DataError("E336", "studies acquired during the run need a known pixel spacing", fix="use phantom or DICOM data that name it")
    hu = torch.from_numpy(stored.pixels.astype(np.float64))
    if factor < 1:
        hu = hu + added_noise(hu, usual, factor, stored.pixel_mm, generator)
    seen = degrade(hu, hu, condition, stored.pixel_mm, TYPICAL.sample_mm)
    return seen.clamp(AIR, BRIGHTEST).round().numpy().astype(np.int16)


def _dose(scanner: Scanner, usual: Scanner, condition: Condition) -> float:
    """The photons of a new study relative to the stored one. Raises ScenarioError E118 for what stored images cannot become."""
    for name in ("kernel", "kvp", "slice_mm"):
        if getattr(scanner, name) != getattr(usual, name):
            problem = f"studies that are already acquired cannot get another {name}"
            raise ScenarioError("E118", problem, where="incidents", fix="data: {use: phantom} can, its anatomy is known")
    factor = scanner.mas * scanner.dose / (usual.mas * usual.dose) * condition.output
    if factor > 1 + ROUNDING:
        problem = f"studies that are already acquired cannot get {factor:g} times their dose: noise cannot be taken out"
        raise ScenarioError("E118", problem, where="incidents", fix="at most 1, or data: {use: phantom}")
    return min(factor, 1.0)


class _Calls:
    """Who comes next: first those who never came, in a drawn order, then everybody, in another one, again and again."""

    def __init__(self, patients: Mapping[str, Patient], there: frozenset[str], seed: int, name: str) -> None:
        self._patients, self._key = patients, (seed, "arrivals", name, "order")
        self._tours = 0
        self._queue = self._tour([key for key in patients if key not in there])

    def next(self, label: int | None) -> str:
        """The next patient, or the next of class `label`."""
        fitting = [key for key in self._queue if label is None or self._patients[key].label == label]
        if not fitting:
            fitting = self._tour([key for key, one in self._patients.items() if label is None or one.label == label])
            self._queue += fitting
        self._queue.remove(fitting[0])
        return fitting[0]

    def _tour(self, keys: list[str]) -> list[str]:
        self._tours += 1
        seed, *what = self._key
        return [keys[i] for i in draw(seed, *what, self._tours).permutation(len(keys))]


def _numbered(moments: Iterable[Moment]) -> list[Moment]:
    """Tell apart what happens several times: ring, ring-2."""
    times: Counter[str] = Counter()
    named = []
    for at, what in sorted(moments):
        times[what] += 1
        named.append((at, what if times[what] == 1 else f"{what}-{times[what]}"))
    return named


def _patients(source: Source, samples: Sequence[Sample], cohort: Cohort, part: str) -> list[Patient]:
    """The patients of one part, in the order of its samples."""
    if len(cohort) != len(samples):  # a source told to leave out broken images does not say which
        samples = [sample for sample in samples if _readable(source, sample)]
    rows: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        rows.setdefault(sample.patient, []).append(row)
    return [
        Patient(key, part, _label([samples[row] for row in mine]), tuple(samples[row] for row in mine), tuple(mine))
        for key, mine in rows.items()
    ]


def _readable(source: Source, sample: Sample) -> bool:
    try:
        return len(source.read([sample])) == 1
    except DataError:
        return False


def _label(samples: Sequence[Sample]) -> int:
    """A patient's class: the most frequent label, the smaller one at a tie."""
    count = Counter(sample.label for sample in samples)
    return min(count, key=lambda label: (-count[label], label))


def _there(patients: Iterable[Patient], share: float, seed: int, name: str) -> frozenset[str]:
    """Who has a study when the run begins: that share of each class of each part, at least one."""
    groups: dict[tuple[str, int], list[str]] = {}
    for one in patients:
        groups.setdefault((one.part, one.label), []).append(one.key)
    found: set[str] = set()
    for (part, label), keys in sorted(groups.items()):
        order = draw(seed, "arrivals", name, "start", part, label).permutation(len(keys))
        found |= {keys[i] for i in order[: max(1, round(share * len(keys)))]}
    return frozenset(found)
