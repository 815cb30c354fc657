"""Boxes as tensors [n, 4] (left, top, right, bottom in pixels): overlap, deltas, assignment to the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Deviation = tuple[float, float, float, float]

STRETCH = math.log(1000 / 16)  # the most that one regression may change the logarithm of a side


@dataclass(frozen=True)
class Truth:
    """What is to be found in one image. boxes: [k, 4]; kinds: [k] int64, 1.."""

    boxes: Tensor
    kinds: Tensor


@dataclass(frozen=True)
class Sampled:
    """Proposals that one stage learns from. boxes, targets: [n, 4] (target of a background box: itself); kinds: [n], 0 the
    background; given: [n] bool, True for truth that was added to the proposals."""

    boxes: Tensor
    targets: Tensor
    kinds: Tensor
    given: Tensor


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [n, m]."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clamp(min=0).prod(2)
    union = areas(first)[:, None] + areas(second)[None] - common
    return common / union.clamp(min=1e-9)


def areas(boxes: Tensor) -> Tensor:
    """Pixels covered [n]."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def encoded(targets: Tensor, boxes: Tensor, deviation: Deviation) -> Tensor:
    """Deltas [n, 4] that lead from `boxes` to `targets`, in units of `deviation` (Girshick et al. 2014, eq. 6 to 9)."""
    centre, side = _centred(boxes)
    goal, size = _centred(targets)
    return torch.cat(((goal - centre) / side, torch.log(size / side)), 1) / boxes.new_tensor(deviation)


def decoded(deltas: Tensor, boxes: Tensor, deviation: Deviation, size: int) -> Tensor:
    """Boxes [n, 4] that `deltas` make of `boxes`, clipped to a square image of `size` pixels (the inverse of encoded)."""
    centre, side = _centred(boxes)
    scaled = deltas * boxes.new_tensor(deviation)
    moved = centre + scaled[:, :2] * side
    half = side * scaled[:, 2:].clamp(-STRETCH, STRETCH).exp() / 2
    return torch.cat((moved - half, moved + half), 1).clamp(0, size)


def assigned(boxes: Tensor, truth: Truth, iou: float) -> tuple[Tensor, Tensor]:
    """Return for each box the row of the truth it overlaps most (0 if there is none), and its kind: 0 below `iou`."""
    if not len(truth.boxes) or not len(boxes):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing.clone()
    best, row = overlaps(boxes, truth.boxes).max(1)
    return row, torch.where(best >= iou, truth.kinds[row], 0)


def sample(proposals: Tensor, truth: Truth, iou: float, count: int) -> Sampled:
    """Draw up to `count` of the proposals and the truth, at most a quarter of them findings (torch's random state)."""
    boxes = torch.cat((proposals, truth.boxes))
    row, kinds = assigned(boxes, truth, iou)
    found, background = (_some(torch.nonzero(mask)[:, 0]) for mask in (kinds > 0, kinds == 0))
    found = found[: count // 4]
    chosen = torch.cat((found, background[: count - len(found)]))
    targets = torch.where((kinds > 0)[:, None], truth.boxes[row], boxes) if len(truth.boxes) else boxes
    return Sampled(boxes[chosen], targets[chosen], kinds[chosen], chosen >= len(proposals))


def _some(rows: Tensor) -> Tensor:
    return rows[torch.randperm(len(rows)).to(rows.device)]


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sides [n, 2]; a box without extent counts as 0.001 pixels wide."""
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
    return (boxes[:, :2] + boxes[:, 2:]) / 2, side
