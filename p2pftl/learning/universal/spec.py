"""What a scenario says about the universal encoder. Imports no torch, so that reading a scenario stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, Le, MultipleOf

STRIDE = 8
"""Pixels of an image per cell of the encoder's features; images are a multiple of it wide."""


@dataclass(frozen=True)
class EncoderSpec:
    """A convolutional encoder for small grey images. width: channels after the first layer; 4 x width is what it tells of a cell."""

    width: Annotated[int, Ge(8), Le(256), MultipleOf(8)] = 16


@dataclass(frozen=True)
class UniversalSpec:
    """One encoder that all twins share, and a head of its own for each (docs/universal.md).

    width: as of the encoder, channels after its first layer; weights: the encoder's first values, null (drawn from the seed) or a
    .safetensors file of a masked or a universal run, whose decoder or head is left out.
    """

    width: Annotated[int, Ge(8), Le(256), MultipleOf(8)] = 16
    weights: str | None = None
    backbone: ClassVar[str] = "universal encoder"

    @property
    def encoder(self) -> EncoderSpec:
        return EncoderSpec(self.width)


@dataclass(frozen=True)
class MaskedSpec:
    """Masked images instead of classes: the same encoder learns what images look like, and no label is looked at.

    width, weights: as of `universal`; unit: side of a masked square, pixels; ratio: share of the squares that are masked.
    """

    width: Annotated[int, Ge(8), Le(256), MultipleOf(8)] = 16
    weights: str | None = None
    unit: Annotated[int, Interval(ge=4, le=64)] = 8
    ratio: Annotated[float, Interval(ge=0.1, le=0.9)] = 0.6
    backbone: ClassVar[str] = "universal encoder"

    @property
    def encoder(self) -> EncoderSpec:
        return EncoderSpec(self.width)

    @property
    def masking(self) -> Masking:
        return Masking(self.unit, self.ratio)


@dataclass(frozen=True)
class Masking:
    """What is hidden from the encoder (SimMIM, Xie et al. 2022). unit: side of a masked square, pixels; ratio: share of squares masked."""

    unit: Annotated[int, Interval(ge=4, le=64)] = 8
    ratio: Annotated[float, Interval(ge=0.1, le=0.9)] = 0.6


@dataclass(frozen=True)
class Fusion:
    """How encoders become one without any label (ALGORITHMS.md section 8).

    mode: the mean of the encoders (`average`), or a student that starts from the mean and learns to say what each of them says
    (`distil`). steps, batch, lr: of the student (Adam); masked: weight of its masked-image loss, 0 for none.
    """

    mode: Literal["average", "distil"] = "distil"
    steps: Annotated[int, Interval(ge=1, le=100_000)] = 100
    batch: Annotated[int, Interval(ge=1, le=1024)] = 16
    lr: Annotated[float, Gt(0), Le(1)] = 5e-4
    masked: Annotated[float, Interval(ge=0, le=100)] = 0.1
