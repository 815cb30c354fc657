"""One local fit: a lesson taught to a model on one twin's cohort."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from p2pftl.draw import draw, number
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.amount import batches
from p2pftl.learning.descent import MOMENTS, STEP, Descent
from p2pftl.learning.features import Features, Images, Look, Rows
from p2pftl.learning.models import Model
from p2pftl.learning.specs import FeatureCache, Recipe
from p2pftl.learning.task import FitDiverged
from p2pftl.learning.transfer import Lesson, Phase, Transfer
from p2pftl.params import Layout, Vector

if TYPE_CHECKING:
    from p2pftl.learning.tutoring import Company

__all__ = ["Fit", "FitDiverged", "OptimizerMemory", "Recipe", "fit"]

Chosen = npt.NDArray[np.int64]
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
    memory: OptimizerMemory | None = None,
    features: Features | None = None,
    company: Company | None = None,
) -> Fit:
    """Fit `model` from `start` to `cohort` and return what came of it; `model` is scratch space.

    The same arguments give the same bytes; torch's own random state is left as it was. Entries that no phase trains are
    returned bit-identical. features: where what the frozen layers of this model make of the images is kept, which changes no byte;
    company: who else takes part. Raises FitDiverged E340, DataError E304.
    """
    if not len(cohort):
        raise DataError("E304", f"{twin}: no images to fit to", fix="give every twin at least one patient")
    model.load(start)
    kept = {} if memory is None or recipe.reset_optimizer else dict(memory)
    trained = frozenset(name for phase in lesson.phases for name in phase.trained)
    anchor = {name: tensor.detach().clone() for name, tensor in model.parameters.items() if name in trained}
    features = features or Features(model, FeatureCache(cache=False))
    study = _Study(model, start, cohort, recipe, transfer, (seed, twin, round), features, anchor, company)
    seen = _Seen()
    with _own_random_state(model.device, number(seed, "dropout", twin, round)):
        for phase in lesson.phases:
            kept = study.phase(phase, kept, seen, last=recipe.reset_optimizer and phase is lesson.phases[-1])
    model.rest()
    vector = model.take()
    _check(bool(np.isfinite(vector[_hull(model.layout, trained)]).all()), twin, round, recipe)
    names = tuple(name for name in model.layout.names if name in trained)
    return Fit(vector, seen.loss / max(seen.samples, 1), seen.samples, seen.steps, names, None if recipe.reset_optimizer else kept)


def frozen_depth(layout: Layout, trained: Iterable[str]) -> int:
    """Number of layer groups at the input that have no entry in `trained`."""
    names = frozenset(trained)
    return min((group for name, group in zip(layout.names, layout.groups, strict=True) if name in names), default=layout.depth - 1)


def head_batches(
    model: Model, start: Vector, cohort: Cohort, recipe: Recipe, phase: Phase, transfer: Transfer, key: tuple[int, str, int],
    features: Features,
) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
    """Yield what `fit` shows the head: features [B, ...] and labels [B], while `model` rests and holds the frozen part of `start`.

    key: seed, twin, round.
    """
    study = _Study(model, start, cohort, recipe, transfer, key, features, {})
    for chosen, inputs in study.inputs(phase, model.layout.depth - 1, _Seen()):
        yield inputs, torch.from_numpy(cohort.labels[chosen]).to(model.device)


def log_shares(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Log of each class's share of `labels`, [classes], every class counted once more than it comes, so that none is impossible."""
    counts = np.bincount(labels, minlength=classes) + 1.0
    shares: npt.NDArray[np.float64] = np.log(counts / counts.sum())
    return shares


