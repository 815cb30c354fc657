"""Detection as a task: vectors in, vectors out, on images with boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2pftl.draw import draw, number
from p2pftl.errors import DataError
from p2pftl.imaging.boxes import BoxCohort
from p2pftl.learning.amount import one_epoch, samples_seen
from p2pftl.learning.descent import MOMENTS, STEP, Descent
from p2pftl.learning.detection.cascade import Detections
from p2pftl.learning.detection.geometry import Truth, areas
from p2pftl.learning.detection.model import Detector
from p2pftl.learning.detection.score import measure
from p2pftl.learning.knowledge import Tutor
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged, Learnt, Memory, Scene, Work
from p2pftl.learning.transfer import Lesson, Phase, Transfer, adaptation
from p2pftl.params import Layout, Vector, length

STEEPEST = 10.0  # norm that a gradient is cut down to: one image without a finding after many with some is no reason to diverge
AT_ONCE = 8  # images that are scored together
SHOWN = 3  # of them in a picture

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Detection:
    """A task over a twin's own train and validation cohorts and the common test cohort.

    model: scratch space shared by the twins of a process; start: parameters everyone starts from; picture: where to draw what
    is found in test images when `last`, a round, is scored; None for nowhere.
    """

    name: str
    model: Detector
    start: Vector = field(repr=False)
    cohorts: Mapping[str, BoxCohort]
    recipe: Recipe
    transfer: Transfer
    seed: int
    picture: Path | None = None
    last: int = 0

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def samples(self) -> int:
        return len(self.cohorts["train"])

    def initial(self) -> Vector:
        return self.start

    def work(self, round: int, scene: Scene) -> Work:
        held = len(self._cohort("train", scene))
        lesson = self._lesson(round, scene)
        return Work(lesson.shared, samples_seen(self.recipe, lesson, held), held)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train from `vector`, without tutors. The same arguments give the same bytes. Raises FitDiverged E340, DataError E304."""
        assert not tutors
        cohort, lesson = self._cohort("train", scene), self._lesson(round, scene)
        if not len(cohort):
            raise DataError("E304", f"{self.name}: no images to fit to", fix="give every twin at least one patient")
        self.model.load(vector)
        kept = {} if memory is None or self.recipe.reset_optimizer else dict(memory)
        study = _Study(self, cohort, round, {name: tensor.detach().clone() for name, tensor in self.model.parameters.items()})
        with _own_random_state(number(self.seed, "detection", self.name, round)):
            for phase in lesson.phases:
                kept = study.phase(phase, kept)
        self.model.focus(())
        learnt = self.model.take()
        trained = self.layout.ranges({name for phase in lesson.phases for name in phase.trained} & self.model.parameters.keys())
        study.check(bool(np.isfinite(learnt).all()))
        loss = study.loss / max(study.samples, 1)
        memory = None if self.recipe.reset_optimizer else kept
        return Learnt(learnt, loss, study.samples, study.steps, length(trained) / self.layout.size, memory)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Average precision and what else `measure` says, on "validation" or "test"; empty if the split has no images."""
        cohort = self._cohort(split, scene)
        if not len(cohort):
            return {}
        found = self.detect(vector, cohort)
        if self.picture is not None and split == "test" and round == self.last:
            self._draw(cohort, found, self.picture)
        return measure(found, [truth(cohort, row) for row in range(len(cohort))], self.model.classes)

    def detect(self, vector: Vector, cohort: BoxCohort) -> list[Detections]:
        """What the detector `vector` finds in each image of `cohort`."""
        self.model.load(vector)
        found: list[Detections] = []
        for at in range(0, len(cohort), AT_ONCE):
            found += self.model.detect(torch.from_numpy(cohort.images(slice(at, at + AT_ONCE))))
        return found

    def _draw(self, cohort: BoxCohort, found: Sequence[Detections], path: Path) -> None:
        """Picture the first images that hold something, with what is there and the surest detections, as many as there are findings."""
        from p2pftl.imaging.previews import write_found  # here: it brings Pillow

        rows = [row for row, kinds in enumerate(cohort.kinds) if len(kinds)][:SHOWN]
        if rows:
            write_found(cohort, rows, [found[row].boxes[: len(cohort.kinds[row])].numpy() for row in rows], path)

    def _cohort(self, split: str, scene: Scene) -> BoxCohort:
        found: BoxCohort = scene.cohorts.get(split, self.cohorts[split])
        return found

    def _lesson(self, round: int, scene: Scene) -> Lesson:
        return adaptation(self.layout) if scene.adapt else self.transfer.plan(round, self.layout)


def truth(cohort: BoxCohort, row: int) -> Truth:
    """The boxes of one image."""
    return Truth(torch.from_numpy(cohort.boxes[row]), torch.from_numpy(cohort.kinds[row]))


@dataclass
class _Study:
    """One fit under way. begun: what can be trained, as the fit began; loss: summed over images."""

    task: Detection
    cohort: BoxCohort
    round: int
    begun: Mapping[str, Tensor]
    loss: float = 0.0
    samples: int = 0
    steps: int = 0
    epochs: int = 0

    def phase(self, phase: Phase, memory: Mapping[str, Vector]) -> dict[str, Vector]:
        """Run one phase and return what the optimiser remembers."""
        model, transfer = self.task.model, self.task.transfer
        parameters = {name: model.parameters[name] for name in phase.trained if name in model.parameters}
        start = {name: self.begun[name] for name in parameters}
        runs = _runs(model, phase, self.task.recipe.at(self.round), memory)
        model.focus(parameters)
        for rows in self._batches(phase):
            images, truths = self._seen(rows)
            losses = model.losses(images, truths)
            loss = torch.stack([*losses.values()]).sum()
            value = float(loss.detach())
            self.check(math.isfinite(value))
            model.grad.zero_()
            if loss.requires_grad:
                transfer.loss(loss, parameters, start).backward()  # type: ignore[no-untyped-call]
            _flatten(model.grad)
            for _, descent in runs:
                descent.step()
            self.loss, self.samples, self.steps = self.loss + value * len(rows), self.samples + len(rows), self.steps + 1
        return {} if self.task.recipe.reset_optimizer else _remember(model.layout, runs, memory)

    def check(self, finite: bool) -> None:
        """Raise FitDiverged unless `finite`."""
        if not finite:
            task, rate = self.task, self.task.recipe.at(self.round).lr
            problem = f"{task.name}, round {self.round}: the fit diverged (loss or weights are not finite) at learning rate {rate:g}"
            raise FitDiverged("E340", problem, fix=f"lower it, to {rate / 10:g} for instance")

    def _batches(self, phase: Phase) -> Iterator[Rows]:
        recipe, n, done = self.task.recipe, len(self.cohort), 0
        parts = one_epoch(n, recipe.batch)
        wanted = recipe.steps if phase.epochs is None and recipe.steps is not None else (phase.epochs or recipe.epochs) * len(parts)
        while done < wanted:
            order = draw(self.task.seed, "order", self.task.name, self.round, self.epochs).permutation(n)
            self.epochs += 1
            for rows in parts[: wanted - done]:
                done += 1
                yield order[rows]

    def _seen(self, rows: Rows) -> tuple[Tensor, list[Truth]]:
        """Images and their boxes, each moved and mirrored as the recipe allows."""
        recipe, generator = self.task.recipe, draw(self.task.seed, "augment", self.task.name, self.round, self.steps)
        images = torch.from_numpy(self.cohort.images(rows))
        truths = [truth(self.cohort, int(row)) for row in rows]
        by = generator.integers(-recipe.shift, recipe.shift + 1, (len(rows), 2)).tolist()
        mirrored = generator.random(len(rows)) < (0.5 if recipe.flip else 0.0)
        moved = [moved_by(image, one, *shift) for image, one, shift in zip(images, truths, by, strict=True)]
        moved = [mirror(*one) if flip else one for one, flip in zip(moved, mirrored, strict=True)]
        return torch.stack([image for image, _ in moved]), [one for _, one in moved]


def moved_by(image: Tensor, truth: Truth, down: int, right: int) -> tuple[Tensor, Truth]:
    """Shift an image [1, n, n], its edge repeated, and its boxes; a box less than half of which is left is dropped."""
    size = image.shape[-1]
    rows, columns = ((torch.arange(size) - by).clamp(0, size - 1) for by in (down, right))
    boxes = truth.boxes + truth.boxes.new_tensor((right, down, right, down))
    clipped = boxes.clamp(0, size)
    kept = (areas(clipped) > 0) & (areas(clipped) >= areas(boxes) / 2)
    return image[:, rows][:, :, columns], Truth(clipped[kept], truth.kinds[kept])


def mirror(image: Tensor, truth: Truth) -> tuple[Tensor, Truth]:
    """Mirror an image [1, n, n] and its boxes left to right."""
    left, top, right, bottom = truth.boxes.unbind(1)
    size = image.shape[-1]
    return image.flip(2), Truth(torch.stack((size - right, top, size - left, bottom), 1), truth.kinds)


def _flatten(gradient: Tensor) -> None:
    """Scale the gradient down to a norm of STEEPEST if it is steeper."""
    norm = float(torch.linalg.vector_norm(gradient))
    if norm > STEEPEST:
        gradient.mul_(STEEPEST / norm)


def _runs(model: Detector, phase: Phase, recipe: Recipe, memory: Mapping[str, Vector]) -> list[tuple[tuple[int, ...], Descent]]:
    """One optimiser per run of elements with one learning rate and one history, and the entries that it moves."""
    layout, ages, trained = model.layout, memory.get(STEP), frozenset(phase.trained)
    alike: dict[tuple[float, float], list[int]] = {}
    for entry, (name, group) in enumerate(zip(layout.names, layout.groups, strict=True)):
        if name in trained and name in model.parameters:
            age = 0.0 if ages is None else float(ages[entry])
            alike.setdefault((phase.lr.get(group, 1.0), age), []).append(entry)
    runs = []
    for (factor, age), entries in alike.items():
        for start, stop in layout.ranges(layout.names[entry] for entry in entries):
            known = {name: torch.from_numpy(memory[name][start:stop].copy()) for name in MOMENTS[recipe.optimizer] if name in memory}
            if known and STEP in memory:
                known[STEP] = torch.tensor(age)
            within = tuple(entry for entry in entries if start <= layout.spans[entry][0] < stop)
            runs.append((within, Descent(recipe, recipe.lr * factor, model.flat[start:stop], model.grad[start:stop], known)))
    return runs


def _remember(layout: Layout, runs: list[tuple[tuple[int, ...], Descent]], memory: Mapping[str, Vector]) -> dict[str, Vector]:
    """Return `memory` with what the optimisers learnt written in."""
    kept = {name: values.copy() for name, values in memory.items()}
    for entries, descent in runs:
        start, stop = layout.spans[entries[0]][0], layout.spans[entries[-1]][1]
        for name, value in descent.state.items():
            if name == STEP:
                kept.setdefault(name, np.zeros(len(layout.names), np.float32))[list(entries)] = float(value)
            else:
                kept.setdefault(name, np.zeros(layout.size, np.float32))[start:stop] = value.numpy()
    return kept


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Let the sampling of regions draw from `seed`, and give torch its random state back."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
