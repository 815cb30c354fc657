"""ProxyFL's task: classification by a private model, beside which a proxy learns that alone travels (Kalra et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p2pftl.learning.behind import Behind
from p2pftl.learning.knowledge import Proxy, Tutor
from p2pftl.learning.models import Model
from p2pftl.learning.task import FitDiverged, Learnt, Memory, Scene
from p2pftl.learning.tutoring import Mate, in_company
from p2pftl.params import Vector, length


@dataclass(frozen=True)
class ProxyLearning(Behind[Proxy]):
    """The vector is [private model | proxy]; what is scored is the private model.

    task: of the private model; network: what the proxy is computed with, scratch shared by the twins of a process;
    first: the proxy that every twin begins with.
    """

    network: Model
    first: Vector

    def initial(self) -> Vector:
        return np.concatenate((self.task.initial(), self.first))

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train both. Models that came have become the proxy, or a part of it, when they were merged: `tutors` teach nothing further.

        A twin that adapts to a changed scanner trains its private model alone. Raises FitDiverged E340 for either.
        """
        if scene.adapt:
            return self.plainly(vector, round, scene, memory)
        task, (own, proxy) = self.task, self.parts(vector)
        pupil = task.pupil(own, round, scene, self.network)
        mate = self.policy.company(pupil, [Tutor(task.name, proxy, 1.0, len(pupil.cohort))])
        assert isinstance(mate, Mate)
        lesson = task.lesson(round, scene)
        done = in_company(pupil, mate, lesson, task.transfer, memory=memory, features=task.features)
        learnt_too = mate.learnt
        if not np.isfinite(learnt_too).all():
            raise FitDiverged("E340", f"{task.name}, round {round}: the proxy diverged", fix="lower the learning rate")
        trained = {name for phase in self.policy.lesson(lesson, self.layout).phases for name in phase.trained}
        share = length(self.layout.ranges(trained)) / self.layout.size
        return Learnt(np.concatenate((done.vector, learnt_too)), done.loss, done.samples, done.steps, share, done.memory)