@dataclass
class _Seen:
    """Running totals of one fit."""

    loss: float = 0.0
    samples: int = 0
    steps: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class _Study:
    """What all phases of one fit have in common. given, anchor: the whole model, and what of it is trained, as the fit began."""

    model: Model
    given: Vector
    cohort: Cohort
    recipe: Recipe
    transfer: Transfer
    key: tuple[int, str, int]
    features: Features
    anchor: Mapping[str, Tensor]
    company: Company | None = None

    def phase(self, phase: Phase, memory: OptimizerMemory, seen: _Seen, *, last: bool) -> dict[str, Vector]:
        """Run one phase, add to `seen`, return the optimiser's memory (nothing if nobody will ask: this is the `last` phase)."""
        model, (_, twin, round) = self.model, self.key
        parameters = {name: model.parameters[name] for name in phase.trained if name in model.parameters}
        start = {name: self.anchor[name] for name in parameters}
        slices = slices_of(model.layout, phase, memory)
        descents = descents_of(model, slices, self.recipe, memory)
        gradient = model.grad[_hull(model.layout, phase.trained)]
        together = frozenset(phase.trained)
        alone = together - model.statistics  # one image has no batch statistics
        depth, focus = frozen_depth(model.layout, together), together
        if self.company:
            depth = self.company.depth(depth)
            self.company.begin(phase)
        model.focus(focus)
        for chosen, inputs in self.inputs(phase, depth, seen):
            wanted = together if len(chosen) > 1 else alone
            if wanted is not focus:
                model.focus(wanted)
                focus = wanted
            logits = model.upper(inputs, depth) if depth else model(inputs)
            labels = torch.from_numpy(self.cohort.labels[chosen]).to(model.device)
            task_loss = cross_entropy(self._weighed(logits), labels)
            value = float(task_loss.detach())
            _check(math.isfinite(value), twin, round, self.recipe)
            gradient.zero_()
            loss = self.transfer.loss(task_loss, parameters, start)
            if self.company:
                loss = self.company.loss(loss, logits, labels, inputs, depth)
            loss.backward()  # type: ignore[no-untyped-call]
            for descent in descents:
                descent.step()
            seen.loss, seen.samples, seen.steps = seen.loss + value * len(chosen), seen.samples + len(chosen), seen.steps + 1
        return {} if last else remembered(model.layout, descents, slices, memory)

    def _weighed(self, logits: Tensor) -> Tensor:
        """Logits [B, classes] as the recipe's loss wants them."""
        if self.recipe.loss == "cross_entropy":
            return logits
        return logits + torch.from_numpy(log_shares(self.cohort.labels, logits.shape[1])).to(logits)

    def inputs(self, phase: Phase, depth: int, seen: _Seen) -> Iterator[tuple[Chosen, Tensor]]:
        """Yield batch by batch which images are seen, and what the frozen layer groups 0..depth-1 make of them (0: the images)."""
        (seed, twin, round), n, epoch = self.key, len(self.cohort), -1
        for now, rows in batches(n, self.recipe, phase):
            if now != epoch:
                order = draw(seed, "order", twin, round, seen.epochs).permutation(n)
                if epoch < 0 or self.recipe.views is not None:
                    look_up = self._looked_up(depth, seen)
                epoch, seen.epochs = now, seen.epochs + 1
            yield order[rows], look_up(order[rows])

    def _looked_up(self, depth: int, seen: _Seen) -> Callable[[Chosen], Tensor]:
        """Return what gives the inputs of some images in the epoch that begins: frozen layers are not run if what they say is known."""
        model, features, recipe = self.model, self.features, self.recipe
        moving = recipe.shift > 0 or recipe.flip
        if moving and recipe.views is None:
            if depth:
                return lambda rows: features.now(self._anew(rows, seen.steps), depth)
            return lambda rows: torch.from_numpy(self._anew(rows, seen.steps))
        look = Look(self.cohort, depth)
        if moving and recipe.views is not None:
            look = self._view((self.key[2] + seen.epochs) % recipe.views, look)
        if not depth:
            return lambda rows: torch.from_numpy(look.images(rows))
        return features.rows(look, model.take() if seen.steps else self.given)

    def _anew(self, rows: Chosen, step: int) -> Images:
        seen = self.cohort.images(rows)
        return augmented(seen, self.recipe, draw(self.key[0], "augment", *self.key[1:], step))

    def _view(self, number: int, look: Look) -> Look:
        """The cohort in one of its fixed views: every image has its own draw, the same in all rounds."""
        recipe, (seed, twin, _) = self.recipe, self.key
        by, mirrored = _movements(len(self.cohort), recipe, draw(seed, "view", twin, number))

        def read(rows: Rows) -> Images:
            return _moved(look.cohort.images(rows), by[rows], mirrored[rows], recipe.shift)

        return replace(look, read=read, view=(seed, twin, number, recipe.shift, recipe.flip))


