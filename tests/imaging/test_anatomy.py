"""The phantom is one body in three dimensions, whatever slice is asked for, in whatever order and size."""

import numpy as np
import pytest

from p2pftl.imaging.anatomy.lesions import Nodule
from p2pftl.imaging.anatomy.outlines import cavity, lungs
from p2pftl.imaging.anatomy.patient import Patient
from p2pftl.imaging.anatomy.shapes import axis
from p2pftl.imaging.anatomy.texture import GRAIN, Texture
from p2pftl.imaging.anatomy.vessels import section

NONE = np.zeros((0, 3), np.float32)


@pytest.fixture(scope="module")
def healthy():
    return Patient(11)


def middle(patient, u=0.5):
    return u * patient.build.lung_mm


def with_ball(patient, diameter, place=(-65.0, 10.0)):
    """The same patient with one smooth solid ball in the middle of the right lung."""
    ball = Nodule((*place, middle(patient)), diameter, "solid", np.ones((1, 3), np.float32), np.zeros(1, np.float32), NONE)
    bearer = Patient(patient.seed, "normal", 256)
    bearer.lesions = (ball,)
    return bearer


def test_organs_have_their_densities(healthy):
    build, z = healthy.build, middle(healthy, 0.36)
    hu, lung, _ = healthy.slice(z, 1.5)
    line = axis(healthy.size, healthy.fov_mm)
    x, y = np.meshgrid(line, line)

    def at(cx, cy, radius):
        return hu[np.hypot(x - cx, y - cy) < radius].mean()

    assert hu[:4].max() < -990  # air around
    assert -900 < np.median(hu[lung]) < -780
    assert at(-1 * build.scale, 14 * build.scale, 4) < -900  # trachea
    assert 100 < at(0, build.spine_y, 9) < 450  # vertebra
    aorta = at(24 * build.scale, build.spine_y - 22 * build.scale, 6)
    assert abs(aorta - build.blood_hu) < 20
    assert lung.mean() > 0.1


def test_a_slice_does_not_depend_on_what_was_asked_before():
    for pathology in ("nodule", "mixed"):
        first, second = Patient(5, pathology), Patient(5, pathology)
        z = first.levels(1)[0]
        second.slice(z - 40, 3)
        second.slice(z + 7, 1)
        for one, other in zip(first.slice(z, 1.5), second.slice(z, 1.5), strict=True):
            assert np.array_equal(one, other)


def test_neighbouring_slices_show_nearly_the_same_lung(healthy):
    z = middle(healthy)
    (here, lung, _), (there, other, _), (far, *_) = (healthy.slice(z + step, 1) for step in (0, 1, 25))
    both = lung & other
    assert np.corrcoef(here[both], there[both])[0, 1] > 0.84  # the prototype's texture
    assert abs(np.corrcoef(here[both], far[both])[0, 1]) < 0.5


def test_texture_is_continuous_and_the_same_in_every_direction():
    grain = Texture(GRAIN, 3)
    plane = grain.plane(10.0, 400, 60.0)
    close = grain.plane(10.3, 400, 60.0)
    assert np.corrcoef(plane.ravel(), close.ravel())[0, 1] > 0.95
    line = np.linspace(-20, 20, 200).astype(np.float32)
    sampled = grain.at(line, np.zeros_like(line), 10.0)
    row = np.interp(line, axis(400, 60.0), plane[199:201].mean(0))
    assert np.corrcoef(sampled, row)[0, 1] > 0.99


@pytest.mark.parametrize("pathology", ["ggo", "consolidation", "mixed", "nodule"])
def test_the_diseased_show_their_lesion_where_they_are_looked_at(pathology):
    for seed in range(4):
        patient = Patient(seed, pathology)
        for z in patient.levels(2):
            _, lung, lesion = patient.slice(z, 1.5)
            assert lesion.sum() >= 15
            assert not (lesion & ~lung).any()


@pytest.mark.parametrize("pathology", ["ggo", "nodule"])
def test_most_patients_have_levels_without_disease(pathology):
    free = 0
    for seed in range(6):
        patient = Patient(seed, pathology)
        levels = np.linspace(0.12, 0.95, 8) * patient.build.lung_mm
        free += any(not patient.slice(z, 1)[2].any() for z in levels)
    assert free >= 5


def test_disease_changes_nothing_outside_the_lungs():
    well, ill = Patient(9), Patient(9, "consolidation")
    z = ill.levels(1)[0]
    (before, lung, _), (after, *_) = well.slice(z, 1), ill.slice(z, 1)
    outside = ~lung
    assert np.abs(before - after)[outside].max() < 500  # only the half-covered rim
    inner = outside.copy()
    for shift in (-2, -1, 1, 2):
        inner &= np.roll(outside, shift, 0) & np.roll(outside, shift, 1)
    assert np.array_equal(before[inner], after[inner])


def test_sections_of_a_ball_follow_its_chord(healthy):
    patient = with_ball(healthy, 24)
    ball = patient.lesions[0]
    for off in (0.0, 6.0, 10.0):
        area = patient.slice(ball.centre[2] + off, 1)[2].sum() * patient.pixel_mm**2
        assert area == pytest.approx(np.pi * (12**2 - off**2), rel=0.15)
    assert not patient.slice(ball.centre[2] + 14, 1)[2].any()


def test_thick_slices_wash_out_small_nodules(healthy):
    small, none = with_ball(healthy, 6), with_ball(healthy, 6)
    none.lesions = ()
    z = small.lesions[0].centre[2]

    def contrast(thickness, off):
        return (small.slice(z + off, thickness)[0] - none.slice(z + off, thickness)[0]).max()

    thin = max(contrast(1, off) for off in (-0.5, 0, 0.5))
    thick = np.mean([contrast(5, off) for off in (-2, -1, 0, 1, 2)])
    assert thin > 800
    assert thick < 0.8 * thin


def test_the_same_body_is_seen_at_both_sizes():
    small, large = Patient(6, "ggo", 128), Patient(6, "ggo", 256)
    z = small.levels(1)[0]
    coarse, fine = small.slice(z, 1.5)[0], large.slice(z, 1.5)[0].reshape(128, 2, 128, 2).mean((1, 3))
    assert small.fov_mm == large.fov_mm
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.99


def test_vessels_reach_the_outer_third_of_the_lung(healthy):
    build, z, n = healthy.build, middle(healthy), 256
    vessels = section(healthy.trees.vessels, z, 3.0, n, healthy.fov_mm / n)
    line = axis(n, healthy.fov_mm)
    x, y = (plane.astype(np.float32) for plane in np.meshgrid(line, line))
    inside, depth = lungs(build, x, y, 0.5) < -3, -cavity(build, x, y, 0.5)
    outer, inner = inside & (depth < 22), inside & (depth > 44)
    assert vessels[outer].mean() > 0.15 * vessels[inner].mean()
    assert (vessels[outer] > 0.2).mean() > 0.005


def test_patients_differ_and_are_the_same_again():
    one, again, other = Patient(21), Patient(21), Patient(22)
    assert one.build == again.build
    assert np.array_equal(one.trees.vessels.centre, again.trees.vessels.centre)
    assert one.build != other.build


def test_the_healthy_are_cut_where_a_lesion_might_have_been():
    levels = [Patient(seed).levels(2) for seed in range(12)]
    assert all(len(pair) == 2 and pair[0] < pair[1] for pair in levels)
    assert np.std([pair[0] for pair in levels]) > 20
