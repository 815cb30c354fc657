"""Written files are valid CT images that say they are synthetic, in the shape of four vendors."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from p2pftl.device import water
from p2pftl.device.fleet import simulate
from p2pftl.device.protocol import Protocol
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.cohort import Shard
from p2pftl.imaging.condition import Condition
from p2pftl.imaging.dicom_write import VENDORS, Study, ct_slice, kernel_name, uid, write_slice
from p2pftl.imaging.kernels import kernel, vendor
from p2pftl.imaging.phantom import Phantom
from p2pftl.imaging.scanner import Scanner

STUDY = Study("p0007", ("study", 7), "F", 61)
IMAGE = np.random.default_rng(0).normal(0, 300, (64, 64)).round()

dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")


def written(tmp_path, change=lambda data: None, **options):
    maker = options.pop("vendor", "SIEMENS")
    data = ct_slice(IMAGE, Scanner(vendor=maker, kernel="bone", mas=80), STUDY, 3, -120.5, 2.8125, **options)
    change(data)
    path = tmp_path / "slice.dcm"
    data.save_as(path, enforce_file_format=True)
    return path


def complaints(path):
    found = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith(("Error", "Warning"))]


@dciodvfy
@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("maker", VENDORS)
def test_a_dicom_validator_finds_nothing_wrong(tmp_path, maker, odd):
    assert complaints(written(tmp_path, vendor=maker, odd=odd, quality_control=odd)) == []


def anatomy(side):
    """A thorax [n, n] HU with every tissue from air to bone, and beyond what twelve bits hold."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    image = np.where((x / 0.9) ** 2 + (y / 0.65) ** 2 < 1, 40.0, -1000.0)
    image[((abs(x) - 0.4) / 0.3) ** 2 + (y / 0.45) ** 2 < 1] = -850.0
    image[x**2 + (y - 0.4) ** 2 < 0.012] = 5000.0
    return torch.from_numpy(image).float()[None]


@dciodvfy
@pytest.mark.parametrize("side", [128, 256, 512])
@pytest.mark.parametrize("maker", VENDORS)
def test_acquired_slices_are_valid_images_whatever_ails_the_scanner(tmp_path, maker, side):
    ailing = Condition(output=0.6, gain=0.01, offset=30, cupping=12, ring=8)
    for number, kernel_group in enumerate(("soft", "standard", "lung", "bone"), 1):
        scanner = Scanner(vendor=maker, kernel=kernel_group, mas=80, slice_mm=1.5, dose=0.4)
        seen = acquire(anatomy(side), scanner, 360 / side, np.random.default_rng(number), condition=ailing)
        path = tmp_path / f"{number}.dcm"
        write_slice(path, seen.hu[0].numpy(), scanner, STUDY, number, 1.5 * number, 360 / side)
        assert complaints(path) == []


@dciodvfy
@pytest.mark.parametrize("odd", [True, False])
@pytest.mark.parametrize("maker", VENDORS)
def test_slices_of_the_water_phantom_are_valid_images(tmp_path, maker, odd):
    protocol = Protocol()
    image = water.scan(protocol, np.random.default_rng(1))[0]
    scanner, study = replace(protocol.scanner, vendor=maker), Study("WATER", ("water", maker), "O", 0)
    ct_slice(image, scanner, study, 1, 0.0, protocol.pixel_mm, odd=odd, quality_control=True).save_as(
        tmp_path / "water.dcm", enforce_file_format=True
    )
    assert complaints(tmp_path / "water.dcm") == []


@dciodvfy
def test_the_phantoms_of_simulated_scanners_are_valid_images_of_four_vendors(tmp_path):
    simulate(tmp_path, scanners=4, days=2, seed=1, phantoms=1, say=lambda line: None)
    paths = sorted(tmp_path.glob("phantoms/*/*.dcm"))
    assert len({pydicom.dcmread(path).Manufacturer for path in paths}) == 4
    # The validator wants a laterality of everything that is no body part, and warns of an empty one.
    assert [one for path in paths for one in complaints(path) if one.startswith("Error") or "Laterality" not in one] == []


