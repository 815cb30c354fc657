"""Studies that come during a run: who, when, what the scanner of the day made of them, and what is learnt from."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pftl.draw import draw
from p2pftl.errors import DataError, ScenarioError
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.archive import Archive, Arrivals, Study, acquired
from p2pftl.imaging.cohort import Anatomy, Catalogue, Cohort, Sample, Shard, Source
from p2pftl.imaging.condition import Condition
from p2pftl.imaging.scanner import Scanner

SIDE, PIXEL_MM = 64, 4.0
USUAL = Scanner()
EACH_SECOND = Arrivals(3600, 0.5)


def water(side: int = SIDE) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.where(np.hypot(x, y) * PIXEL_MM < 100, 0.0, -1000.0).astype(np.float32)


@dataclass(frozen=True)
class Cylinders(Source):
    """Water cylinders, two slices a patient; `known`: whether their anatomy is."""

    known: bool = True
    unit: str = "HU"
    size: int = SIDE

    def catalogue(self, scanners: object, seed: int) -> Catalogue:
        raise NotImplementedError

    def read(self, samples: Sequence[Sample]) -> Cohort:
        hu = np.stack([water() for _ in samples]) if samples else np.empty((0, SIDE, SIDE))
        pixels = acquire(hu, USUAL, PIXEL_MM, draw(0, "stored", len(samples))).hu.numpy() if samples else hu.astype(np.int16)
        if self.unit == "grey":
            pixels = (pixels // 16 + 64).astype(np.uint8)
        labels = np.array([sample.label for sample in samples], np.int64)
        return Cohort(pixels, labels, self.unit, pixel_mm=PIXEL_MM)  # type: ignore[arg-type]

    def anatomy(self, samples: Sequence[Sample], slice_mm: float) -> Anatomy | None:
        return Anatomy(np.stack([water() for _ in samples]), PIXEL_MM) if self.known else None


def samples(first: int, last: int) -> tuple[Sample, ...]:
    return tuple(Sample("f", k, patient % 2, f"p{patient:02d}") for patient in range(first, last) for k in range(2))


SHARD = Shard(samples(0, 10), samples(10, 14), ())


def archive(source: Source | None = None, arrivals: Arrivals | None = EACH_SECOND, *, seed: int = 7, **more: object) -> Archive:
    source = source or Cylinders()
    cohorts = {"train": source.read(SHARD.train), "validation": source.read(SHARD.validation)}
    return Archive("ct-01", seed, SHARD, source, cohorts, USUAL, arrivals, **more)  # type: ignore[arg-type]


def held(one: Archive) -> dict[str, list[str]]:
    """Who is learnt from, by part, in the order of the cohort."""
    one.stock()
    return {part: [key for key, _ in chosen] for part, chosen in one._chosen.items()}


def bytes_of(one: Archive, quarantined: Callable[[float], bool] = lambda at: False) -> list[bytes]:
    return [cohort.pixels.tobytes() for cohort in one.stock(quarantined).cohorts.values()]


# ---------------------------------------------------------------- who comes, and when


def test_nobody_comes_without_arrivals_and_the_studies_are_the_task_s_own() -> None:
    one = archive(arrivals=None)
    stock = one.stock()
    assert (one.next, stock.version, stock.left_out, stock.held) == (math.inf, 0, 0, 20)
    assert all(stock.cohorts[part] is one.own[part] for part in stock.cohorts)


def test_arrivals_are_a_poisson_process_of_the_given_rate() -> None:
    one, gaps, last = archive(arrivals=Arrivals(rate=1800)), [], 0.0
    for _ in range(2000):
        gaps.append(one.next - last)
        last = one.next
        one.take(accept=False)
    assert np.mean(gaps) == pytest.approx(2.0, rel=0.07)
    assert np.std(gaps) == pytest.approx(2.0, rel=0.1)  # as exponential gaps have it
    assert np.corrcoef(gaps[1:], gaps[:-1])[0, 1] == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize("start", [0.1, 0.5, 1.0])
def test_that_share_of_every_class_is_there_at_the_start_and_at_least_one(start: float) -> None:
    there = held(archive(arrivals=Arrivals(1, start)))
    for part, each in (("train", 5), ("validation", 2)):
        classes = Counter(int(key[1:]) % 2 for key in there[part])
        assert classes == dict.fromkeys((0, 1), max(1, round(start * each)))


def test_first_come_those_who_never_came_then_everybody_again_and_again() -> None:
    one = archive()
    there = {key for keys in held(one).values() for key in keys}
    came = []
    for _ in range(14 - len(there) + 2 * 14):
        before = {key: len(studies) for key, studies in one.studies.items()}
        one.take()
        came += [key for key, studies in one.studies.items() if len(studies) > before[key]]
    new = 14 - len(there)
    assert {*came[:new]} == {*one.patients} - there
    assert {*came[new : new + 14]} == {*came[new + 14 :]} == {*one.patients}
    assert came[new : new + 14] != came[new + 14 :]


def test_a_patient_never_changes_sides() -> None:
    one = archive()
    parts = Counter(one.take().part for _ in range(42))
    assert parts["train"] + parts["validation"] == 42
    assert set(held(one)["train"]) == {f"p{n:02d}" for n in range(10)}
    assert set(held(one)["validation"]) == {f"p{n:02d}" for n in range(10, 14)}


def test_shares_steer_which_class_comes_and_the_rest_share_what_is_left() -> None:
    for labels, expected in (({1: 1.0}, 1.0), ({"ill": 0.8}, 0.8), ({0: 0.8}, 0.2), ({"1": 3, 0: 1}, 0.75)):
        one = archive(classes=("well", "ill"))
        for _ in range(400):
            one.take(labels=labels)
        studies = Counter(one.patients[key].label for key, found in one.studies.items() for study in found if study.number >= 0)
        assert studies[1] / 400 == pytest.approx(expected, abs=0.07)


def test_shares_of_nobody_here_leave_the_order_as_it_is_and_unknown_classes_are_named() -> None:
    plain, steered = archive(classes=("well", "ill", "odd")), archive(classes=("well", "ill", "odd"))
    for _ in range(9):
        plain.take()
        steered.take(labels={"odd": 1.0})
    assert steered.studies == plain.studies
    with pytest.raises(ScenarioError, match=r"E118.*no class il; did you mean ill"):
        plain.take(labels={"il": 1.0})


def test_a_scanner_out_of_order_loses_the_appointment_not_the_patient() -> None:
    working, broken = archive(), archive()
    first = broken.take(accept=False)
    assert (first.images, first.part, broken.count) == (0, "", 0)
    broken.take()
    assert working.next < broken.next
    working.take()
    assert [key for key, found in working.studies.items() if found[-1:] and found[-1].number >= 0] == [
        key for key, found in broken.studies.items() if found[-1:] and found[-1].number >= 0
    ]


# ---------------------------------------------------------------- what is learnt from


def test_the_same_calls_give_the_same_bytes_and_another_seed_or_twin_gives_others() -> None:
    def lived(one: Archive) -> list[bytes]:
        for _ in range(6):
            one.take(replace(USUAL, dose=0.5), Condition(offset=3))
        return bytes_of(one)

    assert lived(archive()) == lived(archive())
    assert lived(archive()) != lived(archive(seed=8))


def test_how_often_one_looks_changes_nothing() -> None:
    often, once = archive(), archive()
    for _ in range(9):
        often.take()
        often.stock()
        once.take()
    assert bytes_of(often) == bytes_of(once)


def test_nothing_new_is_the_same_object_and_every_change_is_another_version() -> None:
    one = archive()
    first = one.stock()
    assert one.stock() is first
    assert first.version == 1  # half of the studies are not there yet
    arrived = one.take()
    second = one.stock()
    other = {"train": "validation", "validation": "train"}[arrived.part]
    assert second.version == 2
    assert second.cohorts[arrived.part] is not first.cohorts[arrived.part]
    assert second.cohorts[other] is first.cohorts[other]
    assert one.stock() is second


def test_the_newest_studies_of_every_patient_are_learnt_from() -> None:
    for keep in (1, 3):
        one = archive(arrivals=Arrivals(3600, 1.0, keep))
        for _ in range(28):
            one.take()
        stock = one.stock()
        assert [len(cohort) for cohort in stock.cohorts.values()] == [2 * 10 * keep, 2 * 4 * keep]
        assert stock.held == 20 * keep
        for key, study in one._chosen["train"]:
            assert study in one.studies[key][-keep:]


def test_quarantined_studies_leave_older_ones_of_the_same_patient_come_back_and_nothing_is_lost() -> None:
    one = archive(arrivals=Arrivals(3600, 1.0))
    own = bytes_of(one)
    times = [(one.next, one.take(condition=Condition(offset=40)))[0] for _ in range(14)]
    fresh = bytes_of(one)
    assert fresh != own
    middle = times[6]
    half = one.stock(lambda at: at > middle)
    assert half.left_out == 2 * 7
    assert half.held == 20  # everybody's older study is back
    assert bytes_of(one, lambda at: True) == own
    assert one.left_out == 28
    assert all(one.stock(lambda at: True).cohorts[part] is one.own[part] for part in one.own)
    assert bytes_of(one) == fresh  # acquired anew, the same to the bit
    assert one.left_out == 0


def test_patients_who_have_no_sound_study_are_not_learnt_from_but_never_the_last_of_a_class() -> None:
    one = archive(arrivals=Arrivals(3600, 0.01))
    for _ in range(10):
        one.take()
    stock = one.stock(lambda at: True)
    assert (stock.held, stock.left_out) == (4, 20)
    assert set(stock.cohorts["train"].labels) == {0, 1}


def test_pixels_are_kept_once_and_only_of_what_is_learnt_from() -> None:
    one = archive(arrivals=Arrivals(3600, 1.0))
    for _ in range(60):
        one.take()
        stock = one.stock()
        assert {*one._kept} == {study.number for chosen in one._chosen.values() for _, study in chosen if study.number >= 0}
    assert all(any(np.shares_memory(pixels, cohort.pixels) for cohort in stock.cohorts.values()) for pixels in one._kept.values())


def test_images_follow_their_labels() -> None:
    one = archive()
    for _ in range(20):
        one.take()
    for part, cohort in one.stock().cohorts.items():
        expected = [one.patients[key].label for key, _ in one._chosen[part] for _ in range(2)]
        assert cohort.labels.tolist() == expected
        assert cohort.pixels.dtype == np.int16


@dataclass(frozen=True)
class Gaps(Cylinders):
    """A source that leaves out what it cannot read: every patient's second slice, and all of patient 3."""

    def read(self, samples: Sequence[Sample]) -> Cohort:
        good = [sample for sample in samples if sample.index == 0 and sample.patient != "p03"]
        if samples and not good:
            raise DataError("E304", "none can be read")
        return super().read(good)


