"""FedProto's task: classification whose embeddings are pulled towards what twins say of each class (Tan et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.behind import Behind
from p2pftl.learning.knowledge import Prototypes, Tutor, classes_of
from p2pftl.learning.models import Model
from p2pftl.learning.task import Learnt, Memory, Scene
from p2pftl.learning.transfer import Phase
from p2pftl.learning.tutoring import Tap, embedded, in_company
from p2pftl.params import Vector, length


@dataclass(frozen=True)
class PrototypeLearning(Behind[Prototypes]):
    """The vector is [model | sums of embeddings, classes x width | images per class]: at first nothing is known of any class."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train the model, pulled towards the prototypes in `vector`, and put the own ones in their place. `tutors` teach nothing further.

        A twin that adapts to a changed scanner is not pulled, and keeps what it knew of the others. Raises FitDiverged E340.
        """
        if scene.adapt:
            return self.plainly(vector, round, scene, memory)
        task, (own, known) = self.task, self.parts(vector)
        pupil = task.pupil(own, round, scene, task.model)
        company = self.policy.company(pupil, [Tutor(task.name, known, 1.0, len(pupil.cohort))])
        done = in_company(pupil, company, task.lesson(round, scene), task.transfer, memory=memory, features=task.features)
        told = of(task.model, done.vector, pupil.cohort, self.policy.least)
        share = length(task.layout.ranges(done.trained)) / self.layout.size
        return Learnt(np.concatenate((done.vector, told)), done.loss, done.samples, done.steps, share, done.memory)


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


def of(model: Model, vector: Vector, cohort: Cohort, least: int) -> Vector:
    """Return [classes x width sums of embeddings | images per class] of a cohort under the model `vector`; `model` is scratch space.

    A class with fewer than `least` images counts as absent: zeros. Summed in float64, in the cohort's order.
    """
    found, classes = embedded(model, vector, cohort), classes_of(model.layout)
    sums, counts = np.zeros((classes, found.shape[1])), np.bincount(cohort.labels, minlength=classes)
    for label in np.flatnonzero(counts >= least):
        sums[label] = found[cohort.labels == label].sum(0)
    return np.concatenate((sums.ravel(), np.where(counts >= least, counts, 0))).astype(np.float32)
