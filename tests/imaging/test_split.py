from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Catalogue, Sample, Shard, Split
from p2pftl.imaging.dicom import Dicom
from p2pftl.imaging.images import Images
from p2pftl.imaging.split import ByScanner, Dirichlet, Iid, OneClass, Quantity, shards

DATA = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data"))
TWINS = ["ct-01", "ct-02", "ct-03", "ct-04"]
VENDORS = ("GE", "PHILIPS", "SIEMENS", "TOSHIBA")
SPLITS: list[Split] = [Iid(), Dirichlet(0.5, least=2), Quantity(1.0, least=2), OneClass(), ByScanner()]


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"the real images (../shared/data/{name}) are not here")


def catalogue(
    seed: int = 0, patients: int = 80, classes: int = 3, vendors: Sequence[str] = VENDORS, parts: Sequence[str] = ("",)
) -> Catalogue:
    """Patients with 1..5 images, mostly of one class, of one scanner each; every scanner has patients of every class."""
    rng = draw(seed, "catalogue")
    samples = []
    for p in range(patients):
        label, vendor, part = p % classes, VENDORS[p // classes % len(VENDORS)], parts[p // 5 % len(parts)]
        for i in range(int(rng.integers(1, 6))):
            own = label if i == 0 or rng.random() < 0.8 else int(rng.integers(classes))
            samples.append(Sample(f"f{p}-{i}", 0, own, f"p{p:04d}", f"{vendor} B{p % 2}", part))
    return Catalogue(tuple(samples), tuple("abcdefgh"[:classes]), False, "grey")


def patients(samples: Sequence[Sample]) -> set[str]:
    return {sample.patient for sample in samples}


def refused(code: str, *arguments: object) -> DataError:
    with pytest.raises(DataError) as caught:
        shards(*arguments)  # type: ignore[arg-type]
    assert caught.value.code == code, str(caught.value)
    assert caught.value.where
    return caught.value


# --- what holds for every split ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: type(split).__name__)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(60, 200),
    classes=st.integers(2, 4),
    test=st.floats(0.1, 0.4),
    validation=st.floats(0, 0.4),
)
def test_every_image_stands_on_one_side_of_one_twin_and_no_patient_on_two(
    split: Split, seed: int, count: int, classes: int, test: float, validation: float
) -> None:
    whole = catalogue(seed, count, classes)
    made = shards(whole, TWINS, split, test, validation, seed)
    assert list(made) == TWINS
    sides = [patients(next(iter(made.values())).test)]
    for shard in made.values():
        assert shard.test == made["ct-01"].test
        assert len(shard.train) >= 2
        assert (len(patients(shard.validation)) >= 1) == (validation > 0 and len(patients(shard.train + shard.validation)) >= 3)
        sides += [patients(shard.train), patients(shard.validation)]
    assert sum(map(len, sides)) == len(set().union(*sides)) == count
    held = [sample for shard in made.values() for sample in shard.train + shard.validation]
    assert Counter(held) + Counter(made["ct-01"].test) == Counter(whole.samples)
    assert len(set(held)) == len(held)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: type(split).__name__)
def test_the_seed_alone_decides_not_the_order_of_twins_or_files(split: Split) -> None:
    whole = catalogue(1)
    order = draw(9, "order").permutation(len(whole.samples))
    shuffled = Catalogue(tuple(whole.samples[i] for i in order), whole.classes, False, "grey")
    one = shards(whole, TWINS, split, 0.2, 0.2, 5)
    other = shards(shuffled, TWINS[::-1], split, 0.2, 0.2, 5)
    assert {twin: [patients(part) for part in (s.train, s.validation, s.test)] for twin, s in one.items()} == {
        twin: [patients(part) for part in (s.train, s.validation, s.test)] for twin, s in other.items()
    }
    assert patients(one["ct-01"].test) != patients(shards(whole, TWINS, split, 0.2, 0.2, 6)["ct-01"].test)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: type(split).__name__)
def test_the_common_test_set_holds_every_class_in_proportion(split: Split) -> None:
    whole = catalogue(2, 120)
    test = shards(whole, TWINS, split, 0.25, 0.1, 3)["ct-01"].test
    everywhere, here = Counter(s.label for s in whole.samples), Counter(s.label for s in test)
    for label, count in everywhere.items():
        assert here[label] / len(test) == pytest.approx(count / len(whole.samples), abs=0.1)