def test_slices_that_could_not_be_read_have_no_place_in_the_cohort() -> None:
    one = archive(Gaps())
    assert "p03" not in one.patients
    assert [one.rows for one in one.patients.values()][:3] == [(0,), (1,), (2,)]
    for _ in range(12):
        one.take()
    assert len(one.stock().cohorts["train"]) == 9


# ---------------------------------------------------------------- what the scanner of the day makes of it


def again(known: bool, scanner: Scanner = USUAL, condition: Condition | None = None, count: int = 12) -> np.ndarray:
    """New studies of a water cylinder, [n, 64, 64] HU."""
    source, who = Cylinders(known), samples(0, count)[::2]
    study = Study(0, 0.0, scanner, condition or Condition())
    return acquired(source, who, source.read(who), study, USUAL, draw(3, "again")).astype(float)


def noise(seen: np.ndarray) -> float:
    """Of the inner part, without what all images have in common (rings, cupping)."""
    return float((seen - seen.mean(0))[:, 20:44, 20:44].std() * math.sqrt(len(seen) / (len(seen) - 1)))


@pytest.mark.parametrize("known", [True, False], ids=["anatomy", "stored"])
def test_calibration_errors_move_the_mean_as_they_say(known: bool) -> None:
    plain = again(known)
    inside, outside = np.s_[:, 20:44, 20:44], np.s_[:, :6, :6]
    offset = again(known, condition=Condition(offset=8))
    assert offset[inside].mean() - plain[inside].mean() == pytest.approx(8, abs=0.3)
    assert offset[outside].mean() - plain[outside].mean() == pytest.approx(8, abs=0.5)
    gain = again(known, condition=Condition(gain=0.005))
    assert gain[inside].mean() - plain[inside].mean() == pytest.approx(5, abs=0.3)
    assert gain[outside].mean() - plain[outside].mean() == pytest.approx(0, abs=0.3)
    cup = again(known, condition=Condition(cupping=6))
    assert cup[:, 30:34, 30:34].mean() - plain[:, 30:34, 30:34].mean() == pytest.approx(-6, abs=0.5)


