"""The networks in plain PyTorch, written without p2pftl: what the bare loop and the peers train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.workload import CLASSES

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalised(nn.Module):
    """A network that takes grey images [B, 1, H, W] in [0, 1] and makes of them what its body was built for."""

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.body = body
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body((images - self.mean) / self.std)
        return logits


class Compact(nn.Module):
    """M1: five convolutions with BatchNorm, one of them residual; mean and maximum; a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _down(1, 16, 5)
        self.block1 = nn.Sequential(_down(16, 32), _Residual(32))
        self.block2 = _down(32, 64)
        self.block3 = _down(64, 96)
        self.head = nn.Linear(192, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.block3(self.block2(self.block1(self.stem(images))))
        logits: Tensor = self.head(torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1) / 5)
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width, momentum=0.3)

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.relu(self.norm(self.conv(images)))


def _down(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.3),
        nn.ReLU(inplace=True),
    )


def build(model: str) -> Normalised:
    """Return M1, M2 or R18, freshly initialised."""
    if model == "M1":
        return Normalised(Compact(CLASSES), (0.5,), (0.35,))
    from torchvision.models import mobilenet_v3_small, resnet18

    return Normalised({"M2": mobilenet_v3_small, "R18": resnet18}[model](num_classes=CLASSES), *IMAGENET)


def shared_state(net: Normalised) -> dict[str, Tensor]:
    """What is averaged: every weight and running statistic, not BatchNorm's counters."""
    return {name: tensor for name, tensor in net.body.state_dict().items() if tensor.is_floating_point()}
