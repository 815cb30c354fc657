"""The whole network: torchvision's backbone, feature pyramid and region proposals, then the cascade."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from p2pftl.learning.backbones import IMAGENET_MEAN, IMAGENET_STD
from p2pftl.learning.detection.cascade import Cascade, Detections
from p2pftl.learning.detection.geometry import Truth
from p2pftl.learning.detection.spec import DetectorSpec, Trunk
from p2pftl.learning.engine import torchvision_models

ASPECTS = (0.5, 1.0, 2.0)
FINE = "fine"  # the map of stride 2
TOGETHER = 8  # channels that share a mean and a variance in GroupNorm

Cuts = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Kind:
    """How to cut a torchvision classifier. cuts: modules up to strides 4, 8, ...; channels: that leave each cut; left: its
    classifier, which is not used; fine: the module in the first cut that leaves stride 2, and its channels."""

    cuts: Cuts
    channels: tuple[int, ...]
    left: tuple[str, ...]
    fine: tuple[str, int]


def _features(*stops: int) -> Cuts:
    starts = (0, *(stop + 1 for stop in stops))
    return tuple(tuple(f"features.{i}" for i in range(start, stop + 1)) for start, stop in zip(starts, stops, strict=False))


_STEM = ("conv1", "bn1", "relu", "maxpool", "layer1")
KINDS: dict[Trunk, Kind] = {
    "mobilenet_v3_small": Kind(_features(1, 3, 8, 12), (16, 24, 48, 576), ("avgpool", "classifier"), ("features.0", 16)),
    "resnet18": Kind((_STEM, ("layer2",), ("layer3",), ("layer4",)), (64, 128, 256, 512), ("avgpool", "fc"), ("relu", 64)),
    "resnet50": Kind((_STEM, ("layer2",), ("layer3",), ("layer4",)), (256, 512, 1024, 2048), ("avgpool", "fc"), ("relu", 64)),
    "squeezenet1_1": Kind(_features(4, 7, 12), (128, 256, 512), ("classifier",), ("features.1", 64)),
}


class Body(nn.Module):
    """A torchvision classifier without its head, as one feature map per cut."""

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.kind = KINDS[spec.backbone]
        self.layers = _classifier(spec)
        for name in self.kind.left:
            delattr(self.layers, name)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps "0", "1", ... of images [B, 3, n, n], and FINE, of stride 2."""
        found: dict[str, Tensor] = {}
        values = images
        for number, cut in enumerate(self.kind.cuts):
            for path in cut:
                values = self.layers.get_submodule(path)(values)
                if path == self.kind.fine[0]:
                    found[FINE] = values
            found[str(number)] = values
        return found


class Fine(nn.Module):
    """A map of stride 2 for regions: the stem, one by one, plus the finest level of the pyramid. No 3 x 3 convolution, so it is cheap."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(inputs, channels, 1, bias=False)
        self.norm = _per_image(channels)

    def forward(self, stem: Tensor, level: Tensor) -> Tensor:
        """Features [B, channels, n / 2, n / 2] of a stem [B, inputs, n / 2, n / 2] and a level [B, channels, n / 4, n / 4]."""
        fine: Tensor = self.norm(self.lateral(stem) + interpolate(level, size=stem.shape[-2:]))
        return fine


class Network(nn.Module):
    """Grey images in, losses or detections out."""

    def __init__(self, spec: DetectorSpec, classes: int) -> None:
        super().__init__()
        self.body = Body(spec)
        levels = [str(number) for number in range(len(self.body.kind.cuts))]
        self.pyramid = _pyramid(self.body.kind.channels, spec.channels)
        self.fine = Fine(self.body.kind.fine[1], spec.channels) if spec.fine else None
        self.proposals = _proposals(spec, len(levels) + 1)
        self.cascade = Cascade(spec, classes, [FINE, *levels] if spec.fine else levels)

    def losses(self, images: Tensor, truth: Sequence[Truth]) -> dict[str, Tensor]:
        """Losses by name, to be summed, of grey images [B, 1, n, n] in [0, 1]; draws from torch's random state."""
        self.train()
        features = self.features(images)
        proposals, lost = self._proposed(images, features, [{"boxes": one.boxes} for one in truth])
        renamed = {"object": lost["loss_objectness"], "proposal": lost["loss_rpn_box_reg"]}
        return renamed | self.cascade.losses(features, proposals, truth, images.shape[-1])

    def detect(self, images: Tensor) -> list[Detections]:
        """What is found in grey images [B, 1, n, n] in [0, 1]."""
        features, proposals = self.proposed(images)
        return self.cascade.detect(features, proposals, images.shape[-1])

    def proposed(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Feature pyramid, and proposals [n, 4] per image, as they are when detecting."""
        self.eval()
        features = self.features(images)
        return features, self._proposed(images, features, None)[0]

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The feature pyramid, finest level first; the last, "pool", is for proposals only, the first, FINE, for regions only."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        maps = self.body((images - mean) / std)
        stem = maps.pop(FINE)
        pyramid: dict[str, Tensor] = self.pyramid(maps)
        return pyramid if self.fine is None else {FINE: self.fine(stem, pyramid["0"]), **pyramid}

    def _proposed(self, images: Tensor, features: dict[str, Tensor], truth: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        from torchvision.models.detection.image_list import ImageList

        size = images.shape[-1]
        coarse = {name: level for name, level in features.items() if name != FINE}
        proposals, lost = self.proposals(ImageList(images, [(size, size)] * len(images)), coarse, truth)
        return [one.detach() for one in proposals], lost


def _classifier(spec: DetectorSpec) -> nn.Module:
    models = torchvision_models()
    if spec.backbone == "squeezenet1_1":
        network: nn.Module = models.squeezenet1_1()
        network.get_submodule("features.0").padding = (1, 1)  # type: ignore[assignment]  # as made, its strides are no powers of 2
        return network
    built: nn.Module = getattr(models, spec.backbone)(norm_layer=_norm(spec))
    return built


def _norm(spec: DetectorSpec) -> Callable[..., nn.Module]:
    """Statistics of a few images mean nothing: those of the pretrained network are kept, or each image has its own."""
    if spec.weights is not None:
        from torchvision.ops.misc import FrozenBatchNorm2d

        frozen: Callable[..., nn.Module] = FrozenBatchNorm2d
        return frozen
    return _per_image


def _per_image(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // math.gcd(channels, TOGETHER), channels)


def _pyramid(inputs: Sequence[int], channels: int) -> nn.Module:
    """FPN (Lin et al. 2017), normalised, because not every backbone is: then all levels have features of one size."""
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    pyramid: nn.Module = FeaturePyramidNetwork(list(inputs), channels, LastLevelMaxPool(), _per_image)
    return pyramid


def _proposals(spec: DetectorSpec, levels: int) -> nn.Module:
    """The RPN of Ren et al. 2015 with FPN's settings; overlaps 0.7 and 0.3, 256 anchors, half of them findings."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

    sides = tuple((spec.anchor * 4 * 2**level,) for level in range(levels))
    anchors = AnchorGenerator(sides, (ASPECTS,) * levels)
    kept = {"training": spec.proposals, "testing": spec.proposals}
    before = {name: 2 * number for name, number in kept.items()}
    head = RPNHead(spec.channels, len(ASPECTS))
    network: nn.Module = RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, kept, nms_thresh=0.7)
    return network


def without_random_numbers(spec: DetectorSpec, classes: int) -> Network:
    """Build the network and leave torch's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        return Network(spec, classes)
