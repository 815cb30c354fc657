"""One local fit: a lesson taught to a model on one twin's cohort."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from p2pftl.draw import draw, number
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.models import Model
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged
from p2pftl.learning.transfer import Lesson, Phase, Transfer
from p2pftl.params import Layout, Vector

__all__ = ["Fit", "FitDiverged", "OptimizerMemory", "Recipe", "fit", "samples_seen"]

_STEP = "step"
_MOMENTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}  # torch's names

OptimizerMemory = Mapping[str, Vector]
"""Optimiser state between rounds: name -> float32, as long as the model, or one number per entry ("step")."""


@dataclass(frozen=True)
class Fit:
    """What came of a fit.

    vector: the whole model afterwards; loss: mean task loss over the images as they were seen; samples: images seen,
    repeats counted; steps: optimiser steps; trained: entries that may differ from the start; memory: None if the
    recipe forgets it.
    """

    vector: Vector
    loss: float
    samples: int
    steps: int
    trained: tuple[str, ...]
    memory: OptimizerMemory | None


@dataclass(frozen=True)
class _Slice:
    """A run of trained entries that one optimiser parameter holds: same learning rate, same history."""

    start: int
    stop: int
    entries: tuple[int, ...]
    factor: float
    age: float


def fit(
    model: Model,
    start: Vector,
    cohort: Cohort,
    recipe: Recipe,
    lesson: Lesson,
    transfer: Transfer,
    *,
    seed: int,
    twin: str,
    round: int,
    hu_offset: float = 0.0,
    memory: OptimizerMemory | None = None,
) -> Fit:
    """Fit `model` from `start` to `cohort` and return what came of it; `model` is scratch space.

    The same arguments give the same bytes; torch's own random state is left as it was. Entries that no phase trains are
    returned bit-identical. hu_offset: calibration error of the scanner, HU. Raises FitDiverged E340, DataError E304.
    """
    if not len(cohort):
        raise DataError("E304", f"{twin}: no images to fit to", fix="give every twin at least one patient")
    model.load(start)
    kept = {} if memory is None or recipe.reset_optimizer else dict(memory)
    study = _Study(model, cohort, recipe, transfer, (seed, twin, round), hu_offset, model.flat.clone())
    seen = _Seen()
    with _own_random_state(number(seed, "dropout", twin, round)):
        for phase in lesson.phases:
            kept = study.phase(phase, kept, seen)
    model.rest()
    vector = model.take()
    _check(bool(np.isfinite(vector).all()), twin, round, recipe)
    trained = {name for phase in lesson.phases for name in phase.trained}
    names = tuple(name for name in model.layout.names if name in trained)
    return Fit(vector, seen.loss / max(seen.samples, 1), seen.samples, seen.steps, names, None if recipe.reset_optimizer else kept)


def samples_seen(recipe: Recipe, lesson: Lesson, n: int) -> int:
    """Number of images a fit on `n` images looks at, repeats counted: what virtual compute time is made of."""
    total = 0
    for phase in lesson.phases:
        if phase.epochs is not None or recipe.steps is None:
            total += n * (phase.epochs or recipe.epochs)
        else:
            sizes = [rows.stop - rows.start for rows in _epoch(n, recipe.batch)]
            whole, rest = divmod(recipe.steps, len(sizes))
            total += whole * n + sum(sizes[:rest])
    return total


@dataclass
class _Seen:
    """Running totals of one fit."""

    loss: float = 0.0
    samples: int = 0
    steps: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class _Study:
    """What all phases of one fit have in common."""

    model: Model
    cohort: Cohort
    recipe: Recipe
    transfer: Transfer
    key: tuple[int, str, int]
    hu_offset: float
    anchor: Tensor

    def phase(self, phase: Phase, memory: OptimizerMemory, seen: _Seen) -> dict[str, Vector]:
        """Run one phase, add to `seen`, return the optimiser's memory."""
        model, (seed, twin, round) = self.model, self.key
        parameters = {name: model.parameters[name] for name in phase.trained if name in model.parameters}
        spans = dict(zip(model.layout.names, model.layout.spans, strict=True))
        start = {name: self.anchor[slice(*spans[name])].view_as(tensor) for name, tensor in parameters.items()}
        slices = _slices(model.layout, phase, memory)
        optimizer = _optimizer(model, slices, self.recipe, memory)
        still = frozenset(phase.trained) - model.statistics
        epoch, order = -1, np.empty(0, np.int64)
        for now, rows in _batches(len(self.cohort), self.recipe, phase):
            if now != epoch:
                order = draw(seed, "order", twin, round, seen.epochs).permutation(len(self.cohort))
                epoch, seen.epochs = now, seen.epochs + 1
            chosen = order[rows]
            model.focus(phase.trained if len(chosen) > 1 else still)  # one image has no batch statistics
            task_loss = cross_entropy(self._logits(chosen, seen.steps), torch.from_numpy(self.cohort.labels[chosen]))
            value = float(task_loss.detach())
            _check(math.isfinite(value), twin, round, self.recipe)
            model.grad.zero_()
            self.transfer.loss(task_loss, parameters, start).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen.loss, seen.samples, seen.steps = seen.loss + value * len(chosen), seen.samples + len(chosen), seen.steps + 1
        return _remember(model.layout, optimizer, slices, memory)

    def _logits(self, chosen: npt.NDArray[np.int64], step: int) -> Tensor:
        images = self.cohort.images(chosen.tolist(), hu_offset=self.hu_offset)
        if self.recipe.shift or self.recipe.flip:
            images = augmented(images, self.recipe, draw(self.key[0], "augment", *self.key[1:], step))
        return self.model(torch.from_numpy(images))


