"""The task of a head in closed form: classification whose last layer follows from what twins tell of each other's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p2pftl.learning.behind import Behind
from p2pftl.learning.knowledge import Discriminant, Tutor, classes_of
from p2pftl.learning.moments import counts, headed, told
from p2pftl.learning.task import Learnt, Memory, Scene
from p2pftl.learning.tutoring import embedded
from p2pftl.params import Vector


@dataclass(frozen=True)
class DiscriminantLearning(Behind[Discriminant]):
    """The vector is [model | moments of the embeddings of everybody heard of]; what is scored is the model with their discriminant."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train the model as it is, with the head it learns by, and renew the moments. `tutors` teach nothing further.

        A twin that adapts to a changed scanner keeps what it knew of the others. Raises FitDiverged E340.
        """
        task, learnt = self.task, self.plainly(vector, round, scene, memory)
        if scene.adapt:
            return learnt
        (model, known), cohort = self.parts(learnt.vector), task.cohort("train", scene)
        classes = classes_of(task.layout)
        now = told(embedded(task.model, model, cohort), cohort.labels, classes, self.policy.least)
        renew = self.policy.renew if counts(known, classes).any() else 1.0
        known = ((1 - renew) * known + renew * now).astype(np.float32)
        return replace(learnt, vector=np.concatenate((model, known)))

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Score the model with the head in closed form."""
        return self.task.score(headed(*self.parts(vector), self.task.layout, self.policy.shrink), split, scene, round)
