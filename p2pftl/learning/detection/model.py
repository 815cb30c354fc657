"""One detector, bound to one flat vector: build it once, load every twin of a process into it in turn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from p2pftl.draw import draw
from p2pftl.learning.detection.cascade import Detections
from p2pftl.learning.detection.geometry import Truth
from p2pftl.learning.detection.network import Network, without_random_numbers
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.specs import Backbone, ModelSpec
from p2pftl.learning.weights import pretrained
from p2pftl.params import Kind, Layout, Vector

BODY = "body.layers."  # before torchvision's own names
_FINE, _FINER = 0.01, 0.001  # spread of the first values of what classifies, and of what moves boxes


class Detector:
    """A detector whose parameters and gradients are views into flat tensors (on the processor: RoIAlign's gradient is not
    reproducible on a GPU).

    layout: the backbone's cuts, the feature pyramid, the proposals and, as the head, the cascade are its layer groups;
    flat, grad: [layout.size] float32; parameters: what can be trained, by name.
    """

    def __init__(self, spec: DetectorSpec, classes: int, seed: int, start: Vector | None = None) -> None:
        """Build and fill with the first values, or with `start`: then nothing is drawn and no weights file is looked at.

        classes: with the background. Raises ScenarioError E127 for unusable weights.
        """
        self.spec, self.classes = spec, classes
        self.network = without_random_numbers(spec, classes)
        self.layout = layout_of(self.network)
        self._numbers = np.zeros(self.layout.size, np.float32)
        self.flat = torch.from_numpy(self._numbers)
        self.grad = torch.zeros_like(self.flat)
        self.parameters = self._bind()
        self.load(self.layout.vector(_first_tensors(self.layout, spec, seed)) if start is None else start)
        self.focus(())

    def losses(self, images: Tensor, truth: Sequence[Truth]) -> dict[str, Tensor]:
        """Losses by name of grey images [B, 1, n, n] in [0, 1]; draws from torch's random state."""
        return self.network.losses(images, truth)

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[Detections]:
        """What is found in grey images [B, 1, n, n] in [0, 1]."""
        return self.network.detect(images)

    def load(self, vector: Vector) -> None:
        """Become the detector that `vector` describes."""
        np.copyto(self._numbers, vector)

    def take(self) -> Vector:
        """Copy of the whole detector as one vector."""
        return self._numbers.copy()

    def focus(self, trained: Iterable[str]) -> None:
        """Make exactly `trained` trainable."""
        chosen = frozenset(trained)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in chosen)

    def _bind(self) -> dict[str, nn.Parameter]:
        parameters: dict[str, nn.Parameter] = {}
        trainable = {name for name, _ in self.network.named_parameters()}
        for name, shape, (start, stop) in zip(self.layout.names, self.layout.shapes, self.layout.spans, strict=True):
            owner, leaf = self.network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            values = self.flat[start:stop].view(shape)
            if name in trainable:
                parameters[name] = nn.Parameter(values)
                parameters[name].grad = self.grad[start:stop].view(shape)
                setattr(owner, leaf, parameters[name])
            else:
                setattr(owner, leaf, values)
        return parameters


def initial(spec: DetectorSpec, classes: int, seed: int) -> Vector:
    """Return the first detector, the same for every twin: backbone from `spec.weights` or drawn, the rest drawn from `seed`.

    Weights ~ N(0, 2 / fan_in) (He et al. 2015), what classifies ~ N(0, 0.01^2), box deltas ~ N(0, 0.001^2), biases 0. Equal
    names have equal values whatever the number of stages. Raises ScenarioError E127.
    """
    return Detector(spec, classes, seed).take()


def layout_of(network: Network) -> Layout:
    """Where the tensors of `network` lie in its vector."""
    entries = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
    return Layout(
        names=tuple(entries),
        shapes=tuple(tuple(tensor.shape) for tensor in entries.values()),
        kinds=tuple(_kind(network, name) for name in entries),
        groups=tuple(_group(network, name) for name in entries),
    )


def _kind(network: Network, name: str) -> Kind:
    owner, leaf = network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    if leaf in ("running_mean", "running_var"):
        return "statistic"
    return "norm" if isinstance(owner, nn.GroupNorm) or type(owner).__name__ == "FrozenBatchNorm2d" else "weight"


def _group(network: Network, name: str) -> int:
    cuts = network.body.kind.cuts
    if name.startswith(BODY):
        within = name.removeprefix(BODY)
        return next(number for number, cut in enumerate(cuts) if any(within.startswith(path + ".") for path in cut))
    return len(cuts) + {"pyramid": 0, "fine": 0, "proposals": 1, "cascade": 2}[name.partition(".")[0]]


def _first_tensors(layout: Layout, spec: DetectorSpec, seed: int) -> dict[str, Vector]:
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    tensors = {name: _first_values(name, shape, seed) for name, shape in shapes.items()}
    if spec.weights is not None:
        body = {name.removeprefix(BODY): shape for name, shape in shapes.items() if name.startswith(BODY)}
        source = ModelSpec(cast(Backbone, spec.backbone), spec.weights)
        found = pretrained(source, body, _heads(spec))
        tensors |= {BODY + name: tensor.numpy() for name, tensor in found.items()}
    return tensors


def _heads(spec: DetectorSpec) -> frozenset[str]:
    """Entries that weights of a classifier have and a detector does not need."""
    paths = {"resnet": ("fc",), "mobilenet": ("classifier.0", "classifier.3"), "squeezenet": ("classifier.1",)}
    found = next(names for start, names in paths.items() if spec.backbone.startswith(start))
    return frozenset(f"{path}.{leaf}" for path in found for leaf in ("weight", "bias"))


def _first_values(name: str, shape: tuple[int, ...], seed: int) -> Vector:
    if len(shape) == 1:
        return np.full(shape, 1.0 if name.endswith((".weight", ".running_var")) else 0.0, np.float32)
    spread = math.sqrt(2 / math.prod(shape[1:]))
    if name.startswith("proposals.") or name.endswith(".kind.weight"):
        spread = _FINE
    elif name.endswith(".delta.weight"):
        spread = _FINER
    values: Vector = draw(seed, "init", name).standard_normal(math.prod(shape), np.float32) * np.float32(spread)
    return values.reshape(shape)
