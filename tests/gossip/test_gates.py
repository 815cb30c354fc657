"""Gates on vectors: what is tried, what is let in, and that a refused update leaves its weight to the own model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.gossip.aggregators import AgeWeighted, PushSum, WeightedMean
from p2pftl.gossip.gates import FALLING, Gain, Trial, Watch, admitted, better
from p2pftl.gossip.keep import Adopt, KeepOwn
from p2pftl.gossip.seams import Copy, Heard
from p2pftl.params import Vector
from p2pftl.policies import find, registered

GATES = [find("gate", name)() for name in sorted(registered("gate"))]
AGGREGATORS = [WeightedMean(), AgeWeighted(), PushSum(), Adopt(), KeepOwn()]
SIZE = 6


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def heard(sender: str, value: Vector, weight: float = 0.2, round: int = 3) -> Heard:
    return Heard(sender, round, Copy(value, age=2.0), weight, samples=10, staleness=0.1)


def near(goal: float) -> Any:
    """A judge whose loss is the squared distance from `goal`."""
    return lambda part: float(np.square(part - goal).mean())


floats = st.floats(-100, 100, width=32)
vectors = st.lists(floats, min_size=SIZE, max_size=SIZE).map(lambda values: vector(*values))
offers = st.lists(st.tuples(vectors, st.floats(0, 0.2)), min_size=1, max_size=5)


@given(own=vectors, offers=offers, goal=floats, tolerance=st.floats(0, 50))
def test_what_is_refused_leaves_its_weight_to_the_own_model(own: Vector, offers: Any, goal: float, tolerance: float) -> None:
    """Merging what was let in is, bit for bit, merging all of it with the own model in place of what was refused."""
    updates = [heard(f"ct-{at}", value, weight) for at, (value, weight) in enumerate(offers)]
    trial = Trial(Gain(tolerance), near(goal), own)
    let_in = admitted(trial, WeightedMean(), Copy(own), updates)
    names = {update.sender for update in let_in}
    stand_in = [heard(one.sender, one.copy.vector if one.sender in names else own, one.weight) for one in updates]
    merged, weights = WeightedMean().merge(Copy(own), let_in)
    assert merged.vector.tobytes() == WeightedMean().merge(Copy(own), stand_in)[0].vector.tobytes()
    assert weights == {name: weight for name, weight in ((one.sender, one.weight) for one in updates) if name in names}


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=repr)
@given(own=vectors, offers=offers, goal=floats)
def test_an_update_is_let_in_by_what_it_alone_would_make_of_the_own_model(aggregator: Any, own: Vector, offers: Any, goal: float) -> None:
    updates = [heard(f"ct-{at}", value, weight) for at, (value, weight) in enumerate(offers)]
    judge = near(goal)
    trial = Trial(Gain(), judge, own)
    let_in = {update.sender for update in admitted(trial, aggregator, Copy(own), updates[::-1])}
    for update, entry in zip(updates, trial.ledger, strict=True):
        gain = round(judge(own) - judge(aggregator.merge(Copy(own), [update])[0].vector), 7)
        assert (entry["sender"], entry["gain"], entry["round"]) == (update.sender, gain, 3)
        assert entry["accepted"] == (update.sender in let_in) == (gain >= 0) == (entry["reason"] == "")


@pytest.mark.parametrize("gate", GATES, ids=repr)
def test_without_validation_data_nothing_is_measured_and_everything_goes_in(gate: Any) -> None:
    updates = [heard("ct-1", vector(1, 2)), heard("ct-2", vector(3, 4))]
    trial = Trial(gate, lambda part: None, vector(0, 0))
    assert admitted(trial, WeightedMean(), Copy(vector(0, 0)), updates) == updates
    assert (trial.passes, trial.before) == (1, None)
    assert {(entry["accepted"], entry["gain"], entry["reason"]) for entry in trial.ledger} == {(True, None, "")}


def test_a_merge_whose_loss_is_not_a_number_is_refused_and_its_gain_is_told_as_unknown() -> None:
    def judge(part: Vector) -> float | None:
        return None if part.max() > 10 else 1.0

    for gate, let_in in ((Gain(tolerance=100), []), (Watch(), ["ct-1"])):
        trial = Trial(gate, judge, vector(0, 0))
        updates = admitted(trial, WeightedMean(), Copy(vector(0, 0)), [heard("ct-1", vector(1e9, 0))])
        assert [update.sender for update in updates] == let_in
        assert trial.ledger[0]["gain"] is None


def test_several_updates_of_one_sender_are_tried_and_go_together() -> None:
    """Under push-sum a sender may have been heard twice; together these two bring nothing, each alone would."""
    first, second, other = heard("ct-1", vector(9), round=2), heard("ct-1", vector(-9), round=3), heard("ct-0", vector(9), round=1)
    trial = Trial(Watch(), near(3), vector(0))
    assert admitted(trial, PushSum(), Copy(vector(0)), [first, second, other]) == [first, second, other]
    assert [(entry["sender"], entry["round"]) for entry in trial.ledger] == [("ct-0", 1), ("ct-1", 3)]
    assert trial.ledger[1]["gain"] == 0


def test_nothing_is_scored_twice() -> None:
    trial = Trial(Watch(), near(3), vector(0))
    let_in = admitted(trial, WeightedMean(), Copy(vector(0)), [heard("ct-1", vector(1))])
    assert trial.passes == 2
    trial.measured(WeightedMean().merge(Copy(vector(0)), let_in)[0].vector)
    assert trial.passes == 2
    admitted(trial, KeepOwn(), Copy(vector(0)), [heard("ct-1", vector(1)), heard("ct-2", vector(2))])
    assert trial.passes == 2


@given(before=st.floats(0, 10), after=st.floats(0, 10), metric=st.sampled_from(["loss", "accuracy", "f1"]))
def test_a_gain_is_positive_when_the_metric_is_better(before: float, after: float, metric: str) -> None:
    gain = better(metric, before, after)
    assert gain == -better(metric, after, before)
    assert gain >= 0 or (after > before) == (metric in FALLING)
    assert better(metric, before, None) == -math.inf


@given(gain=st.floats(-200, 200), tolerance=st.floats(0, 100))
def test_gain_refuses_what_loses_more_than_it_tolerates_and_watch_nothing(gain: float, tolerance: float) -> None:
    assert bool(Gain(tolerance).refuses(gain)) == (gain < -tolerance)
    assert Watch().refuses(gain) == Watch().refuses(-math.inf) == ""
    assert Gain(tolerance).refuses(-math.inf)


def test_a_reason_says_the_limit() -> None:
    assert Gain(0.25).refuses(-0.5) == "gain below -0.25"
    assert Gain().refuses(-0.5) == "gain below 0"


@pytest.mark.parametrize("gate", GATES, ids=repr)
def test_every_gate_is_a_gate(gate: Any) -> None:
    assert isinstance(gate.sifts, bool)
    assert gate.metric == "loss"
    assert gate.refuses(1.0) == ""