@pytest.mark.parametrize("known", [True, False], ids=["anatomy", "stored"])
def test_half_the_dose_or_half_the_output_is_noise_by_the_square_root_of_two(known: bool) -> None:
    plain = noise(again(known))
    for scanner, condition in ((replace(USUAL, dose=0.5), None), (USUAL, Condition(output=0.5)), (replace(USUAL, mas=50), None)):
        seen = again(known, scanner, condition)
        assert noise(seen) / plain == pytest.approx(math.sqrt(2), rel=0.06)
        assert seen[:, 20:44, 20:44].mean() == pytest.approx(0, abs=1.5)


@pytest.mark.parametrize("known", [True, False], ids=["anatomy", "stored"])
def test_rings_are_there_and_the_mean_stays(known: bool) -> None:
    def rough(seen: np.ndarray) -> float:
        return float(np.std(seen.mean(0)[20:44, 20:44]))

    plain, ring = again(known), again(known, condition=Condition(ring=30, pattern=5))
    assert rough(ring) > 3 * rough(plain)
    assert ring[:, 20:44, 20:44].mean() == pytest.approx(plain[:, 20:44, 20:44].mean(), abs=4)
    assert noise(ring) == pytest.approx(noise(plain), rel=0.05)


def test_a_sound_scanner_shows_known_anatomy_anew_and_stored_images_as_they_are() -> None:
    stored = Cylinders().read(samples(0, 12)[::2]).pixels
    assert np.array_equal(again(False), stored)
    fresh = again(True)
    assert not np.array_equal(fresh, stored)
    assert noise(fresh) == pytest.approx(noise(stored.astype(float)), rel=0.06)


