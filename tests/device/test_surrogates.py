"""Air, fat and aorta of patients: found in a drawn chest, silent where there is none, moved by what moves HU."""

import numpy as np
import pytest
from scipy import ndimage

from p2pftl.device.surrogates import Normal, Surrogates, judge, measure, median
from p2pftl.draw import draw

SIDE, PIXEL = 256, 1.4


def chest(key="chest", offset=0.0, gain=0.0, contrast=0.0):
    """A chest with a rim of fat, muscle, lungs, heart, spine and a descending aorta in fat, HU with noise."""
    line = (np.arange(SIDE) - (SIDE - 1) / 2) * PIXEL
    x, y = line[None], line[:, None]
    image = np.full((SIDE, SIDE), -1000.0)

    def put(cx, cy, rx, ry, hu):
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = hu

    put(0, 0, 165, 115, -100.0)
    put(0, 0, 148, 98, 55.0)
    put(-70, -5, 55, 75, -850.0)
    put(70, -5, 55, 75, -850.0)
    put(10, -25, 45, 38, 45.0)
    put(0, 70, 22, 20, 250.0)
    put(28, 45, 20, 20, -100.0)
    put(28, 45, 13, 13, 45.0 + contrast)
    image = ndimage.gaussian_filter(image, 0.8) + 12 * draw(1, key).standard_normal((SIDE, SIDE))
    return (image + 1000) * (1 + gain) - 1000 + offset


def test_surrogates_of_a_chest_are_those_of_its_tissues():
    found = measure(chest(), PIXEL)
    assert found.air == pytest.approx(-1000, abs=3)
    assert found.fat == pytest.approx(-100, abs=5)
    assert found.aorta == pytest.approx(45, abs=6)


def test_a_drift_moves_them_all_and_a_gain_leaves_air():
    shifted = measure(chest(offset=12.0), PIXEL)
    assert shifted.air == pytest.approx(-988, abs=3)
    assert shifted.fat == pytest.approx(-88, abs=5)
    assert shifted.aorta == pytest.approx(57, abs=6)
    stretched = measure(chest(gain=0.02), PIXEL)
    assert stretched.air == pytest.approx(-1000, abs=3)
    assert stretched.fat == pytest.approx(-82, abs=5)


def test_contrast_medium_forbids_the_aorta():
    assert measure(chest(contrast=250.0), PIXEL).aorta is None


@pytest.mark.parametrize("image", [np.full((64, 64), -1000.0), np.zeros((64, 64)), np.full((64, 64), -1024.0)], ids=["a", "w", "p"])
def test_nothing_is_guessed_where_there_is_no_patient(image):
    found = measure(image, 4.0)
    assert (found.fat, found.aorta) == (None, None)
    assert found.air is None or found.air == pytest.approx(-1000, abs=30)


def test_surrogates_warn_and_never_more():
    usual = [measure(chest(key), PIXEL) for key in ("a", "b", "c")]
    assert judge(usual) == ("pass", ())
    status, reasons = judge([measure(chest(key, offset=30.0), PIXEL) for key in ("a", "b", "c")])
    assert status == "warn"
    assert len(reasons) == 3
    assert judge([]) == ("pass", ())
    assert judge([Surrogates(-900.0, None, None)], Normal(air_off=200.0)) == ("pass", ())
    assert median(usual, "fat") == pytest.approx(-100, abs=5)
    assert median([Surrogates(None, None, None)], "fat") is None