def test_the_sources_own_test_and_validation_parts_are_kept() -> None:
    whole = catalogue(3, 120, parts=("train", "train", "val", "test"))
    made = shards(whole, TWINS, Iid(), 0.3, 0.3, 1)
    assert set(made["ct-01"].test) == {s for s in whole.samples if s.split == "test"}
    assert {s.split for shard in made.values() for s in shard.train} == {"train"}
    assert {s.split for shard in made.values() for s in shard.validation} == {"val"}


def test_validation_leaves_a_patient_of_every_class_to_train_on() -> None:
    whole = catalogue(4, 48, classes=4)
    for shard in shards(whole, TWINS, Iid(), 0.2, 0.5, 1).values():
        assert {s.label for s in shard.train} == {0, 1, 2, 3}


# --- each split -------------------------------------------------------------------------------------------------


def by_class(made: Mapping[str, Sequence[str]], whole: Mapping[str, Sequence[Sample]], classes: int) -> np.ndarray:
    """[twins, classes] patients by majority label."""
    table = np.zeros((len(made), classes), int)
    for row, keys in zip(table, made.values(), strict=True):
        for key in keys:
            row[min(range(classes), key=lambda c, key=key: (-sum(s.label == c for s in whole[key]), c))] += 1
    return table


def grouped(whole: Catalogue) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in whole.samples:
        found.setdefault(sample.patient, []).append(sample)
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(4, 150))
def test_iid_twins_differ_by_at_most_one_patient_in_every_class_and_in_all(seed: int, count: int) -> None:
    whole = grouped(catalogue(seed, count))
    table = by_class(Iid().deal(whole, TWINS, 3, seed), whole, 3)
    assert (np.ptp(table, axis=0) <= 1).all()
    assert np.ptp(table.sum(1)) <= 1


def skew(alpha: float) -> float:
    """Mean share of a twin's largest class over 20 seeds: 1/3 when even, 1 when pure."""
    whole = grouped(catalogue(5, 240))
    tables = [by_class(Dirichlet(alpha).deal(whole, TWINS, 3, seed), whole, 3) for seed in range(20)]
    return float(np.mean([(table.max(1) / table.sum(1)).mean() for table in tables]))


def test_a_smaller_alpha_makes_a_stronger_label_skew() -> None:
    measured = [skew(alpha) for alpha in (1000, 10, 1, 0.1)]
    assert measured == sorted(measured)
    assert measured[0] < 0.4
    assert measured[-1] > 0.75


def test_dirichlet_shares_have_the_mean_and_variance_of_their_law() -> None:
    whole = grouped(catalogue(5, 600))
    shares = []
    for seed in range(200):
        table = by_class(Dirichlet(2.0, least=1).deal(whole, TWINS, 3, seed), whole, 3)
        shares.append(table / table.sum(0))
    found = np.array(shares)
    assert found.mean((0, 2)) == pytest.approx(np.full(4, 0.25), abs=0.03)
    assert found.var() == pytest.approx(0.25 * 0.75 / (4 * 2.0 + 1), rel=0.15)  # Var of Dir(a,a,a,a)


def test_a_dirichlet_draw_that_starves_a_twin_is_not_used() -> None:
    whole = grouped(catalogue(6, 60))
    for seed in range(30):
        assert min(map(len, Dirichlet(0.1, least=4).deal(whole, TWINS, 3, seed).values())) >= 4


@pytest.mark.parametrize(("power", "expected"), [(0.0, [25, 25, 25, 25]), (1.0, [48, 24, 16, 12]), (4.0, [88, 6, 3, 3])])
def test_quantity_skew_follows_the_power_law_and_keeps_the_mix_of_classes(power: float, expected: list[int]) -> None:
    whole = grouped(catalogue(7, 100))
    made = Quantity(power).deal(whole, TWINS, 3, 1)
    assert sorted(map(len, made.values()), reverse=True) == expected
    table = by_class(made, whole, 3)
    even = table.sum(0) / table.sum()
    assert (np.abs(table - table.sum(1, keepdims=True) * even) < 1.5).all()
    largest = {max(made, key=lambda t, made=made: len(made[t])) for made in (Quantity(2.0).deal(whole, TWINS, 3, s) for s in range(20))}
    assert len(largest) > 2


def test_one_class_twins_hold_one_class() -> None:
    whole = grouped(catalogue(8, 90))
    table = by_class(OneClass().deal(whole, [f"t{i}" for i in range(7)], 3, 1), whole, 3)
    assert ((table > 0).sum(1) == 1).all()
    assert (table.sum(0) == by_class({"all": list(whole)}, whole, 3)[0]).all()


