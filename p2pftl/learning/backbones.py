"""Four backbones, cut into layer groups from the input to the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from p2pftl.learning.adapters import adapted
from p2pftl.learning.engine import torchvision_models
from p2pftl.learning.specs import Backbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Anatomy:
    """An empty network and how to read it.

    module: on the meta device, without values; groups: module prefixes per layer group, input first, head last;
    mean, std: of the training images per input channel (a grey image is repeated to as many); flat_after: the module whose
    output [B, C, 1, 1] the network's forward pass makes [B, C].
    """

    module: nn.Module
    groups: tuple[tuple[str, ...], ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    flat_after: str = ""

    def parts(self) -> tuple[nn.Module, ...]:
        """The network as one module per layer group, to be run one after the other; they share their values with `module`."""
        return tuple(nn.Sequential(*self._pieces(prefixes)) for prefixes in self.groups)

    def _pieces(self, prefixes: tuple[str, ...]) -> Iterator[nn.Module]:
        for prefix in prefixes:
            yield self.module.get_submodule(prefix)
            if prefix == self.flat_after:
                yield nn.Flatten(1)

    def group_of(self, name: str) -> int:
        """Layer group of the module or parameter called `name`."""
        for depth, prefixes in enumerate(self.groups):
            if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes):
                return depth
        raise KeyError(name)


def anatomy(backbone: Backbone, classes: int, adapters: int = 0) -> Anatomy:
    """Return the network called `backbone` with a head for `classes` classes; adapters: their width, 0 for none."""
    with torch.device("meta"), _Unfilled():  # no values, so no random numbers are drawn and no time is lost
        built = BACKBONES[backbone](classes)
        return replace(built, groups=adapted(built.module, built.groups, adapters)) if adapters else built


class _Unfilled(TorchFunctionMode):
    """Leave out what draws normal numbers: it does nothing to a tensor without values, but imports torch's compiler (0.9 s)."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width, momentum=COMPACT_MOMENTUM)

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.relu(self.norm(self.conv(images)))


class _MeanAndPeak(nn.Module):
    """Mean and maximum over the image: ground glass moves the first, a nodule the second.

    Divided by 5, or the head would diverge at the learning rate that the body needs (peaks of normed features are 3 to 10).
    """

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1) / 5


# Gossip rounds are a few dozen steps: running statistics must follow within a round (torch's 0.1 does not).
COMPACT_MOMENTUM = 0.3


def _down(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=COMPACT_MOMENTUM),
        nn.ReLU(inplace=True),
    )


def _compact(classes: int) -> Anatomy:
    """About 89,000 parameters for small grey images and short fits.

    BatchNorm, not GroupNorm: measured on phantom slices (ground glass or not, 8 twins, Dirichlet 0.3, 60 steps each)
    BatchNorm reaches AUROC 0.97, GroupNorm and no normalisation 0.65; a finding here is a shift in brightness, which
    normalising every image by itself takes away.
    """
    module = nn.Sequential()
    module.add_module("stem", _down(1, 16, 5))
    module.add_module("block1", nn.Sequential(_down(16, 32), _Residual(32)))
    module.add_module("block2", _down(32, 64))
    module.add_module("block3", _down(64, 96))
    module.add_module("pool", _MeanAndPeak())
    module.add_module("head", nn.Linear(192, classes))
    return Anatomy(module, (("stem",), ("block1",), ("block2",), ("block3", "pool"), ("head",)), mean=(0.5,), std=(0.35,))


def _squeezenet(classes: int) -> Anatomy:
    module = torchvision_models().squeezenet1_1(num_classes=classes)
    # torchvision ends in ReLU: with a few classes all logits can fall to 0 and stay there, for good.
    module.classifier[2] = nn.Identity()
    blocks = (("0", "1", "2"), ("3", "4", "5"), ("6", "7", "8"), ("9", "10"), ("11", "12"))
    groups = tuple(tuple(f"features.{layer}" for layer in block) for block in blocks)
    return Anatomy(module, (*groups, ("classifier",)), flat_after="classifier")


def _mobilenet(classes: int) -> Anatomy:
    module = torchvision_models().mobilenet_v3_small(num_classes=classes)
    blocks = (("0",), ("1",), ("2", "3"), ("4", "5", "6"), ("7", "8"), ("9", "10", "11", "12"))
    groups = tuple(tuple(f"features.{layer}" for layer in block) for block in blocks)
    groups = (*groups, ("avgpool", "classifier.0", "classifier.1"))
    return Anatomy(module, (*groups, ("classifier.2", "classifier.3")), flat_after="avgpool")


def _resnet(classes: int) -> Anatomy:
    stem = ("conv1", "bn1", "relu", "maxpool")
    groups = (stem, ("layer1",), ("layer2",), ("layer3",), ("layer4", "avgpool"), ("fc",))
    return Anatomy(torchvision_models().resnet18(num_classes=classes), groups, flat_after="avgpool")


BACKBONES: dict[str, Callable[[int], Anatomy]] = {
    "compact": _compact,
    "squeezenet1_1": _squeezenet,
    "mobilenet_v3_small": _mobilenet,
    "resnet18": _resnet,
}
