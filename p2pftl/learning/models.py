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
from p2pftl.learning.arithmetic import in_precision, resolved
from p2pftl.learning.backbones import Anatomy, anatomy
from p2pftl.learning.engine import prepare_torch
from p2pftl.learning.specs import Compute, ModelSpec
from p2pftl.learning.transfer import adapters_in
from p2pftl.learning.weights import pretrained
from p2pftl.params import Kind, Layout, Vector

__all__ = ["Model", "ModelSpec", "initial", "layout_of", "prepare_torch"]

PLAIN = Compute(precision="fp32", device="cpu")


@dataclass(frozen=True)
class _Leaf:
    """A module without children. own: its entries; statistics: those of them a forward pass in training mode changes."""

    module: nn.Module
    own: frozenset[str]
    statistics: frozenset[str]
    group: int


class Model:
    """A network whose parameters, gradients and norm statistics are views into flat tensors.

    compute: precision and device, without auto; device: where flat, grad, features and logits are; layout: where each tensor
    lies; flat, grad: [layout.size] float32; module: the network itself; parameters: its weights and norm parameters by name;
    statistics: names of its running means and variances.
    Integer buffers (BatchNorm's counter) stay in the module and mean nothing to anybody else.
    On a machine that has no weights file, build with `replace(spec, weights=None)` and load a vector.
    """

    def __init__(self, spec: ModelSpec, classes: int, seed: int, compute: Compute = PLAIN) -> None:
        """Build and fill with the first values (see `initial`). Raises ScenarioError E127 for unusable weights, E138 without a GPU."""
        self.compute = resolved(compute, spec.backbone)
        self.device = torch.device(self.compute.device)
        built = anatomy(spec.backbone, classes, spec.adapters)
        self.module = built.module
        self._parts = built.parts()
        self.layout = _layout(built)
        self.statistics = frozenset(name for name, kind in zip(self.layout.names, self.layout.kinds, strict=True) if kind == "statistic")
        # Torch's memory, not numpy's: it begins at a cache line, without which a step takes a tenth longer.
        numbers = torch.zeros(self.layout.size)
        self._numbers: Vector = numbers.numpy()
        self.flat = numbers.to(self.device)  # on the processor they share their memory
        self.grad = torch.zeros_like(self.flat)
        self._mean = torch.tensor(built.mean, device=self.device)
        self._std = torch.tensor(built.std, device=self.device)
        self.parameters = self._bind()
        self._leaves = tuple(leaves(built, self.layout))
        self.load(self.layout.vector(_first_tensors(self.layout, spec, seed)))
        self.rest()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of grey images [B, 1, H, W] in [0, 1]."""
        return self.upper(self.lower(images, 1), 1)

    def lower(self, images: Tensor, depth: int) -> Tensor:
        """What layer groups 0..depth-1 (1 <= depth < layout.depth) make of grey images [B, 1, H, W] in [0, 1].

        In bfloat16 if that is the model's precision. `upper` gives the same bits wherever the cut is.
        """
        # Channels-last in memory, broadcast to as many channels as the network wants.
        grey = images.to(self.device).permute(0, 2, 3, 1)
        values = (grey - self._mean).div_(self._std).permute(0, 3, 1, 2)
        return self._body(values, 0, depth)

    def upper(self, features: Tensor, depth: int) -> Tensor:
        """Logits [B, classes] float32 that layer groups depth.. make of the output of `lower(images, depth)`."""
        # The head always in 32 bits: logits of 8 bits would tie, and a ranking (AUROC) of ties means little.
        return self._parts[-1](self._body(features, depth, len(self._parts) - 1).float())  # type: ignore[no-any-return]

    def load(self, vector: Vector) -> None:
        """Become the model that `vector` describes."""
        np.copyto(self._numbers, vector)
        if self.device.type != "cpu":
            self.flat.copy_(torch.from_numpy(self._numbers))

    def take(self) -> Vector:
        """Copy of the whole model as one vector."""
        return self._numbers.copy() if self.device.type == "cpu" else self.flat.cpu().numpy()

    def views(self, flat: Tensor, depth: int = 0) -> dict[str, Tensor]:
        """Return the entries of layer groups depth.. by name, as views of their own shapes into `flat`, which holds just those."""
        layout, views, at = self.layout, {}, 0
        for name, shape, group in zip(layout.names, layout.shapes, layout.groups, strict=True):
            if group < depth:
                continue
            axes = layout.axes(shape)
            back = sorted(range(len(axes)), key=axes.__getitem__)
            stop = at + math.prod(shape)
            views[name] = flat[at:stop].view([shape[axis] for axis in axes]).permute(back)
            at = stop
        return views

    def modules(self, depth: int) -> tuple[nn.Module, ...]:
        """The modules without children in layer groups depth.., from the input to the head."""
        return tuple(leaf.module for leaf in self._leaves if leaf.group >= depth)

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

    def _body(self, values: Tensor, start: int, stop: int) -> Tensor:
        with in_precision(self.compute):
            for part in self._parts[start:stop]:
                values = part(values)
        return values

    def _bind(self) -> dict[str, nn.Parameter]:
        parameters: dict[str, nn.Parameter] = {}
        gradients = self.views(self.grad)
        for name, values in self.views(self.flat).items():
            owner, leaf = _owner(self.module, name)
            if name in self.statistics:
                setattr(owner, leaf, values)
            else:
                parameters[name] = nn.Parameter(values)
                parameters[name].grad = gradients[name]
                setattr(owner, leaf, parameters[name])
        for name, buffer in list(self.module.named_buffers()):
            if buffer.is_meta:
                owner, leaf = _owner(self.module, name)
                setattr(owner, leaf, torch.zeros(buffer.shape, dtype=buffer.dtype, device=self.device))
        return parameters


def initial(spec: ModelSpec, classes: int, seed: int) -> Vector:
    """Return the first model, the same for every twin: from `spec.weights` with new head and adapters, else drawn from `seed`.

    Weights ~ N(0, 2 / fan_in) (He et al. 2015), head ~ N(0, 0.01^2), biases 0, and 0 where adapters lead back. Raises ScenarioError E127.
    """
    return Model(spec, classes, seed).take()


def layout_of(spec: ModelSpec, classes: int) -> Layout:
    """Return the layout that a model of `spec` has, without making any of its values; weights are not looked at."""
    return _layout(anatomy(spec.backbone, classes, spec.adapters))


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
        channels_last=True,
    )


def leaves(built: Anatomy, layout: Layout) -> Iterable[_Leaf]:
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


def _first_tensors(layout: Layout, spec: ModelSpec, seed: int) -> dict[str, Vector]:
    head, adapters = frozenset(layout.of_groups(layout.depth - 1)), frozenset(adapters_in(layout))
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    spreads = {name: 0.01 if name in head else math.sqrt(2 / math.prod(shape[1:])) for name, shape in shapes.items()}
    spreads |= {name: 0.0 for name in adapters if name.endswith(".up.weight")}
    tensors = {name: _first_values(name, shape, spreads[name], seed) for name, shape in shapes.items()}
    if spec.weights is not None:
        fresh = adapters if spec.head else head | adapters
        body = {name: shape for name, shape in shapes.items() if name not in fresh}
        tensors |= {name: tensor.numpy() for name, tensor in pretrained(spec, body, fresh).items()}
    return tensors


def _first_values(name: str, shape: tuple[int, ...], spread: float, seed: int) -> Vector:
    if len(shape) == 1:
        return np.full(shape, 1.0 if name.endswith((".weight", ".running_var")) else 0.0, np.float32)
    if not spread:
        return np.zeros(shape, np.float32)
    values: Vector = draw(seed, "init", name).standard_normal(math.prod(shape), np.float32) * np.float32(spread)
    return values.reshape(shape)
