"""The transfer ledger of whole runs: a gate that watches changes nothing, one that refuses keeps a bad neighbour out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.draw import draw
from p2pftl.gossip.aggregators import AgeWeighted, PushSum, WeightedMean
from p2pftl.gossip.gates import Gain, Watch
from p2pftl.gossip.keep import KeepOwn
from p2pftl.gossip.pace import Asynchronous
from p2pftl.gossip.partners import Random
from p2pftl.learning.knowledge import Tutor
from p2pftl.learning.task import Learnt, Memory, Scene
from p2pftl.observe.tally import Tally
from p2pftl.params import Vector
from p2pftl.terms import CloudTerms
from p2pftl.world.incidents import Crash
from p2pftl.world.topologies import Complete, Ring
from p2pftl.world.topology import CLOUD
from tests.history import check_history
from tests.toys import LAYOUT, Outcome, Pull, Toy, play, storm, toy

BAD = "ct-01"
FIVE = Complete(twins=5).build(1)


@dataclass(frozen=True)
class Aim(Pull):
    """All have one goal, but for `BAD`, whose labels are swapped: its goal is the opposite one. The loss is the distance from it."""

    @property
    def goal(self) -> Vector:
        common = draw(self.seed, "goal").standard_normal(self.layout.size).astype(np.float32)
        return -common if self.name == BAD else common

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        moved = (vector + self.rate * (self.goal - vector)).astype(np.float32)
        return Learnt(moved, float(np.square(self.goal - moved).mean()), self.samples, 1, 1.0)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        loss = float(np.square(self.goal - vector).mean())
        return {"accuracy": 1 / (1 + loss), "loss": loss}


@dataclass(frozen=True)
class Taught(Aim):
    """Its training loss is how many it was taught by."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        return replace(super().fit(vector, round, scene, memory), loss=float(len(tutors)))


@dataclass(frozen=True)
class Lessons:
    """A knowledge policy that costs nothing."""

    def effort(self, tutors: int) -> float:
        return 1.0

    def company(self, pupil: Any, tutors: Any) -> Any:
        raise AssertionError


@dataclass(frozen=True)
class Clinic(Toy):
    """Twins that have so many validation images."""

    def __call__(self, name: str) -> Any:
        made = super().__call__(name)
        if name != CLOUD:
            made.about["validation"] = 9  # type: ignore[attr-defined]
        return made


def run(gate: Any, **more: Any) -> Toy:
    return toy(**({"topology": FIVE, "rounds": 6, "task": Aim, "rate": 0.2} | more), gate=gate)


def stormy(gate: Any, **more: Any) -> Toy:
    made = storm(gate=gate, **more)
    return replace(made, task=Aim)


SETTINGS: dict[str, Callable[[Any], Toy]] = {
    "lockstep": run,
    "asynchronous": lambda gate: run(gate, pace=Asynchronous(), speeds={"ct-02": 0.4, "ct-03": 2.0}),
    "push-sum": lambda gate: run(gate, aggregator=PushSum(), partners=Random(k=2)),
    "by age": lambda gate: run(gate, aggregator=AgeWeighted()),
    "nothing merged": lambda gate: run(gate, aggregator=KeepOwn()),
    "cloud": lambda gate: run(gate, cloud=CloudTerms(every=2, wait=2.0, deadline=1.0)),
    "storm": stormy,
    "storm, asynchronous": lambda gate: stormy(gate, pace=Asynchronous()),
}
everywhere = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def without_ledger(outcome: Outcome) -> list[bytes]:
    return [facts.pack(event) for event in outcome.events if not isinstance(event, facts.Exchanged)]


def entries(outcome: Outcome) -> list[tuple[str, int, Mapping[str, Any]]]:
    """(receiver, its round, entry) of all ledgers."""
    return [(event.twin, event.round, entry) for event in outcome.of(facts.Exchanged) for entry in event.ledger]


@everywhere
def test_watching_changes_no_byte_of_any_model_and_no_other_fact(setting: Callable[[Any], Toy], tmp_path: Path) -> None:
    watched, plain = play(setting(Watch()), tmp_path / "a"), play(setting(None), tmp_path / "b")
    assert without_ledger(watched) == without_ledger(plain)
    assert {name: vector.tobytes() for name, vector in watched.vectors.items()} == {
        name: vector.tobytes() for name, vector in plain.vectors.items()
    }
    assert watched.of(facts.Exchanged)
    assert not plain.of(facts.Exchanged)
    assert all(entry["accepted"] and entry["gain"] is not None for _, _, entry in entries(watched))
    check_history(watched, setting(Watch()))


