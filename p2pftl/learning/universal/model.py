"""The universal network bound to one flat vector; the encoder is the front of it, whatever its end is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from p2pftl.draw import draw
from p2pftl.errors import ScenarioError
from p2pftl.learning.arithmetic import resolved
from p2pftl.learning.backbones import Anatomy
from p2pftl.learning.models import PLAIN, Model, leaves
from p2pftl.learning.specs import Compute
from p2pftl.learning.universal.network import MEAN, STD, Decoder, with_decoder, with_head
from p2pftl.learning.universal.spec import EncoderSpec, UniversalSpec
from p2pftl.learning.weights import pretrained
from p2pftl.params import Kind, Layout, Vector

HEAD = ("head.weight", "head.bias")
DECODER = ("decoder.token", "decoder.cells.weight", "decoder.cells.bias")
_FINE = 0.01  # spread of a new head's first values


class Universal(Model):
    """An encoder and its end, with everything that a Model has.

    classes: outputs of the head, or 0 for a decoder of masked images; outputs: how many of the head's outputs count now.
    encoder: number of elements of a vector that are the encoder's, which come first and lie alike whatever the end is.
    """

    def __init__(self, spec: EncoderSpec, classes: int, seed: int, compute: Compute = PLAIN, weights: str | None = None) -> None:
        """Build and fill with the first values, drawn from `seed` by name; the encoder's from the file `weights`, if one is given, and
        the decoder's if that file has one. Raises ScenarioError E127 for unusable weights, E138 without a GPU."""
        # Model's own constructor knows torchvision's networks only; the rest of it is taken as it is.
        self.compute = resolved(compute, "compact")
        self.device = torch.device(self.compute.device)
        self.classes = self.outputs = classes
        built = _anatomy(spec, classes)
        self.module = built.module
        self._parts = built.parts()
        self.layout = _layout(built)
        self.statistics = frozenset()
        self.encoder = encoder_size(self.layout)
        numbers = torch.zeros(self.layout.size)
        self._numbers: Vector = numbers.numpy()
        self.flat = numbers.to(self.device)
        self.grad = torch.zeros_like(self.flat)
        self._mean = torch.tensor(built.mean, device=self.device)
        self._std = torch.tensor(built.std, device=self.device)
        self.parameters = self._bind()
        self._leaves = tuple(leaves(built, self.layout))
        first = {name: _first(name, shape, seed) for name, shape in _shapes(self.layout)}
        self.load(self.layout.vector(first | (read(weights, self.layout) if weights else {})))
        self.rest()

    def upper(self, features: Tensor, depth: int) -> Tensor:
        """Logits [B, outputs] of the outputs that count now, or images [B, 1, H, W] of a decoder."""
        found = super().upper(features, depth)
        return found[:, : self.outputs] if self.classes else found

    @contextmanager
    def answering(self, outputs: int) -> Iterator[None]:
        """Let only the first `outputs` of the head count: the others get no gradient, and no score."""
        self.outputs = outputs
        try:
            yield
        finally:
            self.outputs = self.classes

    def features(self, images: Tensor) -> Tensor:
        """What the encoder tells of grey images [B, 1, H, W] in [0, 1]: [B, C, H / 8, W / 8]; pooled, [B, 2 C], before a head."""
        return self.lower(images, self.layout.depth - 1)

    def restored(self, images: Tensor, mask: Tensor) -> Tensor:
        """What the decoder makes of images [B, 1, H, W] whose pixels are hidden where mask [B, 1, H, W] is 1."""
        decoder = self.module.get_submodule("decoder")
        assert isinstance(decoder, Decoder)
        shown = images.to(self.device) * (1 - mask) + (decoder.token * STD + MEAN) * mask  # the token is in the encoder's own units
        return super().upper(self.features(shown), self.layout.depth - 1)


def read(weights: str, layout: Layout) -> dict[str, Vector]:
    """Tensors of the encoder, and of the decoder if both have one, by name. Raises ScenarioError E127 for what is no encoder like it."""
    shapes = dict(_shapes(layout))
    end = frozenset(name for name in (*HEAD, *DECODER) if name not in shapes)
    spec = UniversalSpec(weights=weights)
    try:
        whole = pretrained(spec, {name: shape for name, shape in shapes.items() if name not in HEAD}, frozenset((*end, *HEAD)))
    except ScenarioError:
        if not shapes.keys() & set(DECODER):
            raise
        fresh = frozenset((*HEAD, *DECODER))
        whole = pretrained(spec, {name: shape for name, shape in shapes.items() if name not in fresh}, fresh)
    return {name: tensor.numpy() for name, tensor in whole.items()}


def layout_of(spec: EncoderSpec, classes: int) -> Layout:
    """Layout of the encoder with a head for `classes` classes, or with its decoder for 0."""
    return _layout(_anatomy(spec, classes))


def encoder_size(layout: Layout) -> int:
    """Elements of the encoder, which lie in front of everything else."""
    return layout.ranges(layout.of_groups(layout.depth - 1))[0][0]


def with_encoder(vector: Vector, encoder: Vector) -> Vector:
    """`vector`, whatever its end, with another encoder in front."""
    return np.concatenate((encoder, vector[len(encoder) :]))


def _anatomy(spec: EncoderSpec, classes: int) -> Anatomy:
    return with_head(spec, classes) if classes else with_decoder(spec)


def _layout(built: Anatomy) -> Layout:
    norms = {path for path, module in built.module.named_modules() if isinstance(module, nn.GroupNorm)}
    kinds: dict[str, Kind] = {name: "norm" if name.rpartition(".")[0] in norms else "weight" for name in built.module.state_dict()}
    entries = built.module.state_dict()
    return Layout(
        names=tuple(entries),
        shapes=tuple(tuple(tensor.shape) for tensor in entries.values()),
        kinds=tuple(kinds.values()),
        groups=tuple(built.group_of(name) for name in entries),
        channels_last=True,
    )


def _shapes(layout: Layout) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from zip(layout.names, layout.shapes, strict=True)


def _first(name: str, shape: tuple[int, ...], seed: int) -> Vector:
    """He et al. 2015; a head N(0, 0.01^2); half of it where a layer only adds to what passes by, and in the decoder."""
    if len(shape) == 1:
        return np.full(shape, 1.0 if name.endswith(".weight") else 0.0, np.float32)
    adds = name.endswith(".conv.weight") or name.startswith("decoder.")
    spread = _FINE if name.startswith("head.") else math.sqrt(2 / math.prod(shape[1:])) * (0.5 if adds else 1)
    values: Vector = draw(seed, "init", name).standard_normal(math.prod(shape), np.float32) * np.float32(spread)
    return values.reshape(shape)
