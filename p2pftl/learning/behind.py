"""What the tasks have in common that keep entries of a knowledge policy behind the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from p2pftl.learning.classification import Classification
from p2pftl.learning.knowledge import Extension
from p2pftl.learning.task import Learnt, Memory, Scene, Work
from p2pftl.params import Layout, Vector

P = TypeVar("P", bound=Extension)


@dataclass(frozen=True)
class Behind(Generic[P]):
    """The vector is [model | entries of the policy, 0 at first]; what is scored is the model.

    task: of the model; layout: of both.
    """

    task: Classification
    policy: P
    layout: Layout

    @property
    def samples(self) -> int:
        return self.task.samples

    def initial(self) -> Vector:
        start = self.task.initial()
        return np.concatenate((start, np.zeros(self.layout.size - len(start), np.float32)))

    def work(self, round: int, scene: Scene) -> Work:
        plain = self.task.work(round, scene)
        if scene.adapt:
            return plain
        lesson = self.policy.lesson(self.task.lesson(round, scene), self.layout)
        return Work(lesson.shared, self.policy.cost(plain.samples, plain.held), plain.held)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Score the model."""
        return self.task.score(self.parts(vector)[0], split, scene, round)

    def parts(self, vector: Vector) -> tuple[Vector, Vector]:
        """Return the model in `vector`, and what is behind it."""
        size = self.task.layout.size
        return vector[:size], vector[size:]

    def plainly(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        """Train the model as if there were no policy; what is behind it stays. Raises FitDiverged E340."""
        own, behind = self.parts(vector)
        learnt = self.task.fit(own, round, scene, memory)
        return replace(learnt, vector=np.concatenate((learnt.vector, behind)), trained=learnt.trained * len(own) / len(vector))