def augmented(images: Images, recipe: Recipe, generator: np.random.Generator) -> Images:
    """Return [B, 1, H, W] images, each shifted (its edge repeated) and perhaps mirrored, as the recipe allows."""
    return _moved(images, *_movements(len(images), recipe, generator), recipe.shift)


def _movements(n: int, recipe: Recipe, generator: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Draw how far n images move, [n, 2] pixels (down, right), and which are mirrored."""
    by = generator.integers(-recipe.shift, recipe.shift + 1, (n, 2))
    return by, generator.random(n) < (0.5 if recipe.flip else 0.0)


def _moved(images: Images, by: npt.NDArray[np.int64], mirrored: npt.NDArray[np.bool_], shift: int) -> Images:
    edge = ((0, 0), (shift, shift), (shift, shift))
    height, width = images.shape[2:]
    out = np.empty_like(images)
    for image, (down, right), mirror, target in zip(images, by + shift, mirrored, out, strict=True):
        moved = np.pad(image, edge, mode="edge")[:, down : down + height, right : right + width]
        target[:] = moved[:, :, ::-1] if mirror else moved
    return out


def _hull(layout: Layout, trained: Iterable[str]) -> slice:
    """From the first element of the entries in `trained` to their last."""
    ranges = layout.ranges(trained) or ((0, 0),)
    return slice(ranges[0][0], ranges[-1][1])


def slices_of(layout: Layout, phase: Phase, memory: OptimizerMemory) -> list[_Slice]:
    """Cut the trained elements into runs of one learning rate and one age, statistics left out."""
    trained, ages = frozenset(phase.trained), memory.get(STEP)
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


def descents_of(model: Model, slices: list[_Slice], recipe: Recipe, memory: OptimizerMemory) -> list[Descent]:
    """One optimiser per slice of the flat vector, with what is remembered of it."""
    descents = []
    for part in slices:
        rows = slice(part.start, part.stop)
        known = {name: torch.from_numpy(memory[name][rows].copy()).to(model.device) for name in MOMENTS[recipe.optimizer] if name in memory}
        if known and STEP in memory:
            known[STEP] = torch.tensor(part.age, device=model.device)
        descents.append(Descent(recipe, recipe.lr * part.factor, model.flat[rows], model.grad[rows], known))
    return descents


def remembered(layout: Layout, descents: list[Descent], slices: list[_Slice], memory: OptimizerMemory) -> dict[str, Vector]:
    """Return `memory` with what `descents` learnt about their slices written in."""
    kept = {name: values.copy() for name, values in memory.items()}
    for descent, part in zip(descents, slices, strict=True):
        for name, value in descent.state.items():
            if name == STEP:
                kept.setdefault(name, np.zeros(len(layout.names), np.float32))[list(part.entries)] = float(value)
            else:
                kept.setdefault(name, np.zeros(layout.size, np.float32))[part.start : part.stop] = value.cpu().numpy()
    return kept


@contextmanager
def _own_random_state(device: torch.device, seed: int) -> Iterator[None]:
    """Let dropout draw from `seed`, and give torch its random state back."""
    generator = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[torch.cuda.current_device()]
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
