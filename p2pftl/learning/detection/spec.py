"""What a scenario says about a detector. Imports no torch, so that reading a scenario stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le

Trunk = Literal["mobilenet_v3_small", "resnet18", "resnet50", "squeezenet1_1"]

DEVIATIONS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Stage:
    """One regression of a cascade. iou: overlap from which a proposal counts as a finding; deviation: scale of its box
    deltas (x, y, width, height); weight: of its loss."""

    iou: float
    deviation: tuple[float, float, float, float]
    weight: float


@dataclass(frozen=True)
class DetectorSpec:
    """A Cascade R-CNN (Cai and Vasconcelos 2018), its size, and where the first weights of its backbone come from.

    weights: null (drawn from the seed; the backbone then has GroupNorm) or as of `model` (its BatchNorm then is frozen).
    stages, iou: 3 and 0.5 are the cascade of 0.5, 0.6, 0.7; 1 and 0.5 is Faster R-CNN, 1 and 0.7 the strict single stage.
    repeats: how often the stages are applied when detecting: 3 with one stage is the "iterative box" control.
    channels: of the feature pyramid; hidden: width of the heads; anchor: side of an anchor, in strides of its level (8 in
    the paper, for images of 800 pixels); proposals: kept per image; sampled: of these, how many a stage learns from; fine: pool
    small regions from a map of stride 2, made of the stem and the finest level of the pyramid: slower, and better boxes.
    """

    backbone: Trunk = "mobilenet_v3_small"
    weights: str | None = None
    stages: Annotated[int, Interval(ge=1, le=3)] = 3
    iou: Annotated[float, Interval(ge=0.3, le=0.7)] = 0.5
    repeats: Annotated[int, Interval(ge=1, le=5)] = 1
    channels: Annotated[int, Ge(8), Le(1024)] = 64
    hidden: Annotated[int, Ge(8), Le(4096)] = 256
    anchor: Annotated[float, Gt(0), Le(32)] = 3.0
    proposals: Annotated[int, Interval(ge=8, le=4000)] = 256
    sampled: Annotated[int, Interval(ge=8, le=2000)] = 128
    fine: bool = False

    @property
    def cascade(self) -> tuple[Stage, ...]:
        """The stages, each 0.1 stricter than the one before."""
        return tuple(Stage(round(self.iou + 0.1 * t, 2), DEVIATIONS[t], WEIGHTS[t]) for t in range(self.stages))


def said(spec: DetectorSpec) -> str:
    """What a detector is, in words."""
    stages = ", ".join(f"{stage.iou:g}" for stage in spec.cascade)
    kind = f"cascade of {spec.stages} stages" if spec.stages > 1 else "one stage"
    return f"{kind}, IoU {stages}" + (f", applied {spec.repeats} times" if spec.repeats > 1 else "")
