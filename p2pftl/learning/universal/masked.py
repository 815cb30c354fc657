"""Masked images as a task: an encoder learns what images look like, and no label is ever looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.amount import batches, samples_seen
from p2pftl.learning.fit import augmented, descents_of, remembered, slices_of
from p2pftl.learning.knowledge import Tutor
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged, Learnt, Memory, Scene, Work
from p2pftl.learning.transfer import Lesson, Phase, Transfer, adaptation
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.probe import Judge
from p2pftl.learning.universal.spec import STRIDE, Masking
from p2pftl.params import Layout, Vector, length

AT_ONCE = 64  # images that are scored together
Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MaskedImages:
    """A task over a twin's own images and test images; their labels are not learnt from.

    model: scratch space with a decoder, shared by the twins of a process; start: parameters everyone starts from; listens: this
    twin's images are not learnt from; classes: of its own label set, which its test images are judged by, 0 for not at all.
    """

    name: str
    model: Universal
    start: Vector = field(repr=False)
    cohorts: Mapping[str, Cohort]
    recipe: Recipe
    transfer: Transfer
    seed: int
    masking: Masking = field(default_factory=Masking)
    listens: bool = False
    classes: int = 0

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def samples(self) -> int:
        return len(self.cohorts["train"])

    def initial(self) -> Vector:
        return self.start

    def work(self, round: int, scene: Scene) -> Work:
        lesson, held = self._lesson(round, scene), len(self._cohort("train", scene))
        return Work(lesson.shared, samples_seen(self.recipe, lesson, held), 0 if self.listens else held, self.listens)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train from `vector`, without tutors. The same arguments give the same bytes. Raises FitDiverged E340, DataError E304, E315."""
        assert not tutors
        cohort, lesson, model = self._cohort("train", scene), self._lesson(round, scene), self.model
        if not len(cohort):
            raise DataError("E304", f"{self.name}: no images to fit to", fix="give every twin at least one patient")
        model.load(vector)
        study = _Study(self, cohort, round, {name: tensor.detach().clone() for name, tensor in model.parameters.items()})
        kept = {} if memory is None or self.recipe.reset_optimizer else dict(memory)
        for phase in lesson.phases:
            kept = study.phase(phase, kept)
        model.rest()
        learnt = model.take()
        study.check(bool(np.isfinite(learnt).all()))
        trained = length(self.layout.ranges(name for phase in lesson.phases for name in phase.trained)) / self.layout.size
        loss = study.loss / max(study.samples, 1)
        return Learnt(learnt, loss, study.samples, study.steps, trained, None if self.recipe.reset_optimizer else kept)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """How well `vector` restores masked pixels, under the same masks in every round; empty if the split has no images.

        loss: mean absolute error over masked pixels, grey levels in [0, 1]; gain: 1 - loss / that of the image's visible mean; on
        "test" also what `Judge` finds, which is where labels are looked at.
        """
        cohort = self._cohort(split, scene)
        if not len(cohort):
            return {}
        self.model.load(vector)
        self.model.rest()
        masks = masked(len(cohort), cohort.pixels.shape[1], self.masking, draw(self.seed, "mask", self.name, split))
        lost, plain = 0.0, 0.0
        with torch.no_grad():
            for at in range(0, len(cohort), AT_ONCE):
                images, mask = torch.from_numpy(cohort.images(slice(at, at + AT_ONCE))), torch.from_numpy(masks[at : at + AT_ONCE])
                lost += float(restoration(self.model, images, mask)) * len(images)
                plain += float(_error(_visible_mean(images, mask), images, mask)) * len(images)
        judged = self._judge(vector, split) if split == "test" and self.classes else {}
        return {"loss": _value(lost / len(cohort)), "gain": _value(1 - lost / plain) if plain else None, **judged}

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self.model, self.start, self.cohorts, self.classes)

    def _cohort(self, split: str, scene: Scene) -> Cohort:
        return scene.cohorts.get(split, self.cohorts[split])  # type: ignore[no-any-return]

    def _lesson(self, round: int, scene: Scene) -> Lesson:
        return adaptation(self.layout) if scene.adapt else self.transfer.plan(round, self.layout)


