"""A data source of its own for every twin, with its own classes and its own test patients (data source `domains`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Interval, MultipleOf

from p2pftl.draw import draw, number
from p2pftl.errors import DataError, nearest
from p2pftl.imaging.cohort import Catalogue, Cohort, Place, Progress, Sample, Shard, Source, Split
from p2pftl.imaging.files import squared
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.split import Iid
from p2pftl.imaging.split import shards as dealt_by
from p2pftl.policies import Within

Bound = Annotated[float, Interval(ge=0, le=1)]
BOXED = ("phantom_boxes", "dicom_boxes", "coco_boxes")
_BETWEEN = "/"  # a domain's name and a patient's local key


@dataclass(frozen=True)
class Domain:
    """Images of one kind. only: those of its classes that count, in this order, null for all; share: which of the patients of each
    class (and of each part, where the source has parts), from and to, in the source's own order: domains whose shares do not overlap
    have no patient in common; most: patients that are kept of each class and part of these, drawn, null for all."""

    source: Source
    only: tuple[str, ...] | None = None
    share: tuple[Bound, Bound] = (0.0, 1.0)
    most: Annotated[int, Ge(2)] | None = None


@dataclass(frozen=True)
class Domains(Source):
    """Every twin has a domain: a data source, a label set and a test cohort of its own.

    domains: name -> a data source with `only` and `most`; where twins are called like domains each has its own, else they have them
    in order. left_out: the domain that nobody learns from: its twin trains nothing and sends nothing, and is scored. size: side of
    the images in pixels, all grey; CT numbers are seen through their source's window.
    """

    domains: dict[str, Annotated[Domain, Within("data", ("domains", *BOXED), slot="source")]]
    left_out: str | None = None
    size: Annotated[int, Interval(ge=16, le=512), MultipleOf(8)] = 64

    def __post_init__(self) -> None:
        """Raises DataError E303 for a domain that is left out and not there, or a name that cannot be told from a patient's."""
        if self.left_out is not None and self.left_out not in self.domains:
            problem = f"there is no domain {self.left_out} to leave out"
            raise DataError("E303", problem, where="data.left_out", fix=nearest(self.left_out, tuple(self.domains)))
        for name, domain in self.domains.items():
            if _BETWEEN in name or not name:
                raise DataError("E303", "the name of a domain is empty or has a /", where="data.domains", fix="give it another name")
            if not domain.share[0] < domain.share[1]:
                problem = f"a share from {domain.share[0]:g} to {domain.share[1]:g} holds nobody"
                raise DataError("E303", problem, where=f"data.domains.{name}.share", fix="give the smaller number first")

    def held_by(self, twins: Collection[str]) -> dict[str, str]:
        """Twin -> its domain. Raises DataError E303 if they are not as many."""
        if set(twins) == set(self.domains):
            return {twin: twin for twin in twins}
        if len(twins) != len(self.domains):
            problem = f"{len(self.domains)} domains for {len(twins)} twins"
            raise DataError("E303", problem, where="data.domains", fix="give each twin one domain")
        return dict(zip(twins, self.domains, strict=True))

    def is_left_out(self, twin: str, twins: Collection[str]) -> bool:
        """Whether nobody learns from the images of `twin`."""
        return self.left_out is not None and self.held_by(twins).get(twin) == self.left_out

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:
        """List all domains; a class is numbered within its domain. Raises DataError E303, E306, E333, and what a domain's source raises."""
        listed: list[tuple[Source, Catalogue]] = []
        found = {}
        for twin, name in self.held_by(scanners).items():
            domain = self.domains[name]
            one = next((known for source, known in listed if source == domain.source), None)
            if one is None:
                one = domain.source.catalogue({twin: scanners[twin]}, _seed(seed, name))
                listed += [] if one.synthetic else [(domain.source, one)]  # files are the same whatever the seed
            found[twin] = _chosen(name, domain, one, _seed(seed, name))
        _apart(found)
        most = max(len(one.classes) for one in found.values())
        return Catalogue(
            samples=tuple(_marked(self.held_by(scanners)[twin], sample) for twin, one in found.items() for sample in one.samples),
            classes=tuple(f"class {k + 1}" for k in range(most)),
            synthetic=all(one.synthetic for one in found.values()),
            unit="grey",
            notes=tuple(f"{twin}: {note}" for twin, one in found.items() for note in one.notes),
            own={twin: one.classes for twin, one in found.items()},
        )

    def shards(self, catalogue: Catalogue, twins: Sequence[str], test: float, validation: float, seed: int) -> dict[str, Shard]:
        """Each twin's own domain, its test patients held out of it. Raises DataError E304, E306."""
        made: dict[str, Shard] = {}
        for twin, name in self.held_by(twins).items():
            samples = tuple(sample for sample in catalogue.samples if domain_of(sample) == name)
            mine = replace(catalogue, samples=samples, classes=catalogue.own[twin])
            made |= dealt_by(mine, (twin,), Iid(), test, validation, _seed(seed, name))
        return made

    def prepare(self, shards: Mapping[str, Shard], scanners: Mapping[str, Scanner], seed: int, progress: Progress) -> dict[str, Shard]:
        """Make on disk what the domains' sources need."""
        made = {}
        for twin, shard in shards.items():
            name = domain_of(shard.train[0])
            bare = Shard(*(tuple(map(_bare, part)) for part in (shard.train, shard.validation, shard.test)))
            one = self.domains[name].source.prepare({twin: bare}, {twin: scanners[twin]}, _seed(seed, name), progress)[twin]
            made[twin] = Shard(*(tuple(_marked(name, sample) for sample in part) for part in (one.train, one.validation, one.test)))
        return made

    def read(self, samples: Sequence[Sample]) -> Cohort:
        """Read pixels: [N, size, size] uint8, whatever the domain. Raises DataError E3xx."""
        parts = [self.domains[name].source.read([_bare(one) for one in some]) for name, some in groupby(samples, domain_of)]
        pixels = [np.empty((0, self.size, self.size), np.uint8), *(greyed(part, self.size) for part in parts)]
        labels = [np.empty(0, np.int64), *(part.labels for part in parts)]
        return Cohort(np.concatenate(pixels), np.concatenate(labels), "grey")


