"""FedProto's task: classification whose embeddings are pulled towards what twins say of each class (Tan et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.classification import Classification
from p2pftl.learning.knowledge import Prototypes, Tutor, classes_of
from p2pftl.learning.models import Model
from p2pftl.learning.task import Learnt, Memory, Scene, Work
from p2pftl.learning.transfer import Phase
from p2pftl.learning.tutoring import BLOCK, Tap, in_company
from p2pftl.params import Layout, Vector, length


@dataclass(frozen=True)
class PrototypeLearning:
    """The vector is [model | sums of embeddings, classes x width | images per class]; what is scored is the model.

    task: of the model; layout: with the prototypes behind.
    """

    task: Classification
    policy: Prototypes
    layout: Layout

    @property
    def samples(self) -> int:
        return self.task.samples

    def initial(self) -> Vector:
        """Nothing is known of any class."""
        start = self.task.initial()
        return np.concatenate((start, np.zeros(self.layout.size - len(start), np.float32)))

    def work(self, round: int, scene: Scene) -> Work:
        plain = self.task.work(round, scene)
        if scene.adapt:
            return plain
        lesson = self.policy.lesson(self.task.lesson(round, scene), self.layout)
        return Work(lesson.shared, self.policy.cost(plain.samples, plain.held), plain.held)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train the model, pulled towards the prototypes in `vector`, and put the own ones in their place. `tutors` teach nothing further.

        A twin that adapts to a changed scanner is not pulled, and keeps what it knew of the others. Raises FitDiverged E340.
        """
        task = self.task
        own, known = vector[: task.layout.size], vector[task.layout.size :]
        if scene.adapt:
            learnt = task.fit(own, round, scene, memory)
            return replace(learnt, vector=np.concatenate((learnt.vector, known)), trained=learnt.trained * len(own) / len(vector))
        pupil = task.pupil(own, round, scene, task.model)
        company = self.policy.company(pupil, [Tutor(task.name, known, 1.0, len(pupil.cohort))])
        done = in_company(pupil, company, task.lesson(round, scene), task.transfer, memory=memory, features=task.features)
        told = of(task.model, done.vector, pupil.cohort, self.policy.least)
        share = length(task.layout.ranges(done.trained)) / self.layout.size
        return Learnt(np.concatenate((done.vector, told)), done.loss, done.samples, done.steps, share, done.memory)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Score the model."""
        return self.task.score(vector[: self.task.layout.size], split, scene, round)


class Pulled:
    """Pulls the embedding of each image towards the prototype of its class, by weight x mean squared error over batch and width.

    known: sums and counts, as `of` gives them. An image of a class without a count adds 0.
    """

    def __init__(self, model: Model, start: Vector, known: Vector, weight: float) -> None:
        self.start, self.weight = start, weight
        centres, self.there = means(known, classes_of(model.layout))
        self.centres = torch.from_numpy(centres).to(model.device)
        self.told = torch.from_numpy(self.there).to(model.device)
        self._tap = Tap(model)

    def depth(self, frozen: int) -> int:
        return frozen

    def begin(self, phase: Phase) -> None:
        pass

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor, inputs: Tensor, depth: int) -> Tensor:
        if not self.there.any():
            return loss
        seen = self._tap.seen
        target = torch.where(self.told[labels][:, None], self.centres[labels], seen.detach())
        return loss + self.weight * mse_loss(seen, target)

    def kept(self, vector: Vector) -> Vector:
        return vector

    def close(self) -> None:
        self._tap.close()


def means(known: Vector, classes: int) -> tuple[Vector, np.ndarray]:
    """Return the prototypes [classes, width], 0 where there is none, and for which classes there is one [classes] bool."""
    sums, counts = known[:-classes].reshape(classes, -1), known[-classes:]
    there = counts > 0
    return np.divide(sums, counts[:, None], out=np.zeros_like(sums), where=there[:, None]), there


@torch.no_grad()
def of(model: Model, vector: Vector, cohort: Cohort, least: int) -> Vector:
    """Return [classes x width sums of embeddings | images per class] of a cohort under the model `vector`; `model` is scratch space.

    A class with fewer than `least` images counts as absent: zeros. Summed in float64, in the cohort's order.
    """
    model.load(vector)
    model.rest()
    tap, parts = Tap(model), []
    try:
        for at in range(0, len(cohort), BLOCK):
            model(torch.from_numpy(cohort.images(slice(at, at + BLOCK))))
            parts.append(tap.seen.cpu().numpy().astype(np.float64))
    finally:
        tap.close()
    embedded, classes = np.concatenate(parts), classes_of(model.layout)
    sums, counts = np.zeros((classes, embedded.shape[1])), np.bincount(cohort.labels, minlength=classes)
    for label in np.flatnonzero(counts >= least):
        sums[label] = embedded[cohort.labels == label].sum(0)
    return np.concatenate((sums.ravel(), np.where(counts >= least, counts, 0))).astype(np.float32)
