"""summary.json."""

import json
import math
from statistics import fmean

import pytest
from scipy import stats

from p2pftl import events as fact
from p2pftl.observe.summary import METRICS, Summary, dumps, interval, mean, save, worst
from tests.observe.devices import watched
from tests.observe.staged import FRAME, staged


def summed(**options):
    sink = Summary()
    for event in staged(**options):
        sink(event)
    return sink


def document(control=None, **options):
    return summed(**options).document(
        digest="ab" * 16, executor="local", wall_seconds=12.5, consensus_distance=0.01, versions={"p2pftl": "0"}, control=control
    )


def test_it_holds_everything_that_tools_were_promised():
    content = document()
    promised = "name seed digest executor rounds virtual_seconds wall_seconds bytes_sent frames degraded status twins mean worst"
    promised += " consensus_distance versions"
    assert set(promised.split()) <= content.keys()
    assert content["frames"].keys() == {"sent", "delivered", "lost", "refused"}
    assert set(content["twins"]) == {f"ct-0{i}" for i in range(1, 9)}
    for twin in content["twins"].values():
        assert {"test", "validation", "rounds", "bytes_sent", "incarnation", "model"} <= twin.keys()
        assert {*METRICS, "confusion"} <= twin["test"].keys()
        assert sum(map(sum, twin["test"]["confusion"])) >= 100
    assert "control" not in content


def test_frames_and_bytes_add_up():
    content = document()
    frames = content["frames"]
    assert frames["sent"] == frames["delivered"] + frames["lost"]
    assert content["bytes_sent"] == frames["sent"] * FRAME
    assert content["bytes_sent"] == sum(twin["bytes_sent"] for twin in content["twins"].values()) + content["cloud"]["bytes_sent"]


def test_the_mean_is_over_the_twins_and_the_worst_has_the_lowest_accuracy():
    content = document()
    accuracies = {name: twin["test"]["accuracy"] for name, twin in content["twins"].items()}
    assert content["mean"]["accuracy"] == pytest.approx(fmean(accuracies.values()))
    assert accuracies[content["worst"]] == min(accuracies.values())


def test_undefined_metrics_are_left_out_of_the_mean_and_null_if_nobody_has_them():
    tests = [{"accuracy": 0.5, "auroc": None}, {"accuracy": 0.7, "auroc": 0.9}, {}]
    found = mean(tests)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["auroc"] == 0.9
    assert found["f1"] is None
    assert worst({"a": {"test": {}}}) is None


def test_the_control_is_compared_pairwise_by_student_t():
    content = document(control=summed(exchange=False))
    other = {name: twin["test"]["accuracy"] for name, twin in document(exchange=False)["twins"].items()}
    gains = [content["twins"][name]["test"]["accuracy"] - other[name] for name in other]
    low, high = stats.t.interval(0.95, len(gains) - 1, loc=fmean(gains), scale=stats.sem(gains))
    control = content["control"]
    assert control["margin"]["accuracy"] == pytest.approx(fmean(gains))
    assert control["interval"]["accuracy"] == pytest.approx([low, high])
    assert control["pairs"] == 8
    assert control["mean"]["accuracy"] == pytest.approx(fmean(other.values()))


def test_one_difference_has_no_interval():
    assert interval([0.1]) is None
    assert interval([0.1, 0.1]) == pytest.approx((0.1, 0.1))


def test_the_json_is_canonical_and_free_of_nan(tmp_path):
    sink = summed()
    sink(
        fact.Scored(
            t=400.0, twin="ct-01", round=12, split="test", metrics={"accuracy": 0.5, "auroc": math.nan, "confusion": ((1, 2), (3, 4))}
        )
    )
    content = sink.document(digest="", executor="ray", wall_seconds=math.inf)
    text = dumps(content)
    assert json.loads(text) == content
    assert text == dumps(json.loads(text))
    assert content["twins"]["ct-01"]["test"]["auroc"] is None
    assert "NaN" not in text
    assert "[1, 2]" in text
    save(content, tmp_path / "summary.json")
    assert (tmp_path / "summary.json").read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_without_an_end_is_interrupted_and_one_that_lost_a_twin_is_degraded():
    sink = Summary()
    for event in staged()[:200]:
        sink(event)
    assert sink.document(digest="", executor="local", wall_seconds=0.0)["status"] == "interrupted"
    assert document(lost=True)["degraded"] is True
    assert document(lost=True)["status"] == "degraded"
    assert document()["degraded"] is False


def test_a_summary_of_nothing_is_still_a_summary():
    content = Summary().document(digest="", executor="local", wall_seconds=0.0)
    assert content["mean"]["accuracy"] is None
    assert content["worst"] is None


def test_a_device_says_how_it_ended_and_what_the_learning_did_without():
    sink = Summary()
    for event in watched(twins=3, rounds=4, exchange=True):
        sink(event)
    twins = sink.document(digest="ab" * 16, executor="local", wall_seconds=1.0)["twins"]
    for name, twin in twins.items():
        known = sink.board.fleet.of(name)
        device = twin["device"]
        assert (device["lifecycle"], device["quality"], device["status"]) == (known.lifecycle, known.quality, known.status)
        assert (device["left_out"], device["withheld"]) == (known.left_out, known.withheld)
        assert (device["left_out"] > 0) == (name == "ct-02"), "the one that drifts"
        assert device["images"] > 0
    assert {twin["device"] for twin in document()["twins"].values()} == {None}
