"""Every fault has the signature that SCANNER_TWIN.md section 5 gives it, in pixels, averaged over 40 phantoms."""

from dataclasses import astuple, fields, replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from p2pftl.device.charts import Baseline, Charts
from p2pftl.device.protocol import Protocol, Reading
from p2pftl.device.qa import QaPolicy, judge
from p2pftl.device.sampled import sample
from p2pftl.device.water import analyse, expected_sd, find, scan, truth
from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.acquisition import mtf50, nps_mean
from p2pftl.imaging.condition import SOUND, Condition

DAILY = Protocol(size=256)  # the reference of the page
FINE = Protocol()  # the daily phantom: what frequencies and rings need
IMAGES = 40
KNOWN = Baseline(0.0, 5.73, 20)
POLICY = QaPolicy()


def averaged(readings):
    table = np.array([astuple(reading) for reading in readings])
    return Reading(*table.mean(0)), Reading(*table.std(0, ddof=1))


@cache
def measured(condition=SOUND, protocol=DAILY, images=IMAGES):
    """Mean and scatter of what `images` phantoms measure; rings of another pattern in each."""
    if condition.ring:
        seen = [scan(protocol, draw(5, "ring", number), replace(condition, pattern=number))[0] for number in range(images)]
    else:
        seen = list(scan(protocol, draw(5, str(condition), str(protocol)), condition, images=images))
    return averaged([analyse(image, protocol.pixel_mm) for image in seen])


def status(reading):
    return judge(reading, KNOWN, Charts(), POLICY).status


def test_without_fault_water_is_zero_and_noise_is_what_the_model_says():
    mean, scatter = measured()
    assert abs(mean.mean) < 0.3
    assert mean.sd == pytest.approx(expected_sd(DAILY), rel=0.04)
    assert mean.sd == pytest.approx(5.71, rel=0.04)
    assert mean.air == pytest.approx(-1000, abs=0.5)
    assert mean.unif < 0.5
    assert scatter.sd / mean.sd < 0.05
    assert status(mean) == "pass"


def test_an_offset_moves_water_and_air_and_fails():
    mean, _ = measured(Condition(offset=8))
    assert abs(mean.mean - 8) < 0.3
    assert mean.sd == pytest.approx(measured()[0].sd, rel=0.03)
    assert mean.air == pytest.approx(-992, abs=0.3)
    assert status(mean) == "fail"


def test_a_gain_error_moves_water_and_not_air():
    mean, _ = measured(Condition(gain=0.005))
    assert mean.mean == pytest.approx(5, abs=0.3)
    assert mean.air == pytest.approx(-1000, abs=0.3)


def test_cupping_lowers_the_centre_by_its_depth_and_half_of_it_against_the_edge():
    mean, _ = measured(Condition(cupping=6))
    assert mean.mean == pytest.approx(-6, abs=0.3)
    assert 2.6 < mean.unif < 3.4
    assert mean.sd == pytest.approx(measured()[0].sd, rel=0.03)


def test_rings_raise_the_noise_and_the_ring_index_and_leave_the_mean():
    strong, _ = measured(Condition(ring=6), FINE, images=10)
    assert strong.sd > 1.5 * measured()[0].sd
    assert abs(strong.mean) < 2
    assert strong.ring == pytest.approx(6 * 0.76, rel=0.15)
    weak, _ = measured(Condition(ring=2), FINE, images=10)
    assert weak.sd == pytest.approx(7.0, abs=0.6)
    assert weak.ring > POLICY.limits.ring_hu > 3 * measured(protocol=FINE, images=8)[0].ring


def test_a_fifth_less_output_passes_the_limit_of_a_day():
    mean, _ = measured(Condition(output=0.8))
    assert mean.sd / measured()[0].sd == pytest.approx(1.118, abs=0.03)
    assert status(mean) == "pass"


@pytest.mark.parametrize(("condition", "protocol"), [(Condition(output=0.5), DAILY), (SOUND, Protocol(mas=100, size=256))])
def test_half_the_output_or_dose_fails_by_its_noise_alone(condition, protocol):
    mean, _ = measured(condition, protocol)
    assert mean.sd / measured()[0].sd == pytest.approx(1.414, abs=0.04)
    assert abs(mean.mean) < 0.3
    assert status(mean) == "fail"


@pytest.mark.parametrize(("kernel", "ratio", "frequency"), [("bone", 1.95, 0.492), ("soft", 0.65, 0.276), ("standard", 1.0, 0.350)])
def test_a_kernel_shows_in_noise_its_frequency_and_resolution(kernel, ratio, frequency):
    mean, _ = measured(protocol=Protocol(kernel=kernel), images=8)
    assert mean.sd / measured(protocol=FINE, images=8)[0].sd == pytest.approx(ratio, abs=0.04)
    assert mean.nps_f == pytest.approx(frequency, abs=0.015)
    assert mean.nps_f == pytest.approx(nps_mean(kernel), abs=0.015)
    assert mean.mtf50 == pytest.approx(mtf50(kernel), rel=0.06)
    assert mean.mean == pytest.approx(-0.4 if kernel == "soft" else 0, abs=0.3)