@pytest.mark.parametrize("gate", [Watch(), Gain(), Gain(0.3, metric="accuracy")], ids=repr)
@everywhere
def test_the_weights_of_a_ledger_are_those_of_the_merge(setting: Callable[[Any], Toy], gate: Any, tmp_path: Path) -> None:
    made = setting(gate)
    if gate.sifts and made.terms.aggregator.whole:
        pytest.skip("push-sum refuses nothing")
    outcome = play(made, tmp_path)
    merged = {(event.twin, event.round, event.t): event for event in outcome.of(facts.Merged)}
    heard = {(event.sender, event.twin) for event in outcome.of(facts.FrameHeard)}
    told = outcome.of(facts.Exchanged)
    for event in told:
        merge = merged.pop((event.twin, event.round, event.t))
        by_cloud = merge.weights.keys() == {CLOUD}
        given = {entry["sender"]: entry["weight"] for entry in event.ledger if entry["accepted"]}
        assert {name: weight for name, weight in given.items() if name == CLOUD or not by_cloud} == merge.weights
        assert all(entry["weight"] == 0.0 for entry in event.ledger if not entry["accepted"] or (by_cloud and entry["sender"] != CLOUD))
        assert all((entry["sender"], event.twin) in heard for entry in event.ledger)
        assert not {entry["sender"] for entry in event.ledger} & set(merge.missing)
        assert all(entry["accepted"] == (not entry["reason"]) for entry in event.ledger)
    assert not any(event.weights for event in merged.values()), "every merge of anything is in the ledger"


@everywhere
def test_a_run_with_a_gate_is_the_same_in_any_order(setting: Callable[[Any], Toy], tmp_path: Path) -> None:
    gate = Watch() if setting(None).terms.aggregator.whole else Gain()
    one, other = play(setting(gate), tmp_path / "a", shuffle=1), play(setting(gate), tmp_path / "b", shuffle=2)
    assert one.digest == other.digest


def test_a_gain_is_what_the_loss_falls_by_if_that_update_alone_is_merged(tmp_path: Path) -> None:
    """Two twins, one round: written out."""
    pair = Ring(twins=3).build(1)
    made = run(Watch(), topology=pair, rounds=1)
    outcome = play(made, tmp_path)
    fitted = {name: Aim(name, 1, 0.2).fit(Aim(name, 1, 0.2).initial(), 0, Scene(), None).vector for name in pair.names}
    for event in outcome.of(facts.Exchanged):
        goal, own = Aim(event.twin).goal, fitted[event.twin]

        def loss(vector: Vector, goal: Vector = goal) -> float:
            return float(np.square(goal - vector).mean())

        assert event.before == loss(own)
        assert event.after == loss(outcome.vectors[event.twin])
        for entry in event.ledger:
            alone = WeightedMean().merge(made(event.twin).own.__class__(own), [])[0]  # type: ignore[attr-defined]
            moved = own + np.float32(1 / 3) * (fitted[entry["sender"]] - alone.vector)
            assert entry["gain"] == pytest.approx(loss(own) - loss(moved), abs=1e-5)
            assert (entry["weight"], entry["round"]) == (1 / 3, 0)


def test_a_gate_keeps_a_neighbour_with_swapped_labels_out_and_the_honest_profit(tmp_path: Path) -> None:
    gated, open_ = (play(run(gate, rounds=12), tmp_path / repr(gate)) for gate in (Gain(), None))
    honest = [name for name in FIVE.names if name != BAD]

    def loss(outcome: Outcome, name: str) -> float:
        return float(Aim(name).score(outcome.vectors[name], "test", Scene(), 0)["loss"])

    assert all(loss(gated, name) < 0.2 * loss(open_, name) for name in honest)
    late = [(twin, entry) for twin, round, entry in entries(gated) if round >= 6]
    assert not any(entry["accepted"] for twin, entry in late if BAD in (twin, entry["sender"]))
    assert sum(entry["accepted"] for twin, entry in late if BAD not in (twin, entry["sender"])) > len(late) / 3
    watched = Tally()
    for event in play(run(Watch(), rounds=12), tmp_path / "watch").of(facts.Exchanged):
        watched.exchanged(event)
    by_sender = {name: [watched.edges[twin, name].mean or 0.0 for twin in honest if twin != name] for name in FIVE.names}
    assert max(by_sender[BAD]) < min(gain for name in honest for gain in by_sender[name]), "the watch shows who it is"


