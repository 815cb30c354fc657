"""Knowledge policies in a run of twins: what was heard in one round is learnt from in the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.gossip.aggregators import WeightedMean
from p2pftl.gossip.keep import KeepOwn
from p2pftl.gossip.pairs import Pairs
from p2pftl.gossip.partners import All, Nobody
from p2pftl.learning.classification import Classification
from p2pftl.learning.features import Features
from p2pftl.learning.fit import fit
from p2pftl.learning.knowledge import Distil, Knowledge, Mutual, Pupil, Similar, Tutor
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import FeatureCache, Recipe
from p2pftl.learning.transfer import Full, Head, Transfer
from p2pftl.learning.tutoring import learn_from
from p2pftl.world.incidents import Crash
from p2pftl.world.topologies import Complete
from tests.history import check_history
from tests.learning.blobs import blobs
from tests.toys import Toy, play, toy

prepare_torch()
MODEL, MATE = (Model(ModelSpec(), 2, 1) for _ in range(2))
START = MODEL.take()
FEATURES = Features(MODEL, FeatureCache())
NAMES = ("ct-01", "ct-02", "ct-03", "ct-04")


@dataclass(frozen=True)
class Teach:
    """Makes the tasks of a run: shards of 16 blobs."""

    knowledge: Knowledge | None
    transfer: Transfer = Full()  # noqa: RUF009

    def __call__(self, name: str, seed: int, rate: float) -> Classification:
        cohorts = {"train": blobs(16, seed=int(name[-1])), "validation": blobs(0), "test": blobs(20, seed=99)}
        recipe = Recipe(lr=0.02, batch=8)
        return Classification(name, MODEL, START, cohorts, recipe, self.transfer, seed, 2, FEATURES, self.knowledge, MATE)


def taught(knowledge: Knowledge | None, transfer: Transfer = Full(), **more: Any) -> Toy:  # noqa: B008
    chosen = {"rounds": 3, "partners": All(), "aggregator": KeepOwn()} | more
    return toy(Complete(names=NAMES).build(1), task=Teach(knowledge, transfer), knowledge=knowledge, **chosen)


@pytest.mark.parametrize("knowledge", [Mutual(), Mutual(keep="own"), Distil(), Distil(features=1), Similar()], ids=repr)
@pytest.mark.parametrize("transfer", [Full(), Head()], ids=repr)
def test_a_run_is_the_same_whatever_the_order_and_every_twin_learns_from_the_others(
    knowledge: Knowledge, transfer: Transfer, tmp_path: Path
) -> None:
    run = taught(knowledge, transfer)
    one, other = play(run, tmp_path / "a", shuffle=1), play(run, tmp_path / "b", shuffle=2)
    assert one.digest == other.digest
    check_history(one, run)
    alone = play(taught(knowledge, transfer, partners=Nobody()), tmp_path / "c")
    assert all((one.vectors[name] != alone.vectors[name]).any() for name in NAMES)


def test_the_fit_after_hearing_is_the_lesson_from_the_tutors(tmp_path: Path) -> None:
    """Round 0 alone, round 1 with the three others as tutors: written out with learn_from."""
    knowledge = Distil()
    tasks = {name: Teach(knowledge)(name, 1, 0.0) for name in NAMES}
    lesson = Full().plan(0, MODEL.layout)

    def pupil(name: str, own: Any, round: int) -> Pupil:
        return Pupil(MODEL, MATE, own, tasks[name].cohorts["train"], tasks[name].recipe, (1, name, round))

    first = {
        name: fit(MODEL, START, task.cohorts["train"], task.recipe, lesson, Full(), seed=1, twin=name, round=0).vector
        for name, task in tasks.items()
    }
    second = {}
    for name in NAMES:
        tutors = [Tutor(peer, first[peer], 0.25, 16) for peer in NAMES if peer != name]
        second[name] = learn_from(pupil(name, first[name], 1), tutors, knowledge, lesson, Full()).vector
    outcome = play(taught(knowledge, rounds=2), tmp_path)
    assert all(outcome.vectors[name].tobytes() == second[name].tobytes() for name in NAMES)


def test_without_weight_it_is_learning_without_tutors_bit_for_bit(tmp_path: Path) -> None:
    for aggregator in (KeepOwn(), WeightedMean()):
        with_tutors, without = (play(taught(known, aggregator=aggregator), tmp_path) for known in (Distil(weight=0), None))
        assert all(with_tutors.vectors[name].tobytes() == without.vectors[name].tobytes() for name in NAMES)


def test_learning_from_tutors_takes_its_time(tmp_path: Path) -> None:
    times = [play(taught(knowledge), tmp_path).of(facts.Fitted)[-1].t for knowledge in (None, Distil(), Mutual())]
    link = 0.2  # at most, of three rounds
    assert times[1] - times[0] == pytest.approx(2 * 0.8 * 1.0, abs=link)
    assert times[2] - times[0] == pytest.approx(2 * 0.8 * 1.0, abs=link)


def test_def_kt_pairs_teach_one_half_and_influence_is_told_as_none(tmp_path: Path) -> None:
    run = taught(Mutual(), partners=Pairs(), rounds=4)
    outcome = play(run, tmp_path)
    merged = [event for event in outcome.of(facts.Merged) if event.weights]
    assert len(merged) == 4 * 2
    assert {weight for event in merged for weight in event.weights.values()} == {0.0}
    assert not any(event.missing for event in outcome.of(facts.Merged))


def test_a_crashed_twin_comes_back_without_what_it_had_heard(tmp_path: Path) -> None:
    run = taught(Mutual(), rounds=5, incidents=[Crash("ct-02", 2.5, 0.5)])
    one, other = play(run, tmp_path / "a", shuffle=1), play(run, tmp_path / "b", shuffle=2)
    assert one.digest == other.digest
    assert len(one.of(facts.TwinDone)) == 4
    assert np.isfinite(one.vectors["ct-02"]).all()