@dciodvfy
def test_the_patients_of_a_run_are_valid_images_of_four_vendors(tmp_path):
    source, scanners = Phantom(patients=4, slices=1, cache=str(tmp_path)), {maker: Scanner(vendor=maker) for maker in VENDORS}
    samples = source.catalogue(scanners, 1).samples
    shards = {maker: Shard((sample,), (), ()) for maker, sample in zip(VENDORS, samples, strict=True)}
    made = source.prepare(shards, scanners, 1, lambda done, of: None)
    paths = [Path(shard.train[0].file) for shard in made.values()]
    assert len({pydicom.dcmread(path).Manufacturer for path in paths}) == 4
    assert [complaints(path) for path in paths] == [[]] * 4


@dciodvfy
def test_the_validator_would_have_noticed(tmp_path):
    def spoil(data):
        del data.KVP
        data.ImageOrientationPatient = [1, 1, 0, 0, 1, 0]

    assert len(complaints(written(tmp_path, spoil))) >= 2


def test_pixels_come_back_as_the_same_hounsfield_units(tmp_path):
    write_slice(tmp_path / "x.dcm", IMAGE, Scanner(), STUDY, 1, 0.0, 2.5)
    data = pydicom.dcmread(tmp_path / "x.dcm")
    assert np.array_equal(data.pixel_array * data.RescaleSlope + data.RescaleIntercept, np.clip(IMAGE, -1024, 3071))


@pytest.mark.parametrize("maker", VENDORS)
def test_every_file_says_that_it_is_synthetic(tmp_path, maker):
    data = pydicom.dcmread(written(tmp_path, vendor=maker))
    assert "synthetic" in data.InstitutionName.lower()
    assert "synthetic" in data.StudyDescription.lower()
    assert data.PatientIdentityRemoved == "YES"
    assert "QualityControlImage" not in data


def test_the_same_image_is_the_same_file_to_the_byte(tmp_path):
    once = written(tmp_path).read_bytes()
    assert written(tmp_path).read_bytes() == once


def test_uids_are_name_based_and_tell_studies_series_and_images_apart():
    a = ct_slice(IMAGE, Scanner(), STUDY, 1, 0.0, 2.5)
    b = ct_slice(IMAGE, Scanner(), STUDY, 2, -5.0, 2.5)
    c = ct_slice(IMAGE, Scanner(), Study("p0008", ("study", 8), "M", 40), 1, 0.0, 2.5)
    assert a.SOPInstanceUID != b.SOPInstanceUID
    assert a.SeriesInstanceUID == b.SeriesInstanceUID != c.SeriesInstanceUID
    assert a.StudyInstanceUID == b.StudyInstanceUID != c.StudyInstanceUID
    assert uid("x", 1) == uid("x", 1)
    assert uid("x", 1).is_valid
    assert int(uid("x")[5:]) >> 76 & 0xF == 5  # an RFC 9562 UUID of version 5


@pytest.mark.parametrize("group", ["soft", "standard", "lung", "bone"])
@pytest.mark.parametrize("maker", VENDORS)
def test_our_reader_knows_every_kernel_that_is_written(maker, group):
    name = kernel_name(Scanner(vendor=maker, kernel=group))
    assert vendor(VENDORS[maker].manufacturer) == maker
    assert kernel(maker, name) == (name, group)


def test_odd_vendors_write_exposure_in_units_of_their_own():
    def exposure(maker, odd):
        return ct_slice(IMAGE, Scanner(vendor=maker, mas=200), STUDY, 1, 0.0, 2.5, odd=odd)

    assert [exposure(maker, False).Exposure for maker in VENDORS] == [200] * 4
    assert exposure("SIEMENS", True).Exposure == 160
    assert exposure("GE", True).Exposure == 10
    assert exposure("GE", True).GeneratorPower == 48000
    assert len(exposure("TOSHIBA", True).FocalSpots) == 2
    assert "RevolutionTime" not in exposure("PHILIPS", True)
    assert exposure("PHILIPS", False).RevolutionTime == 0.5
