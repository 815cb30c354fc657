"""The run's metrics for Prometheus and the Ray dashboard, through `ray.util.metrics`."""

from __future__ import annotations

from typing import Any

from p2pftl import events as fact
from p2pftl.events import Event
from p2pftl.observe.board import Board


class RayMetrics:
    """Sink that exports what changes: p2pftl_loss, p2pftl_accuracy, p2pftl_staleness_seconds and p2pftl_round as gauges,
    p2pftl_bytes_sent as a counter; each with the tag twin, accuracy also with the tag split ("validation" or "test"). Of a device:
    p2pftl_device_quality, p2pftl_device_health (its lowest part), both 0 to 1, and p2pftl_device_lifecycle with the tag state, 1 for
    the state it is in and 0 for those it was in.

    Make it after Ray has started. Ray is imported here only, when the sink is made.
    """

    def __init__(self) -> None:
        from ray.util import metrics

        tags = ("twin",)
        self._board = Board()
        self._loss: Any = metrics.Gauge("p2pftl_loss", "Mean training loss of the last local fit.", tags)
        self._accuracy: Any = metrics.Gauge("p2pftl_accuracy", "Last accuracy.", ("twin", "split"))
        self._staleness: Any = metrics.Gauge("p2pftl_staleness_seconds", "Mean age of what was merged last, virtual seconds.", tags)
        self._round: Any = metrics.Gauge("p2pftl_round", "Rounds done.", tags)
        self._quality: Any = metrics.Gauge("p2pftl_device_quality", "How much a twin's device counts among its peers.", tags)
        self._health: Any = metrics.Gauge("p2pftl_device_health", "Lowest part of a device's health.", tags)
        self._lifecycle: Any = metrics.Gauge("p2pftl_device_lifecycle", "1 for the state a device is in.", ("twin", "state"))
        self._bytes: Any = metrics.Counter("p2pftl_bytes_sent", "Bytes sent, headers and lost frames included.", tags)

    def __call__(self, event: Event) -> None:
        before = self._board.fleet.of(event.twin)
        left = before.lifecycle if before else ""
        self._board.feed(event)
        twin = {"twin": event.twin}
        match event:
            case fact.Fitted():
                self._loss.set(event.loss, tags=twin)
            case fact.Scored(metrics={"accuracy": float() | int() as accuracy}):
                self._accuracy.set(float(accuracy), tags={**twin, "split": event.split})
            case fact.Merged():
                self._staleness.set(event.staleness, tags=twin)
            case fact.RoundDone():
                self._round.set(self._board.row(event.twin).round, tags=twin)
            case fact.FrameSent() if event.bytes > 0:
                self._bytes.inc(event.bytes, tags=twin)
            case fact.DeviceChanged():
                self._device(event, left)
            case _:
                pass

    def _device(self, event: fact.DeviceChanged, left: str) -> None:
        """left: the state of life it was in."""
        twin = {"twin": event.twin}
        self._quality.set(event.quality, tags=twin)
        known = [value for value in event.health.values() if value is not None]
        if known:
            self._health.set(min(known), tags=twin)
        if left and left != event.lifecycle:
            self._lifecycle.set(0.0, tags={**twin, "state": left})
        self._lifecycle.set(1.0, tags={**twin, "state": event.lifecycle})