def masked(n: int, side: int, masking: Masking, generator: np.random.Generator) -> Images:
    """Masks [n, 1, side, side], 1 where a pixel is hidden: of every image the same number of squares. Raises DataError E315."""
    if side % STRIDE or side % masking.unit:
        fix = f"choose a size that both {STRIDE} and masking.unit = {masking.unit} divide"
        raise DataError("E315", f"images {side} pixels wide cannot be masked in whole squares", fix=fix)
    across = side // masking.unit
    hidden = max(1, round(masking.ratio * across**2))
    squares = np.argsort(generator.random((n, across**2)), axis=1) < hidden  # ranks: which of them are low is as random
    pixels = squares.reshape(n, 1, across, across).repeat(masking.unit, 2).repeat(masking.unit, 3)
    return pixels.astype(np.float32)


def restoration(model: Universal, images: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the masked pixels of images [B, 1, H, W] (SimMIM, Xie et al. 2022)."""
    images, mask = images.to(model.device), mask.to(model.device)
    return _error(model.restored(images, mask), images, mask)


def _error(guessed: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    return ((guessed - images).abs() * mask).sum() / mask.sum()


def _value(number: float) -> float:
    """Of the digits that float32 has."""
    return round(number, 7)


def _visible_mean(images: Tensor, mask: Tensor) -> Tensor:
    return (images * (1 - mask)).sum((1, 2, 3), keepdim=True) / (1 - mask).sum((1, 2, 3), keepdim=True).clamp(min=1)


@dataclass
class _Study:
    """One fit under way. begun: what can be trained, as the fit began; loss: summed over images."""

    task: MaskedImages
    cohort: Cohort
    round: int
    begun: Mapping[str, Tensor]
    loss: float = 0.0
    samples: int = 0
    steps: int = 0
    epochs: int = 0

    def phase(self, phase: Phase, memory: Mapping[str, Vector]) -> dict[str, Vector]:
        """Run one phase and return what the optimiser remembers."""
        model, recipe, transfer = self.task.model, self.task.recipe.at(self.round), self.task.transfer
        parameters = {name: model.parameters[name] for name in phase.trained}
        start = {name: self.begun[name] for name in parameters}
        slices = slices_of(model.layout, phase, memory)
        descents = descents_of(model, slices, recipe, memory)
        model.focus(phase.trained)
        epoch = -1
        for now, rows in batches(len(self.cohort), recipe, phase):
            if now != epoch:
                order, epoch = draw(self.task.seed, "order", self.task.name, self.round, self.epochs).permutation(len(self.cohort)), now
                self.epochs += 1
            loss = self._loss(order[rows])
            value = float(loss.detach())
            self.check(math.isfinite(value))
            model.grad.zero_()
            transfer.loss(loss, parameters, start).backward()  # type: ignore[no-untyped-call]
            for descent in descents:
                descent.step()
            many = len(order[rows])
            self.loss, self.samples, self.steps = self.loss + value * many, self.samples + many, self.steps + 1
        return {} if recipe.reset_optimizer else remembered(model.layout, descents, slices, memory)

    def check(self, finite: bool) -> None:
        """Raise FitDiverged unless `finite`."""
        if not finite:
            task, rate = self.task, self.task.recipe.at(self.round).lr
            problem = f"{task.name}, round {self.round}: the fit diverged (loss or weights are not finite) at learning rate {rate:g}"
            raise FitDiverged("E340", problem, fix=f"lower it, to {rate / 10:g} for instance")

    def _loss(self, rows: npt.NDArray[np.int64]) -> Tensor:
        task, key = self.task, (self.task.name, self.round, self.steps)
        images = augmented(self.cohort.images(rows), task.recipe, draw(task.seed, "augment", *key))
        mask = masked(len(images), images.shape[-1], task.masking, draw(task.seed, "mask", *key))
        return restoration(task.model, torch.from_numpy(images), torch.from_numpy(mask))
