from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from p2pftl.learning.detection.geometry import STRETCH, Truth, assigned, decoded, encoded, overlaps, sample
from p2pftl.learning.detection.spec import DEVIATIONS

deviations = pytest.mark.parametrize("deviation", DEVIATIONS)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def truth(*rows: tuple[float, float, float, float]) -> Truth:
    return Truth(boxes(*rows), torch.arange(1, len(rows) + 1))


side = st.tuples(st.floats(0, 200), st.floats(0, 200), st.floats(2, 56), st.floats(2, 56))


@given(st.lists(st.tuples(side, side), min_size=1, max_size=6))
def test_decoding_undoes_encoding_at_every_stage(pairs: list[tuple[tuple[float, ...], tuple[float, ...]]]) -> None:
    made = [boxes(*((x, y, x + w, y + h) for x, y, w, h in column)) for column in zip(*pairs, strict=True)]
    for deviation in DEVIATIONS:
        back = decoded(encoded(made[1], made[0], deviation), made[0], deviation, 256)
        assert torch.allclose(back, made[1], atol=2e-4)


@deviations
def test_deltas_are_in_units_of_the_stage(deviation: tuple[float, float, float, float]) -> None:
    found = encoded(boxes((10, 20, 40, 80)), boxes((10, 10, 30, 50)), deviation)
    plain = torch.tensor([[(25 - 20) / 20, (50 - 30) / 40, math.log(30 / 20), math.log(60 / 40)]])
    assert torch.allclose(found, plain / torch.tensor(deviation))


def test_no_box_grows_beyond_all_measure_or_leaves_the_image() -> None:
    wild = decoded(torch.tensor([[0.0, 0, 1e9, 1e9], [1e4, 0, 0, 0]]), boxes((100, 100, 102, 102), (1, 1, 3, 3)), DEVIATIONS[0], 256)
    assert wild[0].tolist() == pytest.approx([101 - math.exp(STRETCH), 101 - math.exp(STRETCH), 163.5, 163.5])
    assert wild[1].tolist() == [256, 1, 256, 3]


def test_overlap_is_what_one_counts_by_hand() -> None:
    found = overlaps(boxes((0, 0, 10, 10), (20, 20, 30, 30)), boxes((0, 0, 10, 10), (5, 0, 15, 10), (30, 30, 31, 31)))
    assert torch.allclose(found, torch.tensor([[1, 50 / 150, 0], [0, 0, 0]]))


@pytest.mark.parametrize(("iou", "kinds"), [(0.5, [1, 1, 2, 0]), (0.6, [1, 1, 0, 0]), (0.7, [1, 0, 0, 0])])
def test_a_proposal_counts_from_the_overlap_of_its_stage(iou: float, kinds: list[int]) -> None:
    there = truth((0, 0, 10, 10), (50, 50, 60, 60))
    proposed = boxes((0, 0, 10, 8), (0, 0, 10, 6.5), (50, 50, 60, 55.1), (0, 50, 10, 60))  # overlap 0.8, 0.65, 0.51, 0
    row, found = assigned(proposed, there, iou)
    assert found.tolist() == kinds
    assert row[:3].tolist() == [0, 0, 1]


def test_without_truth_everything_is_background() -> None:
    row, kinds = assigned(boxes((0, 0, 5, 5)), truth(), 0.5)
    assert (row.tolist(), kinds.tolist()) == ([0], [0])
    chosen = sample(boxes((0, 0, 5, 5)), truth(), 0.5, 8)
    assert chosen.kinds.tolist() == [0]


def test_a_sample_holds_the_truth_and_at_most_a_quarter_of_findings() -> None:
    one = truth((100, 100, 120, 120))
    near = boxes(*((100 + i / 10, 100, 120, 120) for i in range(30)))
    far = boxes(*((i, 0, i + 20, 20) for i in range(30)))
    torch.manual_seed(3)
    chosen = sample(torch.cat((near, far)), one, 0.5, 16)
    assert (chosen.kinds > 0).sum() == 4
    assert len(chosen.boxes) == 16
    assert torch.equal(chosen.targets[chosen.kinds > 0], one.boxes.expand(4, 4))
    alone = sample(far, one, 0.7, 16)
    assert alone.given.sum() == 1
    assert alone.kinds[alone.given].tolist() == [1]