def test_a_wide_tolerance_lets_everything_in(tmp_path: Path) -> None:
    wide, open_ = play(run(Gain(100.0)), tmp_path / "a"), play(run(None), tmp_path / "b")
    assert all(wide.vectors[name].tobytes() == open_.vectors[name].tobytes() for name in FIVE.names)


def test_nobody_is_taught_by_whom_it_refused(tmp_path: Path) -> None:
    outcome = play(run(Gain(), task=Taught, knowledge=Lessons()), tmp_path)
    let_in = {(event.twin, event.round): sum(entry["accepted"] for entry in event.ledger) for event in outcome.of(facts.Exchanged)}
    taught = {(event.twin, event.round): event.loss for event in outcome.of(facts.Fitted) if event.round}
    assert taught == {(twin, round + 1): count for (twin, round), count in let_in.items() if round < 5}
    assert min(taught.values()) < 4, "somebody was refused"


def test_an_answer_of_the_cloud_may_be_refused_and_is_not_missed(tmp_path: Path) -> None:
    cloud = CloudTerms(every=2, wait=2.0, deadline=1.0)
    outcome = play(run(Gain(), cloud=cloud, rounds=8), tmp_path)
    answers = [(twin, entry) for twin, _, entry in entries(outcome) if entry["sender"] == CLOUD]
    assert len(answers) == 4 * 5
    refused = [entry for _, entry in answers if not entry["accepted"]]
    assert refused
    assert not outcome.of(facts.CloudMissed)
    assert sum(CLOUD in event.weights for event in outcome.of(facts.Merged)) == len(answers) - len(refused)


def clinic(gate: Any, **more: Any) -> Toy:
    made = run(gate, rounds=3, topology=Ring(twins=5).build(1), **more)
    return Clinic(made.terms, made.world, made.rate, made.speeds, made.task, made.mirror)


def test_what_a_gate_measures_takes_a_third_of_a_training_samples_time_and_watching_none(tmp_path: Path) -> None:
    free, gated = play(clinic(Watch()), tmp_path / "a"), play(clinic(Gain(100.0)), tmp_path / "b")
    starts = [{(event.twin, event.round): event.until - event.t for event in out.of(facts.FitStarted)} for out in (free, gated)]
    own_and_two = 3 * 9 / 3 * 0.05
    for (name, round), took in starts[0].items():
        assert starts[1][name, round] == pytest.approx(took + (own_and_two if round else 0.0))


def test_a_twin_that_crashes_comes_back_under_its_gate(tmp_path: Path) -> None:
    made = run(Gain(), incidents=[Crash("ct-02", 2.3, 0.5)])
    one, other = play(made, tmp_path / "a", shuffle=1), play(made, tmp_path / "b", shuffle=2)
    assert one.digest == other.digest
    assert len(one.of(facts.TwinDone)) == 5


def test_twins_without_validation_data_let_everything_in_and_say_so(tmp_path: Path) -> None:
    blind, open_ = play(run(Gain(), task=Pull), tmp_path / "a"), play(run(None, task=Pull), tmp_path / "b")
    assert all(blind.vectors[name].tobytes() == open_.vectors[name].tobytes() for name in FIVE.names)
    assert {(entry["accepted"], entry["gain"]) for _, _, entry in entries(blind)} == {(True, None)}
    assert {(event.before, event.after) for event in blind.of(facts.Exchanged)} == {(None, None)}


def test_only_shared_elements_are_tried(tmp_path: Path) -> None:
    """What stays private is the receiver's own in every trial: a gain is measured on the whole model."""
    seen: list[Vector] = []

    @dataclass(frozen=True)
    class Head(Aim):
        def work(self, round: int, scene: Scene) -> Any:
            return replace(super().work(round, scene), shared=LAYOUT.names[1:])

        def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
            if self.name == "ct-02" and split == "validation":
                seen.append(vector)
            return super().score(vector, split, scene, round)

    outcome = play(run(Watch(), task=Head, rounds=1), tmp_path)
    body = slice(*LAYOUT.spans[0])
    assert len(seen) == 1 + 4 + 1 + 1  # before, each of the others, all together, and the score of the round
    assert all(np.array_equal(one[body], outcome.vectors["ct-02"][body]) for one in seen)
