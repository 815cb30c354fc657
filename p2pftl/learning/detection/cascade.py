"""The heads of a Cascade R-CNN: each stage learns from, and improves, the boxes of the one before (Cai, Vasconcelos 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from p2pftl.learning.detection.geometry import Sampled, Truth, decoded, encoded, sample
from p2pftl.learning.detection.spec import DetectorSpec, Stage

SURE, SAME, MOST = 0.05, 0.5, 100  # detections: least score, overlap of the same finding, number per image
POOLED = 7  # cells of RoIAlign

Features = dict[str, Tensor]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the surest first. boxes: [k, 4]; scores: [k]; kinds: [k] int64, 1.."""

    boxes: Tensor
    scores: Tensor
    kinds: Tensor


class Head(nn.Module):
    """Kind and box of what is in a region: two layers, then class scores and class-agnostic deltas."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels * POOLED**2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.kind = nn.Linear(hidden, classes)
        self.delta = nn.Linear(hidden, 4)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, classes] and deltas [n, 4] of pooled regions [n, channels, 7, 7]."""
        seen = torch.relu(self.second(torch.relu(self.first(regions.flatten(1)))))
        return self.kind(seen), self.delta(seen)


class Cascade(nn.Module):
    """All stages. levels: names of the feature maps that regions are pooled from, finest (stride 4) first."""

    def __init__(self, spec: DetectorSpec, classes: int, levels: Sequence[str]) -> None:
        from torchvision.ops import MultiScaleRoIAlign

        super().__init__()
        self.spec = spec
        # A region goes to the level whose anchors are of its size: 56 pixels to stride 4 for anchors of 8 strides.
        scale = 28 * spec.anchor * (2 if spec.fine else 1)  # with a level of stride 2, all go one level finer
        self.pooled = MultiScaleRoIAlign(list(levels), POOLED, 2, canonical_scale=round(scale), canonical_level=4)
        self.heads = nn.ModuleList(Head(spec.channels, spec.hidden, classes) for _ in spec.cascade)

    def losses(self, features: Features, proposals: Sequence[Tensor], truth: Sequence[Truth], size: int) -> dict[str, Tensor]:
        """Weighted losses by name, from `proposals` of the RPN (one tensor per image); draws from torch's random state."""
        lost: dict[str, Tensor] = {}
        for number, (head, stage) in enumerate(zip(self.heads, self.spec.cascade, strict=True), 1):
            chosen = [sample(boxes, one, stage.iou, self.spec.sampled) for boxes, one in zip(proposals, truth, strict=True)]
            logits, deltas = head(self._regions(features, [one.boxes for one in chosen], size))
            kind, box = stage_losses(logits, deltas, chosen, stage)
            lost |= {f"kind{number}": stage.weight * kind, f"box{number}": stage.weight * box}
            proposals = passed_on(deltas.detach(), chosen, stage, size)
        return lost

    def stages(self, features: Features, proposals: Sequence[Tensor], size: int) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Boxes before the first and after each stage, and the mean class chances [n, classes] of all stages, per image."""
        counts, boxes = [len(one) for one in proposals], list(proposals)
        passing, chances = [boxes], torch.zeros(())
        applied = [*zip(self.heads, self.spec.cascade, strict=True)] * self.spec.repeats
        for head, stage in applied:
            logits, deltas = head(self._regions(features, boxes, size))
            chances = chances + torch.softmax(logits, 1) / len(applied)
            boxes = list(torch.split(decoded(deltas, torch.cat(boxes), stage.deviation, size), counts))
            passing.append(boxes)
        return passing, list(torch.split(chances, counts))

    def detect(self, features: Features, proposals: Sequence[Tensor], size: int) -> list[Detections]:
        """Find: scores of all stages averaged, boxes of the last, non-maximum suppression per class."""
        passing, chances = self.stages(features, proposals, size)
        return [_suppressed(boxes, one) for boxes, one in zip(passing[-1], chances, strict=True)]

    def _regions(self, features: Features, boxes: list[Tensor], size: int) -> Tensor:
        regions: Tensor = self.pooled(features, boxes, [(size, size)] * len(boxes))
        return regions


def stage_losses(logits: Tensor, deltas: Tensor, chosen: Sequence[Sampled], stage: Stage) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all sampled regions, and SmoothL1 of the findings' deltas, both divided by the number of regions."""
    kinds, boxes, targets = (torch.cat([getattr(one, name) for one in chosen]) for name in ("kinds", "boxes", "targets"))
    found, many = kinds > 0, max(len(kinds), 1)
    wanted = encoded(targets[found], boxes[found], stage.deviation)
    return cross_entropy(logits, kinds, reduction="sum") / many, smooth_l1_loss(deltas[found], wanted, reduction="sum") / many


def passed_on(deltas: Tensor, chosen: Sequence[Sampled], stage: Stage, size: int) -> list[Tensor]:
    """What the next stage learns from: the sampled boxes improved, without the truth that was added and without empty ones."""
    improved = []
    for one, change in zip(chosen, torch.split(deltas, [len(one.boxes) for one in chosen]), strict=True):
        boxes = decoded(change, one.boxes, stage.deviation, size)
        improved.append(boxes[~one.given & (boxes[:, 2:] > boxes[:, :2]).all(1)])
    return improved


def _suppressed(boxes: Tensor, chances: Tensor) -> Detections:
    from torchvision.ops import batched_nms

    row, kind = torch.nonzero(chances[:, 1:] > SURE, as_tuple=True)
    scores, kinds, found = chances[row, kind + 1], kind + 1, boxes[row]
    kept = torch.nonzero((found[:, 2:] > found[:, :2]).all(1))[:, 0]
    scores, kinds, found = scores[kept], kinds[kept], found[kept]
    best = batched_nms(found, scores, kinds, SAME)[:MOST]
    return Detections(found[best], scores[best], kinds[best])