@pytest.mark.parametrize(("thick", "sd"), [(1.5, 10.3), (3.0, 7.42)])
def test_thinner_slices_are_noisier_by_the_root(thick, sd):
    mean, _ = measured(protocol=Protocol(slice_mm=thick, size=256))
    assert mean.sd / measured()[0].sd == pytest.approx((5 / thick) ** 0.5, rel=0.03)
    assert mean.sd == pytest.approx(sd, rel=0.04)


@pytest.mark.parametrize(("kvp", "sd"), [(80, 10.6), (100, 7.33), (140, 4.72)])
def test_the_tube_voltage_shows_in_the_noise(kvp, sd):
    protocol = Protocol(kvp=kvp, size=256)
    mean, _ = measured(protocol=protocol)
    assert mean.sd / measured()[0].sd == pytest.approx(expected_sd(protocol) / expected_sd(DAILY), rel=0.04)
    assert mean.sd == pytest.approx(sd, rel=0.04)


@pytest.mark.parametrize("size", [256, 512])
def test_a_phantom_that_lies_off_centre_measures_the_same(size):
    protocol = Protocol(size=size, fov_mm=260)
    image = scan(protocol, draw(6, "moved", size))[0].astype(float)
    moved = ndimage.shift(image, (4, -6), order=0, cval=-1000)
    place = find(moved, protocol.pixel_mm)
    assert (place.row - (size - 1) / 2, place.column - (size - 1) / 2) == pytest.approx((4, -6), abs=0.3)
    here, there = analyse(image, protocol.pixel_mm), analyse(moved, protocol.pixel_mm)
    assert there.mean == pytest.approx(here.mean, abs=0.3)
    assert there.sd == pytest.approx(here.sd, rel=0.05)
    assert there.mtf50 == pytest.approx(here.mtf50, rel=0.05)


def test_a_wall_of_acrylic_does_not_disturb_the_analysis():
    image = truth(512, 0.5, 214.0)[0].double() + 1000
    inner = truth(512, 0.5, 201.0)[0].double() + 1000
    walled = (image * 1.12 - inner * 0.12 - 1000).numpy()
    reading = analyse(walled, 0.5)
    assert reading.mean == pytest.approx(0, abs=1)
    assert reading.unif < 1


@pytest.mark.parametrize("what", ["air", "square", "bone", "flat", "stack", "hole"])
def test_what_is_no_water_phantom_is_refused(what):
    image = np.full((128, 128), -1000.0)
    if what == "square":
        image[30:100, 20:110] = 0
    if what in ("bone", "stack", "hole"):
        y, x = np.ogrid[:128, :128]
        image[(y - 64) ** 2 + (x - 64) ** 2 < 40**2] = 800 if what == "bone" else np.nan if what == "hole" else 0
    if what == "flat":
        image[:] = 0
    with pytest.raises(DataError, match="E338"):
        analyse(image[None] if what == "stack" else image, 2.0)


@pytest.mark.parametrize(
    "condition",
    [SOUND, Condition(offset=3, gain=0.002, cupping=4, output=0.7), Condition(ring=3, pattern=4)],
    ids=["none", "many", "ring"],
)
@pytest.mark.parametrize("kernel", ["soft", "standard", "bone"])
def test_a_drawn_phantom_measures_like_a_scanned_one(kernel, condition):
    protocol = Protocol(kernel=kernel)
    pixels, spread = averaged([analyse(image, protocol.pixel_mm) for image in scan(protocol, draw(7, kernel), condition, images=8)])
    drawn, scatter = averaged([sample(protocol, draw(8, kernel, number), condition) for number in range(200)])
    near = {
        "mean": 0.25,
        "sd": 0.05 * drawn.sd,
        "unif": 0.25,
        "air": 1.5,
        "ring": 0.1 + 0.15 * drawn.ring,
        "mtf50": 0.02,
        "nps_f": 0.04 if condition.ring else 0.02,
    }
    for item in fields(Reading):
        assert getattr(pixels, item.name) == pytest.approx(getattr(drawn, item.name), abs=near[item.name]), item.name
    assert 0.4 < scatter.mean / spread.mean < 2.5  # of eight images
    assert 0.4 < scatter.sd / spread.sd < 2.5


def test_the_true_phantom_holds_no_frequency_beyond_the_grid_and_has_the_right_size():
    image = truth(256, 1.0, 200.0)[0].double()
    assert ((image + 1000).sum() / 1000).item() == pytest.approx(np.pi * 100**2, rel=1e-3)
    assert torch.allclose(image, image.T, atol=0.01)
