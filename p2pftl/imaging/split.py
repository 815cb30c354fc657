"""Patients dealt to twins: by class, by amount, by scanner; and the shards that follow from it.

A patient is whatever the data source says cannot be divided (Sample.patient). Everything here deals whole patients, so
no image of one can be trained on by one twin and tested on, or held, by another.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Interval, Le

from p2pftl.draw import draw
from p2pftl.errors import DataError, nearest
from p2pftl.imaging.cohort import Catalogue, Sample, Shard, Split

Patients = Mapping[str, Sequence[Sample]]
LEAST_SAMPLES = 2


@dataclass(frozen=True)
class Iid(Split):
    """Every twin gets the same number of patients (+-1) with the same mix of classes (+-1 patient)."""

    def deal(self, patients: Patients, twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Deal class after class, one patient at a time, in a drawn order. Raises DataError E304."""
        names = sorted(twins)
        _enough(patients, names, 1)
        turn = [names[i] for i in draw(seed, "split", "iid").permutation(len(names))]
        order = [key for label, keys in _by_class(patients).items() for key in _shuffled(keys, seed, "iid", label)]
        return {name: order[place :: len(names)] for place, name in enumerate(turn)}


@dataclass(frozen=True)
class Dirichlet(Split):
    """Label skew: of each class, the twins' shares are one draw from Dirichlet(alpha).

    alpha: 100 is near IID, 0.1 leaves most twins one or two classes (Hsu, Qi, Brown 2019, arXiv:1909.06335; shares per class as
    in Li et al. 2022, arXiv:2102.02079, Dir(alpha) over twins). least: patients that every twin must get; draws that miss it are
    rejected.
    """

    alpha: Annotated[float, Gt(0), Le(1e6)] = 0.5
    least: Annotated[int, Ge(1)] = 3

    def deal(self, patients: Patients, twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Deal the first of 20,000 draws that gives every twin `least` patients. Raises DataError E304 if there is none."""
        names = sorted(twins)
        _enough(patients, names, self.least)
        by_class = _by_class(patients)
        sizes = np.array([len(keys) for keys in by_class.values()])
        for batch in range(20):
            shares = draw(seed, "split", "dirichlet", batch).dirichlet(np.full(len(names), self.alpha), size=(1000, len(sizes)))
            ends = np.rint(np.cumsum(shares, axis=2) * sizes[:, None]).astype(np.int64)
            counts = np.diff(ends, axis=2, prepend=0)
            fitting = np.flatnonzero(counts.sum(axis=1).min(axis=1) >= self.least)
            if len(fitting):
                return self._dealt(by_class, counts[fitting[0]], names, seed)
        raise DataError(
            "E304", f"no Dirichlet({self.alpha:g}) draw of 20,000 gives {len(names)} twins {self.least} patients each of {len(patients)}",
            where="data.split", fix="raise alpha, lower least, or use fewer twins",
        )  # fmt: skip

    def _dealt(
        self, by_class: Mapping[int, list[str]], counts: npt.NDArray[np.int64], names: Sequence[str], seed: int
    ) -> dict[str, list[str]]:
        dealt: dict[str, list[str]] = {name: [] for name in names}
        for (label, keys), row in zip(by_class.items(), counts, strict=True):
            for name, run in _runs(_shuffled(keys, seed, "dirichlet", label), row, names).items():
                dealt[name] += run
        return dealt


@dataclass(frozen=True)
class Quantity(Split):
    """Quantity skew: the k-th largest twin gets a share proportional to k^-skew of the patients, with the same mix of classes.

    skew: 0 is equal, 1 is Zipf. least: patients that every twin gets at least. Which twin is the largest is drawn.
    """

    skew: Annotated[float, Interval(ge=0, le=4)] = 1.0
    least: Annotated[int, Ge(1)] = 3

    def deal(self, patients: Patients, twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Deal runs of unequal length of a class-spread order. Raises DataError E304."""
        names = sorted(twins)
        _enough(patients, names, self.least)
        weights = np.arange(1, len(names) + 1, dtype=np.float64) ** -self.skew
        by_rank = [names[i] for i in draw(seed, "split", "quantity").permutation(len(names))]
        return _runs(_spread(patients, seed, "quantity"), _shares(len(patients), weights, self.least), by_rank)


@dataclass(frozen=True)
class OneClass(Split):
    """The hardest label skew: every twin holds patients of one class only (class of a patient = its most frequent label)."""

    def deal(self, patients: Patients, twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Give twin i class i mod K, and its share of that class. Raises DataError E304 with fewer twins than classes."""
        names = sorted(twins)
        by_class = _by_class(patients)
        if len(names) < len(by_class):
            problem = f"one_class needs a twin per class: {len(by_class)} classes, {len(names)} twins"
            raise DataError("E304", problem, where="data.split", fix="use dirichlet, or more twins")
        dealt: dict[str, list[str]] = {}
        for place, (label, keys) in enumerate(by_class.items()):
            holders = names[place :: len(by_class)]
            _enough({key: patients[key] for key in keys}, holders, 1)
            order = _shuffled(keys, seed, "one_class", label)
            dealt |= _runs(order, _shares(len(keys), np.ones(len(holders)), 1), holders)
        return dealt


@runtime_checkable
class Selective(Protocol):
    """A split whose twins know one scanner each; every scanner must then be in the common test set."""

    def home(self, patients: Patients) -> dict[str, tuple[str, list[Sample]]]:
        """Return patient -> (scanner group it belongs to, its images from that group)."""
        ...


@dataclass(frozen=True)
class ByScanner(Split):
    """Real feature skew: every twin holds the patients of its own scanner.

    by: "vendor" takes the first word of Sample.scanner ("SIEMENS"), "scanner" all of it ("SIEMENS B70f"); sorted groups go to
    sorted twins, one each. twins: instead of that, twin -> text with which its scanners begin ("SIEMENS", "GE"); twins
    with the same text share those patients evenly. A patient scanned in several groups goes to the one with most of its images (the
    rarer one at a tie), and its images from the others are left out, so that a twin knows its own scanner only.
    """

    by: Literal["vendor", "scanner"] = "vendor"
    twins: dict[str, str] | None = None

    def deal(self, patients: Patients, twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        """Deal by scanner. Raises DataError E303 when scanners and twins do not match, E304 when a scanner has too few patients."""
        home = {key: group for key, (group, _) in self.home(patients).items()}
        holders = self._holders(sorted(set(home.values())), sorted(twins))
        dealt: dict[str, list[str]] = {}
        for group, names in holders.items():
            mine = {key: patients[key] for key in patients if home[key] == group}
            _enough(mine, names, 1, f" from {group}")
            dealt |= _runs(_spread(mine, seed, "scanner", group), _shares(len(mine), np.ones(len(names)), 1), names)
        return dealt

    def home(self, patients: Patients) -> dict[str, tuple[str, list[Sample]]]:
        """Return patient -> (scanner group it belongs to, its images from that group). Raises DataError E303."""
        scanners = sorted({sample.scanner for samples in patients.values() for sample in samples})
        group = {scanner: self._group(scanner, scanners) for scanner in scanners}
        images = Counter(group[sample.scanner] for samples in patients.values() for sample in samples)
        home = {}
        for key, samples in patients.items():
            count = Counter(group[sample.scanner] for sample in samples)
            chosen = min(count, key=lambda name, count=count: (-count[name], images[name], name))  # type: ignore[misc]
            home[key] = chosen, [sample for sample in samples if group[sample.scanner] == chosen]
        return home

    def _group(self, scanner: str, scanners: Sequence[str]) -> str:
        if not scanner:
            raise DataError("E303", "some images name no scanner", where="data.split", fix="add a scanner column, or use another split")
        if self.twins is None:
            return scanner.split(" ")[0] if self.by == "vendor" else scanner
        texts = sorted({text for text in self.twins.values() if scanner.startswith(text)})
        if len(texts) != 1:
            problem = f"scanner {scanner} belongs to " + (f"several texts: {', '.join(texts)}" if texts else "no twin")
            raise DataError("E303", problem, where="data.split.twins", fix="scanners: " + ", ".join(scanners))
        return texts[0]

    def _holders(self, groups: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
        """Return scanner group -> twins that share its patients."""
        if self.twins is None:
            if len(groups) != len(names):
                problem = f"{len(groups)} scanners ({', '.join(groups)}) for {len(names)} twins"
                raise DataError("E303", problem, where="data.split", fix=f"use {len(groups)} twins, or say whose is whose in split.twins")
            return {group: [name] for group, name in zip(groups, names, strict=True)}
        for name in sorted(set(self.twins) ^ set(names)):
            problem, known = (f"twin {name} has no scanner", groups) if name in names else (f"{name} is not a twin", names)
            raise DataError("E303", problem, where="data.split.twins", fix=nearest(name, known))
        for name, text in sorted(self.twins.items()):
            if text not in groups:
                problem = f"no patient belongs to scanner {text} of twin {name}"
                raise DataError("E303", problem, where="data.split.twins", fix=nearest(text, groups))
        return {group: [name for name in names if self.twins[name] == group] for group in groups}


def shards(catalogue: Catalogue, twins: Sequence[str], split: Split, test: float, validation: float, seed: int) -> dict[str, Shard]:
    """Hold out the common test set, deal the other patients to `twins`, and hold out each twin's validation patients.

    test, validation: fractions of patients. The source's own test part (Sample.split) wins over `test`, its "val" part
    over `validation`; else test patients are drawn class by class, or scanner by scanner where the split goes by scanner.
    A twin with three patients or more keeps at least one for validation.
    Raises DataError E304 (too few of something), E306 (one patient on two sides), and what the split raises.
    """
    patients = _grouped(catalogue.samples)
    _one_side_each(patients)
    home = split.home(patients) if isinstance(split, Selective) else None
    tested = [key for key, samples in patients.items() if samples[0].split == "test"]
    if not tested:
        strata = {key: group for key, (group, _) in home.items()} if home else {key: str(_label(patients[key])) for key in patients}
        tested = _held_out(patients, strata, test, seed, must=home is not None)
    mine = {key: samples for key, (_, samples) in home.items()} if home else patients
    apart = set(tested)
    rest = {key: samples for key, samples in mine.items() if key not in apart}
    dealt = split.deal(rest, twins, len(catalogue.classes), seed)
    _every_patient_once(dealt, rest, twins)
    rank = {key: i for i, key in enumerate(patients)}
    common = _samples(patients, tested, rank)
    made = {}
    for twin in twins:
        kept = _validation({key: rest[key] for key in dealt[twin]}, validation, seed, twin)
        train = _samples(rest, set(dealt[twin]) - set(kept), rank)
        made[twin] = Shard(train, _samples(rest, kept, rank), common)
    _enough_to_learn(made, catalogue, {twin: len(keys) for twin, keys in dealt.items()})
    return made


def _held_out(patients: Patients, strata: Mapping[str, str], fraction: float, seed: int, *, must: bool) -> list[str]:
    """Draw about `fraction` of each stratum's patients, at least one where it has two (`must`: or refuse)."""
    groups: dict[str, dict[str, Sequence[Sample]]] = defaultdict(dict)
    for key, samples in patients.items():
        if samples[0].split != "val":
            groups[strata[key]][key] = samples
    held: list[str] = []
    whole, taken = Counter(_label(samples) for samples in patients.values()), Counter[int]()
    for name, group in sorted(groups.items()):
        if must and len(group) < 2:
            raise DataError(
                "E304", f"{name} has {len(group)} patient, who cannot be both trained on and tested on",
                where="data.split", fix="add patients, or set data.block: slice blocks as patients (optimistic scores)",
            )  # fmt: skip
        count = min(max(round(fraction * len(group)), 1), len(group) - 1) if fraction > 0 else 0
        waiting: dict[int, list[str]] = defaultdict(list)
        for key in _spread(group, seed, "test", name):
            waiting[_label(group[key])].append(key)
        for _ in range(count):
            scarcest = min((label for label in waiting if waiting[label]), key=lambda label: taken[label] / whole[label])
            held.append(waiting[scarcest].pop(0))
            taken[scarcest] += 1
    return held


def _validation(patients: Patients, fraction: float, seed: int, twin: str) -> list[str]:
    """Patients one twin keeps for validation: the source's, else drawn so that no class loses its last patient if that can be."""
    given = [key for key, samples in patients.items() if samples[0].split == "val"]
    if given or fraction <= 0 or len(patients) < 3:
        return given
    count = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    left = Counter(_label(samples) for samples in patients.values())
    held: list[str] = []
    order = _spread(patients, seed, "validation", twin)
    for key in order:
        label = _label(patients[key])
        if len(held) < count and left[label] > 1:
            left[label] -= 1
            held.append(key)
    return held or order[:1]


def _enough_to_learn(made: Mapping[str, Shard], catalogue: Catalogue, patients: Mapping[str, int]) -> None:
    fix = "use more data or fewer twins, lower test or validation, or soften the split (alpha, skew, least)"
    for twin, shard in made.items():
        if len(shard.train) < LEAST_SAMPLES:
            problem = (
                f"twin {twin} has {len(shard.train)} training images of {patients[twin]} patients; at least {LEAST_SAMPLES} are needed"
            )
            raise DataError("E304", problem, where="data.split", fix=fix)
    present = {sample.label for sample in catalogue.samples}
    common = next(iter(made.values())).test if made else ()
    for what, samples in (("test", common), ("training", [sample for shard in made.values() for sample in shard.train])):
        missing = sorted(catalogue.classes[label] for label in present - {sample.label for sample in samples})
        if missing:
            problem = f"the {what} images lack class {', '.join(missing)}: too few patients have it"
            raise DataError("E304", problem, where="data.split", fix="add patients of that class, or change test")


def _one_side_each(patients: Patients) -> None:
    for samples in patients.values():
        sides = sorted({sample.split for sample in samples})
        if len(sides) > 1:
            named = " and ".join(side or "(none)" for side in sides)
            raise DataError("E306", f"one patient has images in {named}", where="data", fix="give all images of a patient the same split")


def _every_patient_once(dealt: Mapping[str, Sequence[str]], patients: Patients, twins: Sequence[str]) -> None:
    """Hold any split, also one from outside, to its contract."""
    strangers = sorted(set(dealt) ^ set(twins))
    if strangers:
        raise DataError("E304", f"the split deals nothing to, or does not know, {', '.join(strangers)}", where="data.split")
    count = Counter(key for keys in dealt.values() for key in keys)
    if any(n > 1 for n in count.values()):
        raise DataError("E306", f"the split deals {sum(n > 1 for n in count.values())} patients twice", where="data.split")
    if set(count) != set(patients):
        raise DataError("E304", f"the split deals {len(count)} patients, not the {len(patients)} it was given", where="data.split")


def _enough(patients: Patients, names: Sequence[str], least: int, whose: str = "") -> None:
    if len(patients) < least * len(names):
        problem = f"{len(patients)} patients{whose} for {len(names)} twins with at least {least} each"
        raise DataError("E304", problem, where="data.split", fix="use more data or fewer twins, or lower split.least or test")


def _samples(patients: Patients, keys: Collection[str], rank: Mapping[str, int]) -> tuple[Sample, ...]:
    """The samples of `keys`, patients in catalogue order."""
    return tuple(sample for key in sorted(keys, key=rank.__getitem__) for sample in patients[key])


def _grouped(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.patient].append(sample)
    return dict(grouped)


def _label(samples: Sequence[Sample]) -> int:
    """A patient's class: the most frequent label, the smaller one at a tie."""
    count = Counter(sample.label for sample in samples)
    return min(count, key=lambda label: (-count[label], label))


def _by_class(patients: Patients) -> dict[int, list[str]]:
    by_class: dict[int, list[str]] = defaultdict(list)
    for key in sorted(patients):
        by_class[_label(patients[key])].append(key)
    return dict(sorted(by_class.items()))


def _shuffled(keys: Sequence[str], seed: int, *purpose: str | int) -> list[str]:
    return [keys[i] for i in draw(seed, "split", *purpose).permutation(len(keys))]


def _spread(patients: Patients, seed: int, *purpose: str) -> list[str]:
    """Return the patients in a drawn order along which every class is spread evenly."""
    placed = []
    for label, keys in _by_class(patients).items():
        order = _shuffled(keys, seed, *purpose, label)
        start = draw(seed, "split", *purpose, label, "start").random()  # else every run would begin with the first class
        placed += [((i + start) / len(order), label, key) for i, key in enumerate(order)]
    return [key for _, _, key in sorted(placed)]


def _shares(count: int, weights: npt.NDArray[np.float64], least: int) -> list[int]:
    """Split `count` in proportion to `weights` by largest remainder, then lift every share to `least` at the cost of the largest."""
    exact = count * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    for i in np.argsort(shares - exact, kind="stable")[: count - int(shares.sum())]:
        shares[i] += 1
    while shares.min() < least:
        shares[shares.argmax()] -= 1
        shares[shares.argmin()] += 1
    return [int(share) for share in shares]


def _runs(order: Sequence[str], counts: Sequence[int] | npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, list[str]]:
    ends = np.cumsum(counts)
    return {name: list(order[int(end) - int(n) : int(end)]) for name, n, end in zip(names, counts, ends, strict=True)}
