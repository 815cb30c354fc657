"""What a scenario says about learning. Imports no torch, so that reading a scenario stays quick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Le, Lt

Backbone = Literal["compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18"]
Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ModelSpec:
    """A backbone and where its first weights come from.

    weights: null (drawn from the seed), a path ending in .safetensors, or the name of a torchvision
    enum member ("IMAGENET1K_V1": the only case that downloads). Adapters are always drawn anew.
    adapters: channels that the adapter in front of every layer group but the first and the head narrows its input to; 0: none.
    head: take the head from the weights as well, where it has as many classes; else it is drawn anew.
    """

    backbone: Backbone = "compact"
    weights: str | None = None
    adapters: Annotated[int, Interval(ge=0, le=1024)] = 0
    head: bool = False


@dataclass(frozen=True)
class Compute:
    """In which numbers, and where, a network is computed.

    precision: of the inputs of its convolutions and matrix products, all but the head's: 32 bits, or bfloat16 (8 bits of
    mantissa), or auto: bfloat16 where that was measured faster on such a processor; parameters, gradients, normalisation,
    logits and loss have 32 bits always. device: the processor, or an NVIDIA GPU, or auto: the GPU where there is one.
    together: fit the heads of twins that share a process as one computation where that is faster; equal up to rounding.
    """

    precision: Precision | Literal["auto"] = "fp32"
    device: Device | Literal["auto"] = "auto"
    together: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a twin fits its shard in one gossip round.

    lr: learning rate of the first round; decay: factor on it from one round to the next; momentum: of SGD (Adam keeps its own betas
    0.9, 0.999); batch: images per step; epochs: passes over the shard; steps: batches instead of epochs, if given; reset_optimizer:
    forget momentum between rounds; seconds_per_sample: virtual seconds one image takes at speed 1; shift: each image is moved
    by up to so many pixels either way, anew each time it is seen; flip: and mirrored left to right half of the time; views: not
    anew but in so many fixed ways, drawn once: epoch e of round r shows view (r + e) mod views, and frozen layers see each once.
    loss: cross_entropy, or balanced: of logits plus the log share of each class among the twin's own images, so that what is learnt
    does not hold the classes it happens to have many of for likely (balanced softmax, Ren et al. 2020, eq. 4).
    """

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Gt(0), Le(100)] = 0.05
    decay: Annotated[float, Gt(0), Le(1)] = 1.0
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Interval(ge=0, le=10)] = 0.0
    batch: Annotated[int, Interval(ge=1, le=4096)] = 16
    epochs: Annotated[int, Interval(ge=1, le=10_000)] = 1
    steps: Annotated[int, Interval(ge=1, le=1_000_000)] | None = None
    reset_optimizer: bool = True
    seconds_per_sample: Annotated[float, Gt(0)] = 0.05
    shift: Annotated[int, Interval(ge=0, le=64)] = 0
    flip: bool = False
    views: Annotated[int, Interval(ge=1, le=1000)] | None = None
    loss: Literal["cross_entropy", "balanced"] = "cross_entropy"

    def at(self, round: int) -> Recipe:
        """The recipe of `round` (from 0): lr has decayed."""
        return self if self.decay == 1.0 else replace(self, lr=self.lr * self.decay**round, decay=1.0)


@dataclass(frozen=True)
class FeatureCache:
    """What is kept of what frozen layers made of images. Changes how long a run takes, and nothing else.

    cache: keep features at all; memory: MB for them per process; spill: what has no room there goes to files, not away.
    """

    cache: bool = True
    memory: Annotated[float, Interval(ge=0, le=1_000_000)] = 1000.0
    spill: bool = False
