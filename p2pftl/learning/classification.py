"""Classification of images: one twin's cohorts, and the model of its process."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.amount import one_epoch, samples_seen
from p2pftl.learning.features import Features
from p2pftl.learning.fit import fit, frozen_depth, head_batches
from p2pftl.learning.knowledge import Knowledge, Pupil, Tutor
from p2pftl.learning.models import Model
from p2pftl.learning.score import score
from p2pftl.learning.specs import Recipe
from p2pftl.learning.stack import LEAST, MOST, fit_together, stackable
from p2pftl.learning.task import Coming, Learnt, Memory, Scene, Work
from p2pftl.learning.transfer import Lesson, Transfer, adaptation
from p2pftl.learning.tutoring import learn_from
from p2pftl.params import Layout, Vector, length


@dataclass(frozen=True)
class Classification:
    """A task over a twin's own train and validation cohorts and the common test cohort.

    model: scratch space shared by the twins of a process; start: parameters everyone starts from; cohorts: split -> images, used
    where a scene brings none of its own; features: where what its frozen layers make of the images is kept, shared too (None: nowhere);
    knowledge: how it learns from tutors, with `mate`, a second model that is shared too.
    """

    name: str
    model: Model
    start: Vector
    cohorts: Mapping[str, Cohort]
    recipe: Recipe
    transfer: Transfer
    seed: int
    classes: int
    features: Features | None = None
    knowledge: Knowledge | None = None
    mate: Model | None = None
    _ahead: dict[int, tuple[Coming, Learnt]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def samples(self) -> int:
        return len(self.cohorts["train"])

    def initial(self) -> Vector:
        return self.start

    def work(self, round: int, scene: Scene) -> Work:
        lesson, held = self.lesson(round, scene), len(self.cohort("train", scene))
        return Work(lesson.shared, samples_seen(self.recipe, lesson, held), held)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train on the studies there are now. Raises FitDiverged E340."""
        known = self._ahead.pop(round, None)
        if known is not None and known[0].scene == scene and np.array_equal(known[0].vector, vector[self._body :]):
            return replace(known[1], vector=np.concatenate((vector[: self._body], known[1].vector)))
        lesson = self.lesson(round, scene)
        if tutors and self.knowledge is not None and self.mate is not None:
            pupil = self.pupil(vector, round, scene, self.mate)
            done = learn_from(pupil, tutors, self.knowledge, lesson, self.transfer, memory=memory, features=self.features)
        else:
            done = fit(
                self.model, vector, self.cohort("train", scene), self.recipe.at(round), lesson, self.transfer,
                seed=self.seed, twin=self.name, round=round, memory=memory, features=self.features,
            )  # fmt: skip
        trained = length(self.layout.ranges(done.trained)) / self.layout.size
        return Learnt(done.vector, done.loss, done.samples, done.steps, trained, done.memory)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Score `vector`; what `round` leaves frozen need not be computed again."""
        cohort = self.cohort(split, scene)
        if len(cohort) == 0:
            return {}
        depth = frozen_depth(self.layout, (name for phase in self.lesson(round, scene).phases for name in phase.trained))
        common = split == "test"
        return dict(score(self.model, vector, cohort, self.classes, features=self.features, depth=depth, shared=common, single=common))

    def lesson(self, round: int, scene: Scene) -> Lesson:
        """What `round` trains and shares of the model."""
        return adaptation(self.layout) if scene.adapt else self.transfer.plan(round, self.layout)

    def pupil(self, vector: Vector, round: int, scene: Scene, mate: Model) -> Pupil:
        """Who learns in `round` from `vector`, with `mate` for a second network."""
        return Pupil(self.model, mate, vector, self.cohort("train", scene), self.recipe.at(round), (self.seed, self.name, round))

    def cohort(self, split: str, scene: Scene) -> Cohort:
        """The images of `split` that there are in `scene`."""
        return scene.cohorts.get(split, self.cohorts[split])  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ several twins' fits at once

    @property
    def together(self) -> bool:
        """Whether `fit_together` is worth a call."""
        return self.model.compute.together

    def fit_together(self, coming: Iterable[Coming]) -> set[str]:
        """Compute those fits of twins of this process ahead that are faster together; return whose. `fit` has them then."""
        alike: dict[Hashable, list[tuple[Classification, Coming]]] = {}
        for one in coming:
            task = one.task
            if isinstance(task, Classification) and task.model is self.model and task._trains_its_head(one):
                cohort = task.cohort("train", one.scene)
                kind = task.recipe.at(one.round), len(one_epoch(len(cohort), task.recipe.batch)), cohort.pixels.shape[1:]
                alike.setdefault(kind, []).append((task, replace(one, vector=one.vector[self._body :].copy())))
        groups = [same[at : at + MOST] for same in alike.values() for at in range(0, len(same), MOST)]
        return {name for group in groups if len(group) >= LEAST for name in self._stacked(group)}

    def _trains_its_head(self, one: Coming) -> bool:
        """Whether this fit is one of nothing but a head on kept features, from the common start, by the plain loss, remembering nothing."""
        phase, *more = self.lesson(one.round, one.scene).phases
        if more or phase.trained != self.layout.of_groups(self.layout.depth - 1) or any(factor != 1.0 for factor in phase.lr.values()):
            return False
        plain = self.recipe.reset_optimizer and self.recipe.loss == "cross_entropy" and type(self.transfer).loss is Transfer.loss
        kept = self.recipe.views is not None or not (self.recipe.shift or self.recipe.flip)
        begun = len(self.cohort("train", one.scene)) > 0 and np.array_equal(one.vector[: self._body], self.start[: self._body])
        return plain and kept and begun and self.features is not None and stackable(self.model)

    @property
    def _body(self) -> int:
        """Number of elements in front of the head."""
        return self.layout.ranges(self.layout.of_groups(self.layout.depth - 1))[0][0]

    def _stacked(self, group: list[tuple[Classification, Coming]]) -> Iterator[str]:
        """Fit heads by the same recipe in as many steps; yield whose fits are kept. Who diverged will do so again, alone."""
        self.model.load(self.start)
        self.model.rest()
        batches = zip(*(task._batches(one) for task, one in group), strict=True)
        done = fit_together(self.model, [one.vector for _, one in group], batches, group[0][0].recipe.at(group[0][1].round))
        for (task, one), learnt in zip(group, done, strict=True):
            if math.isfinite(learnt.loss) and np.isfinite(learnt.vector).all():
                task._ahead[one.round] = one, learnt
                yield task.name

    def _batches(self, one: Coming) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.features is not None
        return head_batches(
            self.model, self.start, self.cohort("train", one.scene), self.recipe, self.lesson(one.round, one.scene).phases[0],
            self.transfer, (self.seed, self.name, one.round), self.features,
        )  # fmt: skip
