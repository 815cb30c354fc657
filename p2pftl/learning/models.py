"""One network, bound to one flat vector: build it once, load every twin of an actor into it in turn."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from p2pftl.draw import draw
from p2pftl.learning.backbones import Anatomy, anatomy
from p2pftl.learning.engine import prepare_torch
from p2pftl.learning.specs import ModelSpec
from p2pftl.learning.weights import pretrained
from p2pftl.params import Kind, Layout, Vector

__all__ = ["Model", "ModelSpec", "initial", "prepare_torch"]


@dataclass(frozen=True)
class _Leaf:
    """A module without children. own: its entries; statistics: those of them a forward pass in training mode changes."""

    module: nn.Module
    own: frozenset[str]
    statistics: frozenset[str]
    group: int


class Model:
    """A network whose parameters, gradients and norm statistics are views into flat tensors.

    layout: where each tensor lies; flat, grad: [layout.size] float32; module: the network itself;
    parameters: its weights and norm parameters by name; statistics: names of its running means and variances.
    Integer buffers (BatchNorm's counter) stay in the module and mean nothing to anybody else.
    On a machine that has no weights file, build with `replace(spec, weights=None)` and load a vector.
    """

    def __init__(self, spec: ModelSpec, classes: int, seed: int) -> None:
        """Build and fill with the first values (see `initial`). Raises ScenarioError E127 for unusable weights."""
        built = anatomy(spec.backbone, classes)
        self.module = built.module
        self._parts = built.parts()
        self.layout = _layout(built)
        self.statistics = frozenset(name for name, kind in zip(self.layout.names, self.layout.kinds, strict=True) if kind == "statistic")
        self.flat = torch.zeros(self.layout.size)
        self.grad = torch.zeros(self.layout.size)
        self._numbers: Vector = self.flat.numpy()
        self._mean = torch.tensor(built.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(built.std).view(1, -1, 1, 1)
        self.parameters = self._bind()
        self._leaves = tuple(_leaves(built, self.layout))
        self._fill(spec, seed)
        self.rest()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of grey images [B, 1, H, W] in [0, 1]."""
        return self.upper(self.lower(images, 1), 1)

    def lower(self, images: Tensor, depth: int) -> Tensor:
        """What layer groups 0..depth-1 (depth >= 1) make of grey images [B, 1, H, W] in [0, 1]."""
        # Three of the four backbones are a third faster on channels-last images.
        values = ((images - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        for part in self._parts[:depth]:
            values = part(values)
        return values

    def upper(self, features: Tensor, depth: int) -> Tensor:
        """Logits [B, classes] that layer groups depth.. make of the output of `lower(images, depth)`."""
        for part in self._parts[depth:]:
            features = part(features)
        return features

    def load(self, vector: Vector) -> None:
        """Become the model that `vector` describes."""
        np.copyto(self._numbers, vector)

    def take(self) -> Vector:
        """Copy of the whole model as one vector."""
        return self._numbers.copy()

    def focus(self, trained: Iterable[str]) -> None:
        """Make exactly `trained` trainable.

        Modules with none of their entries in it run in evaluation mode, a module without entries (dropout) goes with its
        group, and a norm module whose statistics are not in it keeps them fixed (ALGORITHMS.md §4).
        """
        chosen = frozenset(trained)
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in chosen)
        awake = {leaf.group for leaf in self._leaves if leaf.own & chosen}
        for leaf in self._leaves:
            if leaf.statistics:
                leaf.module.training = bool(leaf.statistics & chosen)
            else:
                leaf.module.training = bool(leaf.own & chosen) if leaf.own else leaf.group in awake

    def rest(self) -> None:
        """Freeze everything: evaluation mode, no gradients."""
        self.focus(())

    def _bind(self) -> dict[str, nn.Parameter]:
        parameters: dict[str, nn.Parameter] = {}
        entries = zip(self.layout.names, self.layout.shapes, self.layout.kinds, self.layout.spans, strict=True)
        for name, shape, kind, (start, stop) in entries:
            owner, leaf = _owner(self.module, name)
            values = self.flat[start:stop].view(shape)
            if kind == "statistic":
                setattr(owner, leaf, values)
            else:
                parameters[name] = nn.Parameter(values)
                parameters[name].grad = self.grad[start:stop].view(shape)
                setattr(owner, leaf, parameters[name])
        for name, buffer in list(self.module.named_buffers()):
            if buffer.is_meta:
                owner, leaf = _owner(self.module, name)
                setattr(owner, leaf, torch.zeros(buffer.shape, dtype=buffer.dtype))
        return parameters

    def _fill(self, spec: ModelSpec, seed: int) -> None:
        layout = self.layout
        head = layout.of_groups(layout.depth - 1)
        for name, shape, (start, stop) in zip(layout.names, layout.shapes, layout.spans, strict=True):
            self._numbers[start:stop] = _first_values(name, shape, name in head, seed)
        if spec.weights is not None:
            spans = dict(zip(layout.names, layout.spans, strict=True))
            body = {name: shape for name, shape in zip(layout.names, layout.shapes, strict=True) if name not in head}
            for name, tensor in pretrained(spec, body, frozenset(head)).items():
                start, stop = spans[name]
                self.flat[start:stop] = tensor.reshape(-1)


def initial(spec: ModelSpec, classes: int, seed: int) -> Vector:
    """Return the first model, the same for every twin: from `spec.weights` with a new head, else drawn from `seed`.

    Weights ~ N(0, 2 / fan_in) (He et al. 2015), head ~ N(0, 0.01^2), biases 0. Raises ScenarioError E127.
    """
    return Model(spec, classes, seed).take()


def _layout(built: Anatomy) -> Layout:
    kinds: dict[str, Kind] = {}
    for path, module in built.module.named_modules():
        if isinstance(module, _BatchNorm):
            kinds |= {f"{path}.{leaf}": "norm" for leaf, _ in module.named_parameters()}
            kinds |= {f"{path}.{leaf}": "statistic" for leaf, _ in module.named_buffers()}
    entries = {name: tensor for name, tensor in built.module.state_dict().items() if tensor.is_floating_point()}
    return Layout(
        names=tuple(entries),
        shapes=tuple(tuple(tensor.shape) for tensor in entries.values()),
        kinds=tuple(kinds.get(name, "weight") for name in entries),
        groups=tuple(built.group_of(name) for name in entries),
    )


def _leaves(built: Anatomy, layout: Layout) -> Iterable[_Leaf]:
    kinds = dict(zip(layout.names, layout.kinds, strict=True))
    for path, module in built.module.named_modules():
        if any(True for _ in module.children()):
            continue
        own = frozenset(f"{path}.{leaf}" for leaf in module.state_dict() if f"{path}.{leaf}" in kinds)
        statistics = frozenset(name for name in own if kinds[name] == "statistic")
        yield _Leaf(module, own, statistics, built.group_of(path))


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def _first_values(name: str, shape: tuple[int, ...], in_head: bool, seed: int) -> Vector | float:
    if len(shape) == 1:
        return 1.0 if name.endswith((".weight", ".running_var")) else 0.0
    spread = 0.01 if in_head else math.sqrt(2 / math.prod(shape[1:]))
    values: Vector = draw(seed, "init", name).standard_normal(math.prod(shape), np.float32) * np.float32(spread)
    return values
