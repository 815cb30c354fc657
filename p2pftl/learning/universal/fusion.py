"""Encoders that learnt apart become one, from their values and from images without labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from p2pftl.draw import draw
from p2pftl.learning.descent import Descent
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged
from p2pftl.learning.universal.masked import masked, restoration
from p2pftl.learning.universal.model import Universal, with_encoder
from p2pftl.learning.universal.spec import Fusion, Masking
from p2pftl.params import Vector, weighted_sum

Images = npt.NDArray[np.float32]
AT_ONCE = 64  # images that a teacher sees together


def fuse(encoders: Sequence[Vector], weights: Sequence[float]) -> Vector:
    """The weighted mean of encoders that have a common origin. Weights are scaled to a sum of 1. Raises ValueError."""
    if len(encoders) != len(weights) or not encoders or min(weights) < 0 or not sum(weights) > 0:
        raise ValueError("one weight of at least 0 per encoder, not all 0")
    total = math.fsum(weights)
    return weighted_sum(encoders, [weight / total for weight in weights])


def universal(
    model: Universal, start: Vector, encoders: Sequence[Vector], weights: Sequence[float], images: Sequence[Images],
    fusion: Fusion, masking: Masking, seed: int, stage: int,
) -> Vector:  # fmt: skip
    """The next universal encoder and its decoder, a whole vector of `model` (which has a decoder and is scratch space).

    start: the vector before, of which the decoder is taken; images: sets of unlabelled images [n, 1, H, W] float32, sizes may differ
    between sets. The same arguments give the same bytes. Raises TypeError for anything that is not plain images, FitDiverged E340.
    """
    mean = with_encoder(start, fuse(encoders, weights))
    return mean if fusion.mode == "average" else distilled(model, mean, encoders, weights, images, fusion, masking, seed, stage)


def distilled(
    model: Universal, start: Vector, teachers: Sequence[Vector], weights: Sequence[float], images: Sequence[Images],
    fusion: Fusion, masking: Masking, seed: int, stage: int,
) -> Vector:  # fmt: skip
    """A student that starts from `start` and learns what each teacher's encoder says of the images.

    Minimises sum_k w_k ||P_k n(f_S(x)) - n(f_k(x))||^2 / channels + masked x the masked-image loss, where n normalises the channels of
    each cell and P_k, a matrix that starts as the identity, is learnt too and thrown away (ALGORITHMS.md section 8).
    """
    check_unlabelled(images)
    said = [[_said(model, with_encoder(start, teacher), part) for teacher in teachers] for part in images]
    model.load(start)
    model.focus(model.parameters)
    lost = _Lost(model, images, said, [weight / math.fsum(weights) for weight in weights], fusion, masking)
    alignments = torch.eye(said[0][0].shape[1]).repeat(len(teachers), 1, 1).to(model.device).requires_grad_()
    alignments.grad = torch.zeros_like(alignments)
    recipe = Recipe(optimizer="adam", lr=fusion.lr)
    descents = Descent(recipe, recipe.lr, model.flat, model.grad), Descent(recipe, recipe.lr, alignments.data, alignments.grad)
    for step, (part, rows) in enumerate(_batches([len(part) for part in images], fusion, seed, stage)):
        model.grad.zero_()
        alignments.grad.zero_()
        lost(part, rows, alignments, draw(seed, "fusion mask", stage, step)).backward()  # type: ignore[no-untyped-call]
        for descent in descents:
            descent.step()
    model.rest()
    found = model.take()
    if not np.isfinite(found).all():
        raise FitDiverged("E340", "the fusion of encoders diverged", fix=f"lower its lr, to {fusion.lr / 10:g} for instance")
    return found


def check_unlabelled(images: Sequence[Images]) -> None:
    """Raise TypeError unless these are sets of images and nothing else: a cohort, which has labels, is refused."""
    if not images or not all(_plain(part) for part in images):
        raise TypeError("fusion takes images [n, 1, H, W] float32 and nothing else, above all no labels")


def _plain(images: object) -> bool:
    return type(images) is np.ndarray and images.dtype == np.float32 and images.ndim == 4 and images.shape[1] == 1


class _Lost:
    """What a step loses. said: set of images -> teacher -> what it says of them; weights: of the teachers, 1 together."""

    def __init__(
        self, model: Universal, images: Sequence[Images], said: Sequence[Sequence[Tensor]], weights: Sequence[float],
        fusion: Fusion, masking: Masking,
    ) -> None:  # fmt: skip
        self.model, self.images, self.said, self.weights = model, images, said, weights
        self.fusion, self.masking = fusion, masking

    def __call__(self, part: int, rows: npt.NDArray[np.int64], alignments: Tensor, generator: np.random.Generator) -> Tensor:
        seen = torch.from_numpy(self.images[part][rows])
        mine = normalised(self.model.features(seen))
        total = torch.zeros((), device=self.model.device)
        for weight, alignment, teacher in zip(self.weights, alignments, self.said[part], strict=True):
            aligned = torch.einsum("oc,bchw->bohw", alignment, mine)
            total = total + weight * (aligned - teacher[torch.from_numpy(rows)].to(self.model.device)).square().mean()
        if self.fusion.masked:
            mask = torch.from_numpy(masked(len(seen), seen.shape[-1], self.masking, generator))
            total = total + self.fusion.masked * restoration(self.model, seen, mask)
        return total


def normalised(features: Tensor) -> Tensor:
    """Features [B, C, H, W] with mean 0 and variance 1 over the channels of each cell."""
    return layer_norm(features.permute(0, 2, 3, 1).float(), features.shape[1:2]).permute(0, 3, 1, 2)


def _said(model: Universal, vector: Vector, images: Images) -> Tensor:
    """What the encoder of `vector` says of images, [n, C, H / 8, W / 8] on the processor."""
    model.load(vector)
    model.rest()
    with torch.no_grad():
        parts = [normalised(model.features(torch.from_numpy(images[at : at + AT_ONCE]))) for at in range(0, len(images), AT_ONCE)]
    return torch.cat(parts).cpu()


def _batches(sizes: Sequence[int], fusion: Fusion, seed: int, stage: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Each step a batch of one set, the sets in turn."""
    for step in range(fusion.steps):
        part = step % len(sizes)
        chosen = draw(seed, "fusion", stage, step).permutation(sizes[part])[: fusion.batch]
        yield part, chosen