def test_known_anatomy_takes_any_protocol_stored_images_only_less_dose() -> None:
    assert noise(again(True, replace(USUAL, kernel="bone"))) > 1.3 * noise(again(True))
    assert noise(again(True, replace(USUAL, dose=2.0))) == pytest.approx(noise(again(True)) / math.sqrt(2), rel=0.06)
    for change, reason in (
        ({"kernel": "bone"}, "another kernel"), ({"kvp": 100.0}, "another kvp"), ({"slice_mm": 3.0}, "another slice_mm"),
        ({"dose": 1.5}, "1.5 times their dose"),
    ):  # fmt: skip
        with pytest.raises(ScenarioError, match=f"E118.*{reason}"):
            again(False, replace(USUAL, **change))


def test_a_dose_changed_and_changed_back_is_the_usual_dose() -> None:
    back = replace(USUAL, dose=(USUAL.dose * 0.3 * 1.1) / 0.3 / 1.1 * (1 + 1e-15))
    assert np.array_equal(again(False, back), again(False))


def test_grey_images_come_again_as_they_are_and_unknown_pixel_sizes_are_refused() -> None:
    one = archive(Cylinders(False, "grey"))
    for _ in range(14):
        one.take(condition=Condition(output=0.9, offset=2))
    stock = one.stock()
    assert stock.cohorts["train"].pixels.dtype == np.uint8
    assert sorted(map(bytes, stock.cohorts["train"].pixels)) == sorted(map(bytes, one.own["train"].pixels))
    source, who = Cylinders(False), samples(0, 1)
    with pytest.raises(DataError, match="E336"):
        acquired(source, who, replace(source.read(who), pixel_mm=0.0), Study(), USUAL, draw(0))


# ---------------------------------------------------------------- pictures


def test_the_first_study_after_each_moment_is_pictured_beside_the_one_before(tmp_path: Path) -> None:
    first = archive().next
    one = archive(moments=[(first + 0.1, "ring"), (0.0, "hu_step"), (first + 0.1, "ring"), (math.inf, "cupping")], previews=tmp_path)
    one.take(condition=Condition(offset=30))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct-01-hu_step.png"]
    while one.count < 3:
        one.take(condition=Condition(ring=60))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct-01-hu_step.png", "ct-01-ring-2.png", "ct-01-ring.png"]
    for path in tmp_path.iterdir():
        image = np.asarray(Image.open(path)).astype(int)
        assert image.shape == (SIDE + 28, 3 * SIDE)
        assert path.stat().st_size < 20_000
        before, after, change = np.split(image[28:], 3, 1)
        if "step" in path.name:
            assert np.median(after - before) == pytest.approx(30 / 1500 * 255, abs=1.5)
            assert np.median(change) > 140
        else:
            assert np.median(change) == pytest.approx(128, abs=8)
            assert change.std() > 10


def test_the_archive_needs_no_torch() -> None:
    code = "import sys, p2pftl.imaging.archive, p2pftl.learning.task; print([m for m in ('torch', 'PIL', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