def augmented(images: npt.NDArray[np.float32], recipe: Recipe, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return [B, 1, H, W] images, each shifted (its edge repeated) and perhaps mirrored, as the recipe allows."""
    by = generator.integers(-recipe.shift, recipe.shift + 1, (len(images), 2))
    mirrored = generator.random(len(images)) < (0.5 if recipe.flip else 0.0)
    edge = ((0, 0), (recipe.shift, recipe.shift), (recipe.shift, recipe.shift))
    height, width = images.shape[2:]
    out = np.empty_like(images)
    for image, (down, right), mirror, target in zip(images, by + recipe.shift, mirrored, out, strict=True):
        moved = np.pad(image, edge, mode="edge")[:, down : down + height, right : right + width]
        target[:] = moved[:, :, ::-1] if mirror else moved
    return out


def _epoch(n: int, batch: int) -> list[slice]:
    """Cut n images into batches; a last batch of one joins the one before it."""
    stops = list(range(batch, n, batch))
    if stops and batch > 1 and n - stops[-1] == 1:
        stops.pop()
    return [slice(start, stop) for start, stop in itertools.pairwise([0, *stops, n])]


def _batches(n: int, recipe: Recipe, phase: Phase) -> Iterator[tuple[int, slice]]:
    """Yield (epoch, rows of that epoch's order): the phase's epochs, else the recipe's steps, else its epochs."""
    rows = _epoch(n, recipe.batch)
    if phase.epochs is None and recipe.steps is not None:
        endless = ((epoch, part) for epoch in itertools.count() for part in rows)
        yield from itertools.islice(endless, recipe.steps)
    else:
        yield from ((epoch, part) for epoch in range(phase.epochs or recipe.epochs) for part in rows)


def _slices(layout: Layout, phase: Phase, memory: OptimizerMemory) -> list[_Slice]:
    """Cut the trained elements into runs of one learning rate and one age, statistics left out."""
    trained, ages = frozenset(phase.trained), memory.get(_STEP)
    slices: list[_Slice] = []
    for entry, (name, kind, (start, stop)) in enumerate(zip(layout.names, layout.kinds, layout.spans, strict=True)):
        if name not in trained or kind == "statistic":
            continue
        factor, age = phase.lr.get(layout.groups[entry], 1.0), 0.0 if ages is None else float(ages[entry])
        last = slices[-1] if slices else None
        if last and last.stop == start and last.factor == factor and last.age == age:
            slices[-1] = replace(last, stop=stop, entries=(*last.entries, entry))
        else:
            slices.append(_Slice(start, stop, (entry,), factor, age))
    return slices


def _optimizer(model: Model, slices: list[_Slice], recipe: Recipe, memory: OptimizerMemory) -> torch.optim.Optimizer:
    """An optimiser over slices of the flat vector: one parameter each, sharing its storage and gradient."""
    groups: list[dict[str, Any]] = []
    for part in slices:
        parameter = torch.nn.Parameter(model.flat[part.start : part.stop])
        parameter.grad = model.grad[part.start : part.stop]
        groups.append({"params": [parameter], "lr": recipe.lr * part.factor})
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.Adam(groups, recipe.lr, weight_decay=recipe.weight_decay)
    for group, part in zip(groups, slices, strict=True):
        moments = [name for name in _MOMENTS[recipe.optimizer] if name in memory]
        known = {name: torch.from_numpy(memory[name][part.start : part.stop].copy()) for name in moments}
        if known and _STEP in memory:
            known[_STEP] = torch.tensor(part.age)
        optimizer.state[group["params"][0]].update(known)
    return optimizer


def _remember(layout: Layout, optimizer: torch.optim.Optimizer, slices: list[_Slice], memory: OptimizerMemory) -> dict[str, Vector]:
    """Return `memory` with what `optimizer` learnt about its slices written in."""
    kept = {name: values.copy() for name, values in memory.items()}
    for group, part in zip(optimizer.param_groups, slices, strict=True):
        for name, value in optimizer.state.get(group["params"][0], {}).items():
            if not isinstance(value, Tensor):
                continue
            if name == _STEP:
                kept.setdefault(name, np.zeros(len(layout.names), np.float32))[list(part.entries)] = float(value)
            else:
                kept.setdefault(name, np.zeros(layout.size, np.float32))[part.start : part.stop] = value.numpy()
    return kept


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Let dropout draw from `seed`, and give torch its random state back."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def _check(finite: bool, twin: str, round: int, recipe: Recipe) -> None:
    if not finite:
        problem = f"{twin}, round {round}: the fit diverged (loss or weights are not finite) at learning rate {recipe.lr:g}"
        raise FitDiverged("E340", problem, fix=f"lower it, to {recipe.lr / 10:g} for instance")