def test_by_scanner_twins_hold_their_own_scanner() -> None:
    whole = catalogue(9, 96)
    made = shards(whole, TWINS, ByScanner(), 0.2, 0.2, 1)
    for twin, vendor in zip(TWINS, VENDORS, strict=True):
        assert {s.scanner.split()[0] for s in made[twin].train + made[twin].validation} == {vendor}
    assert {s.scanner.split()[0] for s in made["ct-01"].test} == set(VENDORS)
    eight = [f"t{i}" for i in range(8)]
    fine = shards(whole, eight, ByScanner(by="scanner"), 0.2, 0.2, 1)
    assert [{s.scanner for s in shard.train} for shard in fine.values()] == [{f"{v} B{k}"} for v in VENDORS for k in (0, 1)]


def test_twins_named_with_their_scanner_share_it() -> None:
    whole = catalogue(10, 96)
    mine = {"ct-01": "SIEMENS", "ct-02": "PHILIPS", "ct-03": "SIEMENS", "ct-04": "GE", "ct-05": "TOSHIBA"}
    made = shards(whole, list(mine), ByScanner(twins=mine), 0.2, 0.2, 1)
    for twin, text in mine.items():
        assert {s.scanner.split()[0] for s in made[twin].train} == {text}
    assert abs(len(patients(made["ct-01"].train)) - len(patients(made["ct-03"].train))) <= 1


def test_a_patient_of_two_scanners_goes_to_one_twin_with_the_images_of_that_scanner_only() -> None:
    whole = catalogue(11, 96)
    extra = [Sample(f"x{i}", 0, 0, "p0000", "TOSHIBA B0") for i in range(20)]
    both = Catalogue((*whole.samples, *extra), whole.classes, False, "grey")
    for seed in range(6):
        made = shards(both, TWINS, ByScanner(), 0.2, 0.2, seed)
        if "p0000" in patients(made["ct-01"].test):
            continue
        assert "p0000" in patients(made["ct-04"].train + made["ct-04"].validation)
        assert all("p0000" not in patients(made[twin].train + made[twin].validation) for twin in TWINS[:3])
        assert {s.scanner.split()[0] for s in made["ct-04"].train} == {"TOSHIBA"}


# --- what is refused --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sloppy(Split):
    """A split from outside that breaks its contract."""

    fault: str

    def deal(self, patients: Mapping[str, Sequence[Sample]], twins: Sequence[str], classes: int, seed: int) -> dict[str, list[str]]:
        dealt = Iid().deal(patients, twins, classes, seed)
        if self.fault == "twice":
            dealt[twins[0]].append(dealt[twins[1]][0])
        elif self.fault == "forgotten":
            dealt[twins[0]].pop()
        elif self.fault == "stranger":
            dealt["ct-99"] = [dealt[twins[0]].pop()]
        return dealt


@pytest.mark.parametrize(("fault", "code"), [("twice", "E306"), ("forgotten", "E304"), ("stranger", "E304")])
def test_a_split_from_outside_is_held_to_its_contract(fault: str, code: str) -> None:
    refused(code, catalogue(), TWINS, Sloppy(fault), 0.2, 0.2, 1)


@pytest.mark.parametrize(
    ("split", "count", "twins"),
    [(Iid(), 8, 8), (Dirichlet(0.5), 14, 4), (Quantity(1.0), 14, 4), (OneClass(), 80, 2), (Dirichlet(0.001, least=12), 80, 4)],
    ids=lambda value: str(value),
)
def test_too_few_patients_for_the_twins_are_refused(split: Split, count: int, twins: int) -> None:
    error = refused("E304", catalogue(12, count), [f"t{i}" for i in range(twins)], split, 0.2, 0.2, 1)
    assert error.fix


def test_a_twin_left_with_one_image_is_named() -> None:
    samples = [Sample(f"f{i}", 0, i % 2, f"p{i}") for i in range(10)]
    error = refused("E304", Catalogue(tuple(samples), ("a", "b"), False, "grey"), [f"t{i}" for i in range(8)], Iid(), 0.2, 0, 1)
    assert "twin t" in error.problem
    assert "1 training images of 1 patients" in error.problem


