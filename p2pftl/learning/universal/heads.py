"""A private head: twins whose classes are not the same ones learn an encoder together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from p2pftl.learning.classification import Classification
from p2pftl.learning.knowledge import Tutor
from p2pftl.learning.task import Coming, Learnt, Memory, Scene, Work
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.probe import Judge
from p2pftl.params import Vector


@dataclass(frozen=True)
class PrivateHead(Classification):
    """Classification with a head that no two twins need to understand in the same way.

    The model's head has as many outputs as the largest label set of the run, so that all twins have one layout; of this twin's
    only the first `classes` count, in loss and score. Use it with a transfer policy that keeps the head private (`fedper`).
    cohorts: labels are 0..classes-1 of this twin's own set, "test" too; listens: this twin's images are not learnt from, and its
    head, which never learnt anything, is not scored.
    """

    listens: bool = False

    def work(self, round: int, scene: Scene) -> Work:
        """What `round` shares, and how much it computes."""
        work = super().work(round, scene)
        return replace(work, held=0, listens=True) if self.listens else work

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train on the studies there are now, without tutors, whose classes may be others. Raises FitDiverged E340."""
        assert not tutors
        with self._universal.answering(self.classes):
            return super().fit(vector, round, scene, memory)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Score over this twin's own classes, and what the encoder knows of them (see `Judge`)."""
        if self.listens:
            return self._judge(vector, split)
        with self._universal.answering(self.classes):
            metrics = super().score(vector, split, scene, round)
        return {**metrics, **self._judge(vector, split)} if metrics and split != "train" else metrics

    @property
    def together(self) -> bool:
        """Never: heads that mean different things are fitted one by one."""
        return False

    def fit_together(self, coming: Iterable[Coming]) -> set[str]:
        """Compute nothing ahead."""
        return set()

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._universal, self.start, self.cohorts, self.classes)

    @property
    def _universal(self) -> Universal:
        assert isinstance(self.model, Universal)
        assert self.classes <= self.model.classes
        return self.model
