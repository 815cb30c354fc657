from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from p2pftl.errors import DataError
from p2pftl.learning.detection.geometry import Truth
from p2pftl.learning.detection.model import Detector
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.detection.task import Detection, mirror, moved_by
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged, Scene, Task
from p2pftl.learning.transfer import FedProx, FedRep, Full, GradualUnfreezing, Head, Transfer
from tests.learning.detection.squares import squares

SPEC = DetectorSpec(channels=16, hidden=32, proposals=64, sampled=32)
FAST = Recipe(optimizer="adam", lr=1e-3, batch=4, epochs=1)


@pytest.fixture(scope="module")
def model() -> Detector:
    return Detector(SPEC, 2, seed=1)


@pytest.fixture(scope="module")
def start(model: Detector) -> np.ndarray:
    return model.take()


def task(model: Detector, start: np.ndarray, recipe: Recipe = FAST, transfer: Transfer | None = None, n: int = 8) -> Detection:
    cohorts = {"train": squares(n), "validation": squares(4, seed=1), "test": squares(0)}
    return Detection("ct-01", model, start, cohorts, recipe, transfer or Full(), 7)


def test_it_is_a_task(model: Detector, start: np.ndarray) -> None:
    one: Task = task(model, start)
    assert one.samples == 8
    assert one.layout is model.layout
    assert one.initial() is start


def test_the_same_fit_gives_the_same_bytes_and_leaves_torchs_random_state_alone(model: Detector, start: np.ndarray) -> None:
    moving = task(model, start, replace(FAST, flip=True, shift=4))
    state = torch.random.get_rng_state()
    first = moving.fit(start, 3, Scene(), None)
    model.load(start * 2)  # another twin of the process was here
    torch.rand(3)
    torch.random.set_rng_state(state)
    again = moving.fit(start, 3, Scene(), None)
    assert first.vector.tobytes() == again.vector.tobytes()
    assert (first.loss, first.samples, first.steps, first.trained) == (again.loss, 8, 2, 1.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert moving.fit(start, 4, Scene(), None).vector.tobytes() != first.vector.tobytes()


def test_a_frozen_body_stays_as_it_was(model: Detector, start: np.ndarray) -> None:
    learnt = task(model, start, transfer=Head()).fit(start, 0, Scene(), None)
    head = model.layout.ranges(model.layout.of_groups(model.layout.depth - 1))[0][0]
    assert np.array_equal(learnt.vector[:head], start[:head])
    assert not np.array_equal(learnt.vector[head:], start[head:])
    assert learnt.trained == pytest.approx(1 - head / model.layout.size)


def test_an_adapting_twin_trains_norms_and_head_and_shares_nothing(model: Detector, start: np.ndarray) -> None:
    one, scene = task(model, start), Scene(version=1, adapt=True)
    assert one.work(0, scene).shared == ()
    before, after = (model.layout.tensors(vector) for vector in (start, one.fit(start, 0, scene, None).vector))
    kinds = dict(zip(model.layout.names, model.layout.kinds, strict=True))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert any(kinds[name] == "norm" for name in moved)
    assert all(kinds[name] == "norm" or name.startswith("cascade.") for name in moved)


def test_a_scene_stands_in_for_the_own_images(model: Detector, start: np.ndarray) -> None:
    one = task(model, start)
    scene = Scene(version=1, cohorts={"train": squares(4, seed=5)})
    assert (one.work(0, Scene()).held, one.work(0, scene).held, one.work(0, scene).samples) == (8, 4, 4)
    assert one.fit(start, 0, scene, None).samples == 4
    with pytest.raises(DataError) as refused:
        one.fit(start, 0, Scene(version=2, cohorts={"train": squares(0)}), None)
    assert refused.value.code == "E304"


def test_steps_and_phases_are_counted(model: Detector, start: np.ndarray) -> None:
    three = task(model, start, replace(FAST, steps=3))
    assert three.work(0, Scene()).samples == three.fit(start, 0, Scene(), None).samples == 12
    both = task(model, start, transfer=FedRep())
    assert both.work(0, Scene()).samples == both.fit(start, 0, Scene(), None).samples == 16


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_remembered_moments_belong_to_their_entries(model: Detector, start: np.ndarray, optimizer: str) -> None:
    recipe = Recipe(optimizer="adam" if optimizer == "adam" else "sgd", lr=1e-3, batch=8, reset_optimizer=False)
    one = task(model, start, recipe, GradualUnfreezing(every=1))
    first = one.fit(start, 0, Scene(), None)
    second = one.fit(first.vector, 1, Scene(), first.memory)
    assert first.memory is not None
    assert second.memory is not None
    head = model.layout.ranges(model.layout.of_groups(model.layout.depth - 1))[0][0]
    for name in {"exp_avg", "momentum_buffer"} & first.memory.keys():
        assert not first.memory[name][:head].any()
        assert second.memory[name][:head].any()
    if optimizer == "adam":
        ages = dict(zip(model.layout.names, second.memory["step"].tolist(), strict=True))
        groups = dict(zip(model.layout.names, model.layout.groups, strict=True))
        last = model.layout.depth - 1
        assert all(age == {last: 2, last - 1: 1}.get(groups[name], 0) for name, age in ages.items())


def test_the_loss_of_the_policy_counts(model: Detector, start: np.ndarray) -> None:
    free, held = (task(model, start, transfer=FedProx(mu)).fit(start, 0, Scene(), None).vector for mu in (0.0, 100.0))
    assert np.abs(held - start).sum() < np.abs(free - start).sum()
    assert np.array_equal(free, task(model, start).fit(start, 0, Scene(), None).vector)


def test_a_fit_that_diverges_says_so(model: Detector, start: np.ndarray) -> None:
    wild = task(model, start, Recipe(optimizer="sgd", lr=100.0, batch=1, epochs=2))
    with pytest.raises(FitDiverged) as refused:
        wild.fit(start * np.float32(1e30), 0, Scene(), None)
    assert refused.value.code == "E340"


def test_a_split_without_images_has_no_score(model: Detector, start: np.ndarray) -> None:
    one = task(model, start)
    assert one.score(start, "test", Scene(), 0) == {}
    assert one.score(start, "validation", Scene(), 0).keys() >= {"map", "map_50", "accuracy"}


def test_boxes_move_with_their_image() -> None:
    image = torch.zeros(1, 8, 8)
    image[:, 2:4, 1:3] = 1
    there = Truth(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([1]))
    flipped, mirrored = mirror(image, there)
    assert mirrored.boxes.tolist() == [[5, 2, 7, 4]]
    assert flipped[:, 2:4, 5:7].sum() == 4
    moved, shifted = moved_by(image, there, 3, -1)
    assert shifted.boxes.tolist() == [[0, 5, 2, 7]]
    assert moved[:, 5:7, 0:2].sum() == 4
    assert moved_by(image, there, 0, -2)[1].boxes.tolist() == [[0, 2, 1, 4]]
    assert len(moved_by(image, there, 5, -2)[1].boxes) == 0


def test_squares_are_found_after_a_few_steps(model: Detector, start: np.ndarray) -> None:
    cohorts = {"train": squares(24), "validation": squares(12, seed=1)}
    recipe = Recipe(optimizer="adam", lr=3e-3, batch=4, epochs=12, flip=True)
    one = Detection("ct-01", model, start, cohorts, recipe, Full(), 7)
    learnt = one.fit(start, 0, Scene(), None)
    before, after = one.score(start, "validation", Scene(), 0), one.score(learnt.vector, "validation", Scene(), 0)
    assert after["map_50"] > 0.5 > before["map_50"]
