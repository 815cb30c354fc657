"""Encoders become one, without a label."""

from __future__ import annotations

import numpy as np
import pytest

from p2pftl.draw import draw
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.universal.fusion import distilled, fuse, normalised, universal
from p2pftl.learning.universal.model import Universal, with_encoder
from p2pftl.learning.universal.spec import EncoderSpec, Fusion, Masking
from p2pftl.params import Vector
from tests.learning.universal.shapes import mislabelled, stripes

prepare_torch()
MODEL = Universal(EncoderSpec(width=8), 0, 1)
START = MODEL.take()
IMAGES = [stripes(24).images(), stripes(8, size=48, seed=4).images()]
FUSION, MASKING = Fusion(steps=12, batch=8), Masking()


def encoders(n: int, spread: float = 0.02) -> list[Vector]:
    noise = [draw(k, "noise").standard_normal(MODEL.encoder, np.float32) * np.float32(spread) for k in range(n)]
    return [START[: MODEL.encoder] + one for one in noise]


def test_the_mean_of_encoders_is_their_mean() -> None:
    some = encoders(3)
    assert np.allclose(fuse(some, [1, 1, 2]), (some[0] + some[1] + 2 * some[2]) / 4, atol=1e-6)
    assert np.array_equal(fuse(some, [1, 1, 2]), fuse(some, [0.25, 0.25, 0.5]))
    assert np.array_equal(fuse(some[:1], [3]), some[0])


@pytest.mark.parametrize("weights", [[], [1.0], [0.0, 0.0], [2.0, -1.0]])
def test_weights_that_make_no_mean_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        fuse(encoders(2), weights)


def test_fusion_is_a_function_of_encoders_and_images_alone() -> None:
    poisoned = [mislabelled(stripes(24)).images(), mislabelled(stripes(8, size=48, seed=4)).images()]
    found = [universal(MODEL, START, encoders(2), [1, 1], images, FUSION, MASKING, 3, 0) for images in (IMAGES, poisoned)]
    assert found[0].tobytes() == found[1].tobytes()
    assert universal(MODEL, START, encoders(2), [1, 1], IMAGES, FUSION, MASKING, 3, 1).tobytes() != found[0].tobytes()


@pytest.mark.parametrize("wrong", [[], [stripes(4)], [stripes(4).images(), stripes(4).labels], [stripes(4).pixels]])
def test_what_is_more_than_images_does_not_get_in(wrong: list[object]) -> None:
    with pytest.raises(TypeError, match="no labels"):
        universal(MODEL, START, encoders(2), [1, 1], wrong, FUSION, MASKING, 3, 0)  # type: ignore[arg-type]


def test_averaging_needs_no_images_and_keeps_the_decoder() -> None:
    found = universal(MODEL, START, encoders(2), [1, 1], [], Fusion(mode="average"), MASKING, 3, 0)
    assert np.array_equal(found, with_encoder(START, fuse(encoders(2), [1, 1])))


def test_a_student_comes_to_say_what_its_teacher_says() -> None:
    teacher = encoders(1, spread=0.05)
    images = stripes(16, seed=9).images()
    plain = Fusion(steps=80, batch=8, lr=2e-3, masked=0)
    student = distilled(MODEL, START, teacher, [1], [stripes(24).images()], plain, MASKING, 3, 0)
    before, after = (_distance(vector, teacher[0], images) for vector in (START, student))
    assert after < 0.6 * before


def test_a_student_that_agrees_stays_where_it_is() -> None:
    same = [START[: MODEL.encoder]] * 2
    student = distilled(MODEL, START, same, [1, 1], IMAGES, Fusion(steps=4, masked=0), MASKING, 3, 0)
    assert np.array_equal(student[MODEL.encoder :], START[MODEL.encoder :])
    assert _distance(student, START[: MODEL.encoder], IMAGES[0]) < 1e-2


def _distance(vector: Vector, teacher: Vector, images: np.ndarray) -> float:  # type: ignore[type-arg]
    import torch

    said = []
    for one in (vector, with_encoder(vector, teacher)):
        MODEL.load(one)
        with torch.no_grad():
            said.append(normalised(MODEL.features(torch.from_numpy(images))))
    return float((said[0] - said[1]).square().mean())
