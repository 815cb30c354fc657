"""What faults of the hardware do to images, and where the model says that it does not hold."""

import math

import pytest
import torch

from p2pftl.draw import draw
from p2pftl.errors import ScenarioError
from p2pftl.imaging.acquisition import acquire, mtf, mtf50, noise, nps_mean
from p2pftl.imaging.artefacts import cup, rings
from p2pftl.imaging.condition import Condition
from p2pftl.imaging.scanner import Scanner
from p2pftl.imaging.validity import MEANING, flags

SHARP = Scanner(mas=1000, dose=10, slice_mm=10)  # next to no noise


def water(side=64, pixel=4.0, copies=1):
    line = (torch.arange(side) - (side - 1) / 2) * pixel
    radius = torch.hypot(line[:, None], line[None])
    return torch.where(radius < 100, 0.0, -1000.0).expand(copies, side, side).clone(), radius


def difference(condition, key="same"):
    image, radius = water()
    sound, faulty = (acquire(image, SHARP, 4.0, draw(1, key), condition=state).hu.double()[0] for state in (Condition(), condition))
    return faulty - sound, radius


def test_a_scanner_without_fault_gives_the_bytes_it_always_gave():
    image, _ = water(copies=2)
    assert torch.equal(
        acquire(image, Scanner(), 4.0, draw(1, "a")).hu, acquire(image, Scanner(), 4.0, draw(1, "a"), condition=Condition()).hu
    )


def test_offset_moves_air_and_water_gain_moves_water_alone():
    shift, radius = difference(Condition(offset=8))
    assert shift[radius < 80].mean() == pytest.approx(8, abs=0.05)
    assert shift[radius > 115].mean() == pytest.approx(8, abs=0.3)
    shift, radius = difference(Condition(gain=0.005))
    assert shift[radius < 80].mean() == pytest.approx(5, abs=0.1)
    assert shift[radius > 115].mean() == pytest.approx(0, abs=0.1)


def test_cupping_lowers_the_centre_and_ends_with_the_body():
    shift, radius = difference(Condition(cupping=20))
    assert shift[radius < 8].mean() == pytest.approx(-20, abs=0.7)
    assert shift[(radius > 85) & (radius < 92)].mean() == pytest.approx(-20 * (1 - 0.885**2), abs=0.7)
    assert shift[radius > 140].abs().max() < 0.6
    assert cup(65, 4.0, 20.0)[32, 32].item() == pytest.approx(-20)


def test_less_output_is_less_dose():
    image, _ = water()
    half = Scanner(mas=100, dose=0.5, slice_mm=5)
    weak = acquire(image, Scanner(mas=100, slice_mm=5), 4.0, draw(1, "out"), condition=Condition(output=0.5)).hu
    assert torch.equal(weak, acquire(image, half, 4.0, draw(1, "out")).hu)


def test_rings_are_concentric_fall_with_the_root_of_the_radius_and_belong_to_their_scanner():
    spread = {}
    side, pixel = 512, 0.5
    line = (torch.arange(side) - (side - 1) / 2) * pixel
    radius = torch.hypot(line[:, None], line[None])
    for low, high in ((20, 30), (80, 100)):
        ring = (radius > low) & (radius < high)
        spread[low] = torch.stack([rings(side, pixel, 0.568, pattern)[ring].std() for pattern in range(12)]).mean().item()
    assert spread[20] / spread[80] == pytest.approx(math.sqrt(90 / 25), rel=0.15)
    one = rings(side, pixel, 0.568, 1)
    assert torch.allclose(one, one.T)
    assert torch.allclose(one, one.flip(0))
    assert not torch.equal(one, rings(side, pixel, 0.568, 2))
    few = rings(side, pixel, 0.568, 1, 1)
    assert (few.abs() > 1e-6).double().mean() < 0.2


@pytest.mark.parametrize("wrong", [{"output": 0}, {"output": math.nan}, {"ring": -1}, {"gain": math.inf}, {"channels": -1}])
def test_impossible_conditions_are_refused(wrong):
    with pytest.raises(ScenarioError, match="E118"):
        acquire(water()[0], Scanner(), 4.0, draw(1, "x"), condition=Condition(**wrong))


def test_curves_of_the_kernels_are_the_published_ones():
    assert [mtf50(kernel) for kernel in ("soft", "standard", "bone")] == pytest.approx([0.366, 0.507, 0.809], abs=0.002)
    assert [nps_mean(kernel) for kernel in ("soft", "standard", "bone")] == pytest.approx([0.276, 0.350, 0.492], abs=0.003)
    assert mtf("ramlak", torch.tensor([0.0]).numpy())[0] == 1


@pytest.mark.parametrize("sectors", [2, 6])
def test_sectors_share_the_noise_and_sum_to_it(sectors):
    parts = noise((1, 64, 64), "standard", 2.0, draw(2, "parts"), sectors=sectors)
    whole = noise((1, 64, 64), "standard", 2.0, draw(2, "parts"))
    assert torch.allclose(parts.sum(1), whole)


def test_directional_noise_in_a_round_phantom_is_as_large_as_isotropic_noise():
    image, radius = water(128, 2.0, copies=16)
    once, six = (acquire(image, Scanner(mas=50), 2.0, draw(3, "k"), sectors=sectors).hu.double() for sectors in (1, 6))
    assert six[:, radius < 60].std().item() == pytest.approx(once[:, radius < 60].std().item(), rel=0.04)


def test_what_the_model_does_not_hold_for_is_flagged():
    image, _ = water()
    fine, _ = water(256, 1.0)
    assert flags(fine, Scanner(), 1.0) == [frozenset()]
    assert "starved" in flags(fine, Scanner(mas=1, slice_mm=0.6), 1.0)[0]
    assert "thin" in flags(fine, Scanner(slice_mm=0.5), 1.0)[0]
    assert "coarse" in flags(image, Scanner(), 4.0)[0]
    assert "cut" in flags(torch.zeros(1, 64, 64), Scanner(mas=1000), 1.0)[0]
    metal = fine.clone()
    metal[0, 120:130, 120:130] = 3000
    assert flags(metal, Scanner(), 1.0)[0] == {"metal"}
    assert flags(metal, Scanner(kvp=100), 1.0)[0] == {"metal", "contrast"}
    assert flags(metal, Scanner(kvp=100), 1.0)[0] <= MEANING.keys()
