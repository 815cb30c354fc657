"""What a scenario says about learning. Imports no torch, so that reading a scenario stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le, Lt

Backbone = Literal["compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18"]


@dataclass(frozen=True)
class ModelSpec:
    """A backbone and where its first weights come from.

    weights: null (drawn from the seed), a path ending in .safetensors, or the name of a torchvision
    enum member ("IMAGENET1K_V1": the only case that downloads). The head is always drawn anew.
    """

    backbone: Backbone = "compact"
    weights: str | None = None


@dataclass(frozen=True)
class Recipe:
    """How a twin fits its shard in one gossip round.

    lr: learning rate; momentum: of SGD (Adam keeps its own betas 0.9, 0.999); batch: images per step;
    epochs: passes over the shard; steps: batches instead of epochs, if given; reset_optimizer: forget
    momentum between rounds; seconds_per_sample: virtual seconds one image takes at speed 1; shift: each image is moved
    by up to so many pixels either way, anew each time it is seen; flip: and mirrored left to right half of the time.
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Gt(0), Le(100)] = 0.05
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    batch: Annotated[int, Interval(ge=1, le=4096)] = 16
    epochs: Annotated[int, Interval(ge=1, le=10_000)] = 1
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] | None = None
    reset_optimizer: bool = True
    seconds_per_sample: Annotated[float, Gt(0)] = 0.05
    shift: Annotated[int, Interval(ge=0, le=64)] = 0
    flip: bool = False
