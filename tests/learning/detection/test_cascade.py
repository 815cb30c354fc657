from __future__ import annotations

import pytest
import torch
from torch import Tensor

from p2pftl.learning.detection.cascade import Cascade, passed_on, stage_losses
from p2pftl.learning.detection.geometry import Sampled, Truth, decoded, encoded, overlaps, sample
from p2pftl.learning.detection.spec import DEVIATIONS, DetectorSpec

SPEC = DetectorSpec(channels=8, hidden=16, proposals=64)
SIZE = 64


def cascade(spec: DetectorSpec = SPEC, classes: int = 3) -> Cascade:
    torch.manual_seed(5)
    return Cascade(spec, classes, ["0", "1"])


def maps() -> dict[str, Tensor]:
    torch.manual_seed(6)
    return {"0": torch.randn(2, 8, 16, 16), "1": torch.randn(2, 8, 8, 8)}


def proposals() -> list[Tensor]:
    torch.manual_seed(7)
    corners = torch.rand(2, 40, 2) * 40
    return list(torch.cat((corners, corners + 4 + 20 * torch.rand(2, 40, 2)), 2))


TRUTH = [
    Truth(torch.tensor([[10.0, 10, 30, 30], [40, 30, 60, 50]]), torch.tensor([1, 2])),
    Truth(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)),
]


def test_the_stages_are_those_of_the_paper() -> None:
    assert [(stage.iou, stage.deviation, stage.weight) for stage in DetectorSpec().cascade] == [
        (0.5, (0.1, 0.1, 0.2, 0.2), 1.0), (0.6, (0.05, 0.05, 0.1, 0.1), 0.5), (0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
    ]  # fmt: skip
    assert [stage.iou for stage in DetectorSpec(stages=1, iou=0.7).cascade] == [0.7]


def test_losses_are_those_counted_by_hand() -> None:
    stage = SPEC.cascade[1]
    box, target = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[1.0, 0, 11, 10]])
    chosen = [Sampled(box.repeat(4, 1), target.repeat(4, 1), torch.tensor([1, 0, 0, 0]), torch.zeros(4, dtype=torch.bool))]
    logits, deltas = torch.zeros(4, 3), torch.zeros(4, 4)
    kind, place = stage_losses(logits, deltas, chosen, stage)
    assert float(kind) == pytest.approx(1.0986123)  # ln 3
    assert float(place) == pytest.approx((0.1 / 0.05 - 0.5) / 4)  # SmoothL1 of 2, of one region in four
    assert float(stage_losses(logits, encoded(target, box, stage.deviation).repeat(4, 1), chosen, stage)[1]) == 0


def test_the_next_stage_gets_the_improved_boxes_without_the_truth_and_the_empty_ones() -> None:
    stage = SPEC.cascade[0]
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 64, 64]])
    chosen = [Sampled(boxes, boxes, torch.zeros(3, dtype=torch.int64), torch.tensor([False, True, False]))]
    deltas = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [100, 0, 0, 0]])  # the last is moved out of the image
    assert passed_on(deltas, chosen, stage, SIZE)[0].tolist() == [[1, 0, 11, 10]]


def test_what_the_last_stage_learns_as_a_finding_overlaps_by_seven_tenths() -> None:
    stage = SPEC.cascade[2]
    near = TRUTH[0].boxes[0] + torch.randn(200, 4) * 2
    chosen = sample(near, TRUTH[0], stage.iou, 64)
    found = chosen.kinds > 0
    assert found.sum() > 3
    assert bool((torch.diagonal(overlaps(chosen.boxes[found], chosen.targets[found])) >= 0.7).all())


def test_every_stage_has_a_gradient_and_an_empty_image_a_finite_loss() -> None:
    heads = cascade()
    features = {name: tensor.requires_grad_() for name, tensor in maps().items()}
    losses = heads.losses(features, proposals(), TRUTH, SIZE)
    assert sorted(losses) == ["box1", "box2", "box3", "kind1", "kind2", "kind3"]
    torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    for head in heads.heads:
        assert all(float(parameter.grad.abs().sum()) > 0 for parameter in head.parameters() if parameter.grad is not None)
    fine = features["0"].grad  # where regions of up to 42 pixels are pooled from
    assert fine is not None
    assert float(fine.abs().sum()) > 0
    empty = cascade().losses({name: tensor[:1] for name, tensor in maps().items()}, proposals()[:1], TRUTH[1:], SIZE)
    assert all(bool(torch.isfinite(loss)) for loss in empty.values())
    assert float(empty["box1"].detach()) == 0


def test_chances_are_the_mean_of_three_heads_each_on_the_boxes_handed_to_it() -> None:
    heads, features, given = cascade(), maps(), proposals()
    passing, chances = heads.stages(features, given, SIZE)
    boxes, expected = given, torch.zeros(80, 3)
    for head, deviation in zip(heads.heads, DEVIATIONS, strict=True):
        logits, deltas = head(heads.pooled(features, boxes, [(SIZE, SIZE)] * 2))
        expected = expected + torch.softmax(logits, 1) / 3
        boxes = list(decoded(deltas, torch.cat(boxes), deviation, SIZE).split([40, 40]))  # type: ignore[no-untyped-call]
    assert torch.allclose(torch.cat(chances), expected, atol=1e-6)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(passing[-1], boxes, strict=True))
    assert [[len(one) for one in stage] for stage in passing] == [[40, 40]] * 4  # no box is dropped on the way


def test_the_iterative_box_applies_one_head_again() -> None:
    passing, chances = cascade(DetectorSpec(channels=8, hidden=16, stages=1, repeats=3)).stages(maps(), proposals(), SIZE)
    assert len(passing) == 4
    assert torch.allclose(chances[0].sum(1), torch.ones(40))


def test_two_boxes_of_one_finding_become_one_and_kinds_stay_apart() -> None:
    from p2pftl.learning.detection.cascade import _suppressed

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [30, 30, 30, 40]])
    chances = torch.tensor([[0.2, 0.8, 0], [0.3, 0.7, 0], [0.4, 0, 0.6], [0.1, 0.9, 0]])
    found = _suppressed(boxes, chances)
    assert found.scores.tolist() == pytest.approx([0.8, 0.6])  # the empty box has gone too
    assert found.kinds.tolist() == [1, 2]