def greyed(cohort: Cohort, size: int) -> npt.NDArray[np.uint8]:
    """The pictures of a cohort as [N, size, size] uint8: brought to size, then seen through the cohort's window."""
    brought = [np.rint(squared(picture.astype(np.float32), size)).astype(cohort.pixels.dtype) for picture in cohort.pixels]
    if not brought:
        return np.empty((0, size, size), np.uint8)
    return np.rint(replace(cohort, pixels=np.stack(brought)).images()[:, 0] * 255).astype(np.uint8)


def shards_of(
    source: Source, catalogue: Catalogue, twins: Sequence[str], split: Split, test: float, validation: float, seed: int
) -> dict[str, Shard]:
    """Who holds which studies: each twin its own domain, or what `split` deals of one source. Raises DataError E304, E306."""
    if isinstance(source, Domains):
        return source.shards(catalogue, twins, test, validation, seed)
    return dealt_by(catalogue, twins, split, test, validation, seed)


def domain_of(sample: Sample) -> str:
    """Name of the domain that a sample of `domains` belongs to."""
    return sample.patient.partition(_BETWEEN)[0]


def _chosen(name: str, domain: Domain, found: Catalogue, seed: int) -> Catalogue:
    """What of a source's catalogue belongs to the domain."""
    classes = domain.only or found.classes
    for wanted in classes:
        if wanted not in found.classes:
            raise DataError("E333", f"{wanted} is no class of domain {name}", where="data.domains", fix=nearest(wanted, found.classes))
    if len(set(classes)) < 2 or len(set(classes)) < len(classes):
        raise DataError("E302", f"domain {name} has not two different classes or more", where="data.domains", fix="name them in `only`")
    numbers = {found.classes.index(wanted): place for place, wanted in enumerate(classes)}
    samples = [replace(sample, label=numbers[sample.label]) for sample in found.samples if sample.label in numbers]
    if domain.share != (0.0, 1.0):
        samples = list(_shared(samples, *domain.share))
        if len({sample.label for sample in samples}) < len(classes):
            problem = f"the share {domain.share[0]:g} to {domain.share[1]:g} of domain {name} has no patient of some class"
            raise DataError("E304", problem, where=f"data.domains.{name}.share", fix="make it wider")
    kept = samples if domain.most is None else list(_fewer(samples, domain.most, seed))
    return replace(found, samples=tuple(kept), classes=tuple(classes))


def _shared(samples: Sequence[Sample], start: float, stop: float) -> Iterator[Sample]:
    """Samples of some patients of each class and part, in the order in which they come."""
    kept: set[str] = set()
    for patients in _grouped(samples).values():
        kept |= set(patients[round(start * len(patients)) : round(stop * len(patients))])
    return (sample for sample in samples if sample.patient in kept)


def _fewer(samples: Sequence[Sample], most: int, seed: int) -> Iterator[Sample]:
    """Samples of at most so many patients of each class and part."""
    kept: set[str] = set()
    for (part, label), patients in _grouped(samples).items():
        order = draw(seed, "most", part, label).permutation(len(patients))[:most]
        kept |= {patients[place] for place in order}
    return (sample for sample in samples if sample.patient in kept)


def _grouped(samples: Sequence[Sample]) -> dict[tuple[str, int], list[str]]:
    """Part and class -> patients; a patient belongs where its first image does."""
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    seen: set[str] = set()
    for sample in samples:
        if sample.patient not in seen:
            groups[sample.split, sample.label].append(sample.patient)
            seen.add(sample.patient)
    return groups


def _apart(found: Mapping[str, Catalogue]) -> None:
    """No image in two domains: one could be trained on in the first and tested on in the second."""
    owner: dict[Place, str] = {}
    for twin, one in found.items():
        if one.synthetic:  # drawn from a seed of the domain's own
            continue
        for sample in one.samples:
            if owner.setdefault(sample.place, twin) != twin:
                problem = f"the domains of {owner[sample.place]} and {twin} have an image in common"
                raise DataError("E306", problem, where="data.domains", fix="divide the classes between them with `only`")


def _seed(seed: int, name: str) -> int:
    return number(seed, "domain", name)


def _marked(name: str, sample: Sample) -> Sample:
    return replace(sample, patient=f"{name}{_BETWEEN}{sample.patient}")


def _bare(sample: Sample) -> Sample:
    return replace(sample, patient=sample.patient.partition(_BETWEEN)[2])
