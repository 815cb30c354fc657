"""The embedded source: a balanced catalogue, real files per twin's scanner, made once and never half."""

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging import phantom
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.anatomy import render
from p2pftl.imaging.archive import Archive, Arrivals
from p2pftl.imaging.cohort import Shard
from p2pftl.imaging.dicom import Dicom
from p2pftl.imaging.phantom import CLASSES, Phantom
from p2pftl.imaging.scanner import Scanner

SCANNERS = {"ct-02": Scanner("GE", "soft", slice_mm=3), "ct-01": Scanner("SIEMENS", "bone", hu_offset=40, slice_mm=1)}


def dealt(source, seed=7):
    """Patients 0 and 1 to ct-01 (train, validation), 2 to ct-02, the rest to the common test."""
    samples = source.catalogue(SCANNERS, seed).samples

    def of(*patients):
        return tuple(s for s in samples if int(s.patient[1:]) in patients)

    test = of(*range(3, source.patients))
    return {"ct-01": Shard(of(0), of(1), test), "ct-02": Shard(of(2), (), test)}


def prepared(source, seed=7, progress=lambda done, of: None):
    return source.prepare(dealt(source, seed), SCANNERS, seed, progress)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return Phantom(task="consolidation", patients=6, cache=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def shards(source):
    return prepared(source)


@pytest.mark.parametrize("task", CLASSES)
def test_classes_are_balanced_and_a_patient_has_one(task):
    catalogue = Phantom(task=task, patients=41, slices=3).catalogue({}, 1)
    assert catalogue.synthetic
    assert catalogue.unit == "HU"
    assert catalogue.classes == CLASSES[task]
    patients = {sample.patient: sample.label for sample in catalogue.samples}
    assert all(sample.label == patients[sample.patient] for sample in catalogue.samples)
    assert len(catalogue.samples) == 3 * len(patients) == 123
    counts = Counter(patients.values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_the_seed_decides_who_is_ill():
    labels = [[s.label for s in Phantom().catalogue({}, seed).samples] for seed in (1, 1, 2)]
    assert labels[0] == labels[1] != labels[2]


def test_too_few_patients_for_the_classes_are_refused():
    with pytest.raises(DataError, match="E304"):
        Phantom(task="lesion_type", patients=7).catalogue({}, 1)


def test_patients_are_scanned_by_their_own_twin_and_test_patients_by_all_in_turn(shards):
    assert {s.scanner for s in shards["ct-01"].train + shards["ct-01"].validation} == {"SIEMENS B70f"}
    assert {s.scanner for s in shards["ct-02"].train} == {"GE SOFT"}
    turn = {s.patient: s.scanner for s in shards["ct-01"].test}
    assert turn == {"p0003": "SIEMENS B70f", "p0004": "GE SOFT", "p0005": "SIEMENS B70f"}
    assert shards["ct-01"].test == shards["ct-02"].test
    header = pydicom.dcmread(shards["ct-02"].train[0].file, stop_before_pixels=True)
    assert (header.Manufacturer, header.ConvolutionKernel, header.SliceThickness) == ("GE MEDICAL SYSTEMS", "SOFT", 3)


def test_files_are_read_as_hounsfield_units(source, shards):
    samples = shards["ct-01"].test
    cohort = source.read(samples)
    assert cohort.pixels.shape == (6, 128, 128)
    assert cohort.pixels.dtype == np.int16
    assert cohort.labels.tolist() == [sample.label for sample in samples]
    assert cohort.pixels[:, :3].mean() == pytest.approx(-1000, abs=60)  # air; two of three scanned 40 HU too high
    assert 2 < cohort.pixel_mm < 4
    images = cohort.images()
    assert images.min() >= 0
    assert images.max() == 1


def test_slices_of_a_series_lie_in_the_patient_head_first(shards):
    first, second = (pydicom.dcmread(s.file, stop_before_pixels=True) for s in shards["ct-01"].train)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.ImagePositionPatient[2] > second.ImagePositionPatient[2]


def test_calibration_error_reaches_the_files(source, shards):
    with_error, without = source.read(shards["ct-01"].train), source.read(shards["ct-02"].train)
    corner = (slice(None), slice(0, 8), slice(0, 8))
    assert np.median(with_error.pixels[corner]) - np.median(without.pixels[corner]) == pytest.approx(40, abs=8)


def test_what_is_in_the_cache_is_not_made_again(source, shards):
    before = {s.file: pydicom.dcmread(s.file).PixelData for s in shards["ct-01"].test}
    calls = []
    assert prepared(source, progress=lambda done, of: calls.append((done, of))) == shards
    assert calls == [(6, 6)]
    assert all(pydicom.dcmread(file).PixelData == pixels for file, pixels in before.items())


def test_a_lost_series_comes_back_byte_for_byte_and_progress_is_told(tmp_path):
    source = Phantom(patients=4, slices=1, cache=str(tmp_path))
    made = (tmp_path / "phantom").iterdir
    shards = prepared(source)
    kept = {path.name: (path / "0001.dcm").read_bytes() for path in made()}
    lost = min(made())
    lost.rename(lost.parent / "unfinished-killed")  # as a killed run leaves it
    calls = []
    assert prepared(source, progress=lambda done, of: calls.append((done, of))) == shards
    assert calls == [(3, 4), (4, 4)]
    assert {p.name: (p / "0001.dcm").read_bytes() for p in made() if p.name in kept} == kept


def test_two_runs_at_once_make_one_good_cache(tmp_path):
    code = (
        "import sys\nfrom tests.imaging.test_phantom import *\n"
        "source = Phantom(patients=4, slices=1, cache=sys.argv[1])\n"
        "print(source.read(prepared(source)['ct-01'].test).pixels.sum())"
    )
    command, home = [sys.executable, "-c", code, str(tmp_path)], Path(__file__).parents[2]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home) for _ in range(2)]
    first, second = (run.communicate(timeout=120)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert first == second != ""
    assert len(list((tmp_path / "phantom").iterdir())) == 4


def test_the_general_dicom_source_reads_the_phantom_too(source, shards):
    general = Dicom(path=source.cache, label="kernel", size=128)
    catalogue = general.catalogue({}, 1)
    assert len(catalogue.samples) == 12
    assert set(catalogue.classes) == {"SIEMENS B70f", "GE SOFT"}
    own = shards["ct-02"].train[0]
    same = next(s for s in catalogue.samples if s.file == own.file)
    assert same.scanner == own.scanner
    assert np.array_equal(general.read([same]).pixels, source.read([own]).pixels)


def test_the_anatomy_is_what_the_files_show_without_noise_and_calibration_error(source, shards):
    samples = shards["ct-01"].train
    true = source.anatomy(samples, SCANNERS["ct-01"].slice_mm)
    seen = source.read(samples)
    assert (true.hu.dtype, true.hu.shape) == (np.float32, (2, 128, 128))
    assert true.pixel_mm == pytest.approx(seen.pixel_mm, rel=1e-6)
    order, pixel_mm = phantom._order(Path(samples[0].file).parent)
    drawn = render.drawn(order)
    assert np.abs(true.hu - drawn.hu).max() <= 0.5 / phantom.PER_HU + 1e-3
    assert pixel_mm == drawn.pixel_mm
    again = acquire(drawn.hu.astype(np.float64), SCANNERS["ct-01"], pixel_mm, draw(order.seed, "acquisition"))
    assert np.array_equal(again.hu.numpy(), seen.pixels)  # so the anatomy beside them is theirs
    assert np.array_equal(source.anatomy(samples[1:], 1).hu, true.hu[1:])


def test_another_slice_thickness_is_drawn_again_once_and_averages_more(source, shards):
    samples = shards["ct-01"].validation
    thin, thick = (source.anatomy(samples, mm).hu for mm in (1, 5))
    again = source.anatomy(samples, 5).hu
    assert np.array_equal(thick, again)
    assert phantom._drawn_again.cache_info().hits >= 1
    assert np.abs(np.diff(thick[:, 40:90, 30:100])).mean() < 0.98 * np.abs(np.diff(thin[:, 40:90, 30:100])).mean()


def test_the_anatomy_reaches_up_to_bone(source, shards):
    true = source.anatomy(shards["ct-02"].train, 3)
    assert true.hu.min() == -1000
    assert 200 < true.hu.max() < 3000
    assert np.unique(true.hu % 1).tolist() == [k / 8 for k in range(8)]


def test_a_scanner_with_another_kernel_or_dose_shows_the_same_patient_otherwise(source, shards):
    shard, usual = shards["ct-02"], SCANNERS["ct-02"]
    cohorts = {"train": source.read(shard.train), "validation": source.read(())}
    archive = Archive("ct-02", 7, shard, source, cohorts, usual, Arrivals(1, 1.0))
    true = source.anatomy(shard.train, usual.slice_mm).hu

    def noise(scanner):
        archive.take(scanner)
        return float((archive.stock().cohorts["train"].pixels - true)[:, 20:100, 20:100].std())

    plain, bone, faint = (noise(scanner) for scanner in (usual, replace(usual, kernel="bone"), replace(usual, dose=0.1)))
    stored = float((cohorts["train"].pixels - true)[:, 20:100, 20:100].std())
    assert plain == pytest.approx(stored, rel=0.03)
    assert bone > 1.1 * plain
    assert faint > 1.3 * plain


@pytest.mark.parametrize(("file", "code"), [("order.json", "E301"), ("anatomy.i2", "E315")])
def test_a_cache_without_its_anatomy_says_so(tmp_path, source, shards, file, code):
    sample = shards["ct-02"].train[0]
    folder = shutil.copytree(Path(sample.file).parent, tmp_path / "series")
    (folder / file).write_bytes(b"[]")
    with pytest.raises(DataError, match=code):
        source.anatomy([replace(sample, file=str(folder / "0001.dcm"))], 3)


def test_environment_and_home_name_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("P2PFTL_CACHE", str(tmp_path / "from-env"))
    source = Phantom(patients=4, slices=1)
    assert prepared(source)["ct-02"].train[0].file.startswith(str(tmp_path / "from-env"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="E307"):
        prepared(Phantom(patients=4, slices=1, cache=str(tmp_path / "file")))


def test_reading_before_preparing_says_so():
    source = Phantom(patients=4)
    with pytest.raises(DataError, match="E301"):
        source.read(source.catalogue({}, 1).samples[:1])


def test_reading_nothing_gives_an_empty_cohort():
    assert len(Phantom().read([])) == 0


def test_a_damaged_file_is_refused_without_its_values(tmp_path):
    source = Phantom(patients=4, slices=1, cache=str(tmp_path))
    sample = prepared(source)["ct-02"].train[0]
    with open(sample.file, "r+b") as file:
        file.truncate(9000)
    with pytest.raises(DataError, match="E31"):
        source.read([sample])
