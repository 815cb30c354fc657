"""The universal encoder and the two ends that it can have: a decoder of masked images, or a head that tells classes apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from p2pftl.learning.backbones import Anatomy
from p2pftl.learning.universal.spec import STRIDE, EncoderSpec

BODY = (("stem",), ("block1",), ("block2",), ("block3",))
MEAN, STD = 0.5, 0.35  # of grey images in [0, 1]
NORM_GROUPS = 8


def with_decoder(spec: EncoderSpec) -> Anatomy:
    """The encoder and, as its last layer group, SimMIM's linear decoder: what it makes of an image is an image [B, 1, H, W]."""
    with torch.device("meta"):
        module = _encoder(spec)
        module.add_module("decoder", Decoder(4 * spec.width))
    return Anatomy(module, (*BODY, ("decoder",)), mean=(MEAN,), std=(STD,))


def with_head(spec: EncoderSpec, classes: int) -> Anatomy:
    """The encoder and, as its last layer group, a linear head on the mean and the peak of its features."""
    with torch.device("meta"):
        module = _encoder(spec)
        module.add_module("pool", MeanAndPeak())
        module.add_module("head", nn.Linear(8 * spec.width, classes))
    return Anatomy(module, (*BODY[:-1], (*BODY[-1], "pool"), ("head",)), mean=(MEAN,), std=(STD,))


class Residual(nn.Module):
    """x + conv(relu(norm(x))), GroupNorm.

    The stream itself is never normalised: ground glass is a shift in brightness, which a norm over an image takes away (see
    `compact` in backbones.py).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, width, H, W] of the same shape."""
        return features + self.conv(torch.relu(self.norm(features)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """One 1x1 convolution that gives each cell its 8 x 8 pixels (Xie et al. 2022). token: what stands in a masked pixel's place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.cells = nn.Conv2d(channels, STRIDE**2, 1)
        self.pixels = nn.PixelShuffle(STRIDE)

    def forward(self, features: Tensor) -> Tensor:
        """Grey images [B, 1, 8 H, 8 W] in [0, 1] (about) of features [B, channels, H, W]."""
        return self.pixels(self.cells(features)) * STD + MEAN  # type: ignore[no-any-return]


class MeanAndPeak(nn.Module):
    """Mean and maximum over the image: ground glass moves the first, a nodule the second. Halved, as features are near 2."""

    def forward(self, features: Tensor) -> Tensor:
        """Return [B, 2 C] of features [B, C, H, W]."""
        return torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1) / 2


def _encoder(spec: EncoderSpec) -> nn.Sequential:
    narrow, middle, wide = spec.width, 2 * spec.width, 4 * spec.width
    module = nn.Sequential()
    module.add_module("stem", _down(1, narrow, 5))
    module.add_module("block1", nn.Sequential(_down(narrow, middle), Residual(middle)))
    module.add_module("block2", nn.Sequential(_down(middle, wide), Residual(wide)))
    module.add_module("block3", nn.Sequential(Residual(wide), Residual(wide)))
    return module


def _down(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2), nn.ReLU())
