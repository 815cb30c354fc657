"""Metrics for Prometheus: what is handed to ray.util.metrics, without starting Ray."""

from typing import ClassVar

import pytest

from p2pftl import events as fact
from tests.observe.staged import FRAME, staged


class Told:
    """Stands in for a metric of ray.util.metrics (theirs, not ours): keeps what it is told."""

    made: ClassVar[dict] = {}

    def __init__(self, name, description="", tag_keys=()):
        self.tags, self.values = tuple(tag_keys), {}
        Told.made[name] = self

    def set(self, value, tags=None):
        assert tuple(tags) == self.tags
        self.values[tuple(tags.values())] = value

    def inc(self, value=1.0, tags=None):
        key = tuple(tags.values())
        self.values[key] = self.values.get(key, 0) + value


@pytest.fixture
def exported(monkeypatch):
    metrics = pytest.importorskip("ray.util.metrics")
    monkeypatch.setattr(metrics, "Gauge", Told)
    monkeypatch.setattr(metrics, "Counter", Told)
    Told.made = {}
    from p2pftl.observe.metrics import RayMetrics

    sink = RayMetrics()
    for event in staged():
        sink(event)
    return sink, Told.made


def test_every_twin_has_loss_accuracy_bytes_staleness_and_round(exported):
    _, made = exported
    assert {name for name in made if "device" not in name} == {
        "p2pftl_loss", "p2pftl_accuracy", "p2pftl_bytes_sent", "p2pftl_staleness_seconds", "p2pftl_round",
    }  # fmt: skip
    for name, metric in made.items():
        assert {key[0] for key in metric.values} >= {f"ct-0{i}" for i in range(1, 9)} or ("device" in name and not metric.values)


def test_values_are_those_of_the_events(exported):
    _, made = exported
    sent = sum(isinstance(event, fact.FrameSent) for event in staged())
    assert sum(made["p2pftl_bytes_sent"].values.values()) == sent * FRAME
    assert set(made["p2pftl_round"].values.values()) == {12}
    last = [event for event in staged() if isinstance(event, fact.Scored) and event.twin == "ct-02" and event.split == "test"][-1]
    assert made["p2pftl_accuracy"].values["ct-02", "test"] == last.metrics["accuracy"]


def test_an_undefined_accuracy_is_not_exported(exported):
    sink, made = exported
    sink(fact.Scored(t=999.0, twin="ct-99", round=1, split="test", metrics={"accuracy": None}))
    assert ("ct-99", "test") not in made["p2pftl_accuracy"].values


def test_a_device_is_in_one_state_of_its_life_at_a_time(exported):
    sink, made = exported
    for lifecycle, quality in (("active", 1.0), ("quarantined", 0.0), ("maintenance", 0.0)):
        health = {"noise": 0.5, "tube": 0.9, "uniformity": None}
        sink(fact.DeviceChanged(t=1.0, twin="ct-02", lifecycle=lifecycle, quality=quality, status="fail", reason="", health=health))
    states = {state: value for (twin, state), value in made["p2pftl_device_lifecycle"].values.items() if twin == "ct-02"}
    assert states == {"active": 0, "quarantined": 0, "maintenance": 1}
    assert made["p2pftl_device_quality"].values == {("ct-02",): 0.0}
    assert made["p2pftl_device_health"].values == {("ct-02",): 0.5}
