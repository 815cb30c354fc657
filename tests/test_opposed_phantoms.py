"""Def-KT where averaging fails: two groups of scanners whose radiologists contradict each other, on phantoms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl.gossip.keep import KeepOwn
from p2pftl.gossip.pairs import Pairs
from p2pftl.gossip.partners import All
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.classification import Classification
from p2pftl.learning.knowledge import Knowledge, Mutual
from p2pftl.learning.models import Model, ModelSpec
from p2pftl.learning.score import score
from p2pftl.learning.specs import Recipe
from p2pftl.learning.transfer import Head
from p2pftl.params import Vector
from p2pftl.world.topologies import Complete
from tests.cloud.test_clustered_phantoms import NAMES, PLANTED, cohorts, model, start
from tests.toys import play, toy

__all__ = ["cohorts", "model", "start"]  # fixtures


@dataclass(frozen=True)
class Contradicted:
    """Makes the tasks of a run: heads on features from a first stage on other patients."""

    cohorts: dict[str, Cohort]
    model: Model
    start: Vector
    knowledge: Knowledge | None

    def __call__(self, name: str, seed: int, rate: float) -> Classification:
        own = self.cohorts[name]
        none = replace(own, pixels=own.pixels[:0], labels=own.labels[:0])
        cohorts = {"train": own, "validation": none, "test": own}
        mate = Model(ModelSpec(), 2, 3)
        return Classification(
            name, self.model, self.start, cohorts, Recipe(lr=0.02, batch=8, epochs=2), Head(), 3, 2, None, self.knowledge, mate
        )


@pytest.mark.slow
def test_def_kt_is_right_in_both_groups_where_averaging_is_as_good_as_a_coin(
    tmp_path: Path, cohorts: dict[str, Cohort], model: Model, start: Vector
) -> None:
    """Every twin's model is asked for the slices of the two others of its group, none of which it had as its own."""

    def right(knowledge: Knowledge | None, **policies: Any) -> float:
        make = Contradicted(cohorts, model, start, knowledge)
        vectors = play(toy(Complete(names=NAMES).build(1), task=make, knowledge=knowledge, rounds=15, **policies), tmp_path).vectors
        asked = [(name, peer) for group in PLANTED for name in group for peer in group if peer != name]
        return float(np.mean([score(model, vectors[name], cohorts[peer], 2)["accuracy"] for name, peer in asked]))

    averaged = right(None, partners=All())
    mutual = right(Mutual(), partners=Pairs(), aggregator=KeepOwn())
    print(f"averaging {averaged:.3f}, Def-KT {mutual:.3f}")
    assert averaged < 0.6
    assert mutual > 0.8
