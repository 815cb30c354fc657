from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from p2pftl.draw import draw
from p2pftl.learning.detection.cascade import Detections
from p2pftl.learning.detection.geometry import Truth
from p2pftl.learning.detection.score import IOUS, average_precision, measure

Rows = list[tuple[float, float, float, float]]

A, B = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
FAR = (80.0, 80.0, 90.0, 90.0)


def found(boxes: Rows, scores: list[float], kind: int = 1) -> Detections:
    return Detections(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores), torch.full((len(boxes),), kind))


def truth(boxes: Rows, kind: int = 1) -> Truth:
    return Truth(torch.tensor(boxes).reshape(-1, 4), torch.full((len(boxes),), kind))


def ap50(detections: Detections, one: Truth) -> float:
    return average_precision([detections], [one], 1, [0.5])[0]


def test_perfect_boxes_have_precision_one_at_every_overlap() -> None:
    assert average_precision([found([A, B], [0.9, 0.3])], [truth([A, B])], 1) == [1.0] * 10


def test_a_false_alarm_counts_only_if_it_is_surer() -> None:
    assert ap50(found([A, FAR], [0.9, 0.8]), truth([A])) == 1
    assert ap50(found([A, FAR], [0.7, 0.8]), truth([A])) == pytest.approx(0.5)


def test_what_is_missed_costs_its_recalls() -> None:
    assert ap50(found([A], [0.9]), truth([A, B])) == pytest.approx(51 / 101)  # recalls 0, 0.01, ... 0.50
    assert ap50(found([], []), truth([A])) == 0


def test_each_truth_is_found_once() -> None:
    twice = found([A, A, B], [0.9, 0.8, 0.7])
    assert ap50(twice, truth([A, B])) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_of_seven_tenths_counts_up_to_there() -> None:
    near = found([(0.0, 0.0, 10.0, 7.2)], [0.9])
    assert average_precision([near], [truth([A])], 1) == [1.0] * 5 + [0.0] * 5
    score = measure([near], [truth([A])], 2)
    assert (score["map"], score["map_50"], score["map_70"], score["map_75"]) == (0.5, 1.0, 1.0, 0.0)
    assert score["map_strict"] == pytest.approx(1 / 6, abs=1e-6)


def test_nothing_to_find_leaves_precision_undefined_and_counts_images() -> None:
    score = measure([found([A], [0.9]), found([], [])], [truth([]), truth([])], 2)
    assert (score["map"], score["recall"]) == (None, None)
    assert (score["accuracy"], score["confusion"]) == (0.5, [[1, 1], [0, 0]])


def test_kinds_count_alike_and_absent_ones_not() -> None:
    score = measure([found([A], [0.9]), found([B], [0.9], 2)], [truth([A]), truth([A], 2)], 4)
    assert score["map"] == 0.5
    assert score["confusion"] == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.fixture
def torchmetrics_map(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Torchmetrics' own computation in torch, which asks for pycocotools although boxes do not need it."""
    from torchmetrics.detection import _mean_ap  # a second and a half of imports

    for name in ("pycocotools", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(_mean_ap, "_PYCOCOTOOLS_AVAILABLE", True)
    return _mean_ap.MeanAveragePrecision


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_torchmetrics_computes(seed: int, torchmetrics_map: Any) -> None:
    rng = draw(seed, "boxes")
    there, guessed = [], []
    for _ in range(6):
        k = int(rng.integers(0, 5))
        corner = rng.uniform(0, 80, (k, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(10, 30, (k, 2))), 1)
        kinds = rng.integers(1, 3, k)
        there.append(Truth(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(kinds)))
        loose = np.repeat(boxes, 2, 0) + rng.normal(0, 2, (2 * k, 4))
        extra = rng.uniform(0, 40, (2, 2))
        moved = np.concatenate((loose, np.concatenate((extra, extra + 15), 1)))
        types = np.concatenate((np.repeat(kinds, 2), [1, 2]))
        guessed.append(Detections(torch.tensor(moved, dtype=torch.float32), torch.tensor(rng.random(len(moved))), torch.tensor(types)))
    oracle = torchmetrics_map(iou_thresholds=list(IOUS))
    oracle.update(
        [{"boxes": one.boxes, "scores": one.scores, "labels": one.kinds} for one in guessed],
        [{"boxes": one.boxes, "labels": one.kinds} for one in there],
    )
    expected, mine = oracle.compute(), measure(guessed, there, 3)
    assert mine["map"] == pytest.approx(float(expected["map"]), abs=1e-5)
    assert mine["map_50"] == pytest.approx(float(expected["map_50"]), abs=1e-5)
    assert mine["map_75"] == pytest.approx(float(expected["map_75"]), abs=1e-5)
