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
    assert set(made) == {"p2pftl_loss", "p2pftl_accuracy", "p2pftl_bytes_sent", "p2pftl_staleness_seconds", "p2pftl_round"}
    for metric in made.values():
        assert {key[0] for key in metric.values} >= {f"ct-0{i}" for i in range(1, 9)}


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
