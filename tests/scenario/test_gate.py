"""The key `gate`: off unless asked for, and refused where it could not do what it says."""

from __future__ import annotations

import pytest
import yaml

from p2pftl.gossip.gates import Gain, Watch
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan
from p2pftl.scenario.resolved import resolved
from tests.scenario.conftest import Refusal, Write

BOXES = "{use: phantom_boxes}"


def test_no_gate_is_the_default_and_leaves_no_trace_in_the_plan(write: Write) -> None:
    scenario = load(write())
    assert scenario.gate is None
    plan = compile_plan(scenario)
    assert plan.terms.gate is None
    assert "gate" not in plan.facts()["policies"]


def test_a_gate_reaches_the_terms_and_the_facts_and_is_spelt_out(write: Write) -> None:
    scenario = load(write(gate="{use: gain, tolerance: 0.1, metric: accuracy}"))
    assert scenario.gate == Gain(0.1, "accuracy")
    plan = compile_plan(scenario)
    assert (plan.terms.gate, plan.facts()["policies"]["gate"]) == (scenario.gate, "gain")
    assert plan.without_exchange().terms.gate == scenario.gate
    assert yaml.safe_load(resolved(scenario))["gate"] == {"use": "gain", "tolerance": 0.1, "metric": "accuracy"}
    assert load(write(gate="watch")).gate == Watch()


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"gate": "wach"}, "E126", "did you mean watch?"),
        ({"gate": "{use: gain, tolerance: -1}"}, "E118", "must be >= 0"),
        ({"gate": "{use: gain, metric: auc}"}, "E126", "loss"),
        ({"gate": "gain", "aggregator": "push_sum"}, "E128", "lose the mass"),
        ({"gate": "gain", "aggregator": "keep_own"}, "E128", "merges nothing"),
        ({"gate": "{use: watch, metric: map_50}"}, "E128", "map_50 is not measured here"),
        ({"gate": "watch", "detector": "{}", "data": BOXES}, "E128", "loss is not measured here; use metric: accuracy or map_50"),
    ],
)
def test_a_gate_that_cannot_work_is_refused(refusal: Refusal, changes: dict[str, str], code: str, says: str) -> None:
    error = refusal(**changes)
    assert error.code == code
    assert says in str(error)


def test_watching_goes_with_every_aggregator_and_with_detectors_that_name_a_metric(write: Write) -> None:
    for changes in ({"aggregator": "push_sum"}, {"aggregator": "keep_own"}, {"detector": "{}", "data": BOXES}):
        load(write(gate="{use: watch, metric: accuracy}", **changes))
