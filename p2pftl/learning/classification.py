"""Classification of images: one twin's cohorts, and the model of its process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p2pftl.draw import draw
from p2pftl.errors import DataError
from p2pftl.imaging.acquisition import added_noise
from p2pftl.imaging.cohort import Cohort
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.fit import fit, samples_seen
from p2pftl.learning.models import Model
from p2pftl.learning.score import score
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Learnt, Memory, Scene, Work
from p2pftl.learning.transfer import Transfer
from p2pftl.params import Layout, Vector, length


@dataclass(frozen=True)
class Classification:
    """A task over a twin's own train and validation cohorts and the common test cohort.

    model: scratch space shared by the twins of a process; start: parameters everyone starts from.
    """

    name: str
    model: Model
    start: Vector
    cohorts: Mapping[str, Cohort]
    scanner: Scanner
    recipe: Recipe
    transfer: Transfer
    seed: int
    classes: int

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def samples(self) -> int:
        return len(self.cohorts["train"])

    def initial(self) -> Vector:
        return self.start.copy()

    def work(self, round: int) -> Work:
        lesson = self.transfer.plan(round, self.layout)
        return Work(lesson.shared, samples_seen(self.recipe, lesson, self.samples))

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        """Train on the studies as the scanner in its present state shows them. Raises FitDiverged E340, DataError E336."""
        done = fit(
            self.model, vector, self._seen(self.cohorts["train"], scene, "train", round), self.recipe,
            self.transfer.plan(round, self.layout), self.transfer,
            seed=self.seed, twin=self.name, round=round, hu_offset=scene.hu_offset, memory=memory,
        )  # fmt: skip
        trained = length(self.layout.ranges(done.trained)) / self.layout.size
        return Learnt(done.vector, done.loss, done.samples, done.steps, trained, done.memory)

    def score(self, vector: Vector, split: str, scene: Scene) -> Mapping[str, Any]:
        cohort = self.cohorts[split]
        if len(cohort) == 0:
            return {}
        return dict(score(self.model, vector, self._seen(cohort, scene, split, 0), self.classes, hu_offset=scene.hu_offset))

    def _seen(self, cohort: Cohort, scene: Scene, split: str, round: int) -> Cohort:
        """The studies at a lower dose than they were acquired with: the scanner's own noise is added (SCANNER_TWIN, section 9)."""
        if scene.dose == 1.0 or len(cohort) == 0:
            return cohort
        if cohort.unit != "HU" or cohort.pixel_mm <= 0:
            raise DataError("E336", "dose_change needs CT studies in HU with a known pixel spacing", fix="use phantom or DICOM data")
        generator = draw(self.seed, "dose", self.name, split, round)
        hu = cohort.pixels.astype(np.float32)
        noisy = hu + added_noise(hu, self.scanner, scene.dose, cohort.pixel_mm, generator).numpy()
        return replace(cohort, pixels=np.clip(np.rint(noisy), -1024, 3071).astype(np.int16))
