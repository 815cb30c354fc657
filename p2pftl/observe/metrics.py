"""The run's metrics for Prometheus and the Ray dashboard, through `ray.util.metrics`."""

from __future__ import annotations

from typing import Any

from p2pftl import events as fact
from p2pftl.events import Event
from p2pftl.observe.board import Board


class RayMetrics:
    """Sink that exports what changes: p2pftl_loss, p2pftl_accuracy, p2pftl_staleness_seconds and p2pftl_round as gauges,
    p2pftl_bytes_sent as a counter; each with the tag twin, accuracy also with the tag split ("validation" or "test").

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
        self._bytes: Any = metrics.Counter("p2pftl_bytes_sent", "Bytes sent, headers and lost frames included.", tags)

    def __call__(self, event: Event) -> None:
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
            case _:
                pass