def test_a_class_with_a_single_patient_is_refused_because_it_cannot_be_tested() -> None:
    samples = [Sample(f"f{i}{k}", 0, 2 if i == 9 else i % 2, f"p{i}") for i in range(40) for k in range(2)]
    error = refused("E304", Catalogue(tuple(samples), ("a", "b", "rare"), False, "grey"), TWINS, Iid(), 0.2, 0, 1)
    assert "class rare" in error.problem


def test_a_patient_in_train_and_test_is_refused() -> None:
    whole = catalogue(13, 40, parts=("train", "test"))
    mixed = (*whole.samples[:-1], Sample("x", 0, 0, whole.samples[0].patient, "GE B0", "test"))
    refused("E306", Catalogue(mixed, whole.classes, False, "grey"), TWINS, Iid(), 0.2, 0.2, 1)


def test_a_test_fraction_of_nothing_is_refused() -> None:
    refused("E304", catalogue(), TWINS, Iid(), 0.0, 0.2, 1)


def test_scanners_that_do_not_match_the_twins_are_listed() -> None:
    whole = catalogue(14)
    assert "GE, PHILIPS, SIEMENS, TOSHIBA" in refused("E303", whole, TWINS[:3], ByScanner(), 0.2, 0.2, 1).problem
    nobody = Catalogue(tuple(Sample(s.file, 0, s.label, s.patient) for s in whole.samples), whole.classes, False, "grey")
    refused("E303", nobody, TWINS, ByScanner(), 0.2, 0.2, 1)


@pytest.mark.parametrize(
    "mapping",
    [
        {"ct-01": "GE", "ct-02": "PHILIPS", "ct-03": "SIEMENS"},
        {"ct-01": "GE", "ct-02": "PHILIPS", "ct-03": "SIEMENS", "ct-04": "TOSHIBA", "ct-05": "GE"},
        {"ct-01": "GE", "ct-02": "PHILIPS", "ct-03": "SIEMENS", "ct-04": "SIEMENS B1"},
        {"ct-01": "GE", "ct-02": "PHILIPS", "ct-03": "SIEMENS", "ct-04": "SIEMENS"},
        {"ct-01": "GE", "ct-02": "PHILIPS", "ct-03": "SIEMENS", "ct-04": "HITACHI"},
    ],
    ids=["twin without", "not a twin", "two texts fit", "scanner without", "no such scanner"],
)
def test_a_mapping_of_twins_to_scanners_that_does_not_fit_is_refused(mapping: dict[str, str]) -> None:
    error = refused("E303", catalogue(15), TWINS, ByScanner(twins=mapping), 0.2, 0.2, 1)
    assert error.where == "data.split.twins"


# --- the real data ----------------------------------------------------------------------------------------------


def mixed_up(made: Mapping[str, Shard]) -> set[str]:
    sides = [patients(next(iter(made.values())).test), *(patients(s.train + s.validation) for s in made.values())]
    return {key for key, n in Counter(key for side in sides for key in side).items() if n > 1}


@needs("dicom_ct")
def test_four_real_vendors_need_slice_blocks_by_name_because_two_have_one_patient() -> None:
    folder = str(DATA / "dicom_ct")
    error = refused("E304", Dicom(folder, label="kernel_group").catalogue({}, 0), TWINS, ByScanner(), 0.2, 0.2, 7)
    assert "PHILIPS has 1 patient" in error.problem
    assert "data.block" in error.fix
    for label in ("kernel_group", "kernel", "manufacturer"):
        whole = Dicom(folder, label=label, block=2).catalogue({}, 0)  # type: ignore[arg-type]
        for seed in range(5):
            made = shards(whole, TWINS, ByScanner(), 0.2, 0.2, seed)
            assert not mixed_up(made)
            assert {s.scanner.split()[0] for s in made["ct-01"].test} == set(VENDORS)
            assert [{s.scanner.split()[0] for s in shard.train} for shard in made.values()] == [{v} for v in VENDORS]


@needs("sars_cov2_ct")
def test_real_covid_blocks_are_dealt_to_six_twins_by_dirichlet() -> None:
    whole = Images(str(DATA / "sars_cov2_ct"), block=10).catalogue({}, 0)
    for seed in range(5):
        made = shards(whole, [f"ct-{i:02d}" for i in range(1, 7)], Dirichlet(0.5), 0.2, 0.2, seed)
        assert not mixed_up(made)
        assert sum(len(s.train) + len(s.validation) for s in made.values()) + len(made["ct-01"].test) == 621
        assert 0.4 < np.mean([s.label for s in made["ct-01"].test]) < 0.6
