"""Everything that happened, in the order of the report's sections: one more fold over the events."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from p2pftl import events as fact
from p2pftl.device.tube import DAY
from p2pftl.events import Event
from p2pftl.observe import chronicle
from p2pftl.observe.board import Board
from p2pftl.observe.chronicle import Chronicle
from p2pftl.observe.tally import gain_of


@dataclass(frozen=True, slots=True)
class Point:
    """A value that `twin` reached at virtual time `t`, after its round `round`."""

    t: float
    round: int
    value: float


@dataclass(slots=True)
class Span:
    """Something that went on from `start` to `end` (None: to the end of the run) and befell `twins`."""

    kind: str
    twins: tuple[str, ...]
    start: float
    text: str
    end: float | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Band:
    """One position of a bundle of curves: x, mean, lowest, highest, how many twins."""

    x: float
    mean: float
    low: float
    high: float
    twins: int


@dataclass(frozen=True, slots=True)
class Given:
    """The weight that neighbour `by` gave to an update when it merged in its round `round`."""

    t: float
    by: str
    round: int
    weight: float


Curves = dict[str, list[Point]]


@dataclass
class Frames:
    """Traffic of one participant: frames and bytes it sent, those of them that were lost, and what it refused."""

    sent: int = 0
    lost: int = 0
    refused: int = 0
    heard: int = 0
    bytes: int = 0
    bytes_lost: int = 0


@dataclass
class History:
    """Feed it all events, then read."""

    board: Board = field(default_factory=Board)
    scores: dict[str, Curves] = field(default_factory=lambda: {"test": defaultdict(list), "validation": defaultdict(list)})
    losses: Curves = field(default_factory=lambda: defaultdict(list))
    shards: dict[str, fact.TwinReady] = field(default_factory=dict)
    fits: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    ticks: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, float] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    traffic: dict[str, Frames] = field(default_factory=lambda: defaultdict(Frames))
    edges: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    influence: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    merges: list[tuple[float, str, frozenset[str]]] = field(default_factory=list)
    gains: Curves = field(default_factory=lambda: defaultdict(list))
    rejected: int = 0
    missed: list[tuple[float, str]] = field(default_factory=list)
    crashes: list[fact.Crashed] = field(default_factory=list)
    revivals: list[fact.Revived] = field(default_factory=list)
    losses_of_twins: list[fact.TwinLost] = field(default_factory=list)
    sent_at: list[tuple[float, int]] = field(default_factory=list)
    devices: dict[str, Chronicle] = field(default_factory=dict)
    given: dict[str, list[Given]] = field(default_factory=lambda: defaultdict(list))
    wall: float = 0.0

    def feed(self, event: Event, wall: float = 0.0) -> None:
        """Take one more event in; `wall` is when it was recorded."""
        self.board.feed(event)
        self.wall = max(self.wall, wall)
        fold = _FOLD.get(type(event))
        if fold is not None:
            fold(self, event)

    @property
    def end(self) -> float:
        return self.board.now

    def rank(self) -> list[Span]:
        """Spans in order of their start, numbered from 1."""
        ordered = sorted(self.spans, key=lambda span: (span.start, span.kind, span.twins))
        for number, span in enumerate(ordered, 1):
            span.number = number
        return ordered

    def _ready(self, event: fact.TwinReady) -> None:
        self.shards.setdefault(event.twin, event)

    def _fit(self, event: fact.FitStarted) -> None:
        self.fits[event.twin].append((event.t, event.until))

    def _fit_rejected(self, event: fact.FitRejected) -> None:
        self.rejected += 1

    def _fitted(self, event: fact.Fitted) -> None:
        self.losses[event.twin].append(Point(event.t, self.board.nth(event.round), event.loss))

    def _scored(self, event: fact.Scored) -> None:
        value = event.metrics.get(self.board.lead.key)
        if value is not None:
            self.scores.setdefault(event.split, defaultdict(list))[event.twin].append(
                Point(event.t, self.board.nth(event.round), float(value))
            )

    def _sent(self, event: fact.FrameSent) -> None:
        mine = self.traffic[event.twin]
        mine.sent += 1
        mine.bytes += event.bytes
        self.edges[_pair(event.twin, event.to)] += event.bytes
        self.sent_at.append((event.t, self.board.bytes))
        if event.arrives is None:
            mine.lost += 1
            mine.bytes_lost += event.bytes
            self.lost[event.lost or "lost"] += 1

    def _heard(self, event: fact.FrameHeard) -> None:
        self.traffic[event.twin].heard += 1

    def _refused(self, event: fact.FrameRefused) -> None:
        self.traffic[event.twin].refused += 1
        self.refused[event.code, event.reason] += 1

    def _exchanged(self, event: fact.Exchanged) -> None:
        gain = gain_of(event)
        if gain is not None:
            self.gains[event.twin].append(Point(event.t, self.board.nth(event.round), gain))

    def _merged(self, event: fact.Merged) -> None:
        kept = 1.0 - sum(event.weights.values())
        for sender, weight in event.weights.items():
            self.influence[event.twin, sender] += weight
        if event.twin not in event.weights and kept > 1e-9:
            self.influence[event.twin, event.twin] += kept
        self.merges.append((event.t, event.twin, frozenset(event.weights)))
        if self.devices:
            for sender, weight in event.weights.items():
                self.given[sender].append(Given(event.t, event.twin, self.board.nth(event.round), weight))

    def _round(self, event: fact.RoundDone) -> None:
        self.ticks[event.twin].append(event.t)

    def _cloud(self, event: fact.CloudMerged) -> None:
        self.ticks[event.twin or "cloud"].append(event.t)

    def _missed(self, event: fact.CloudMissed) -> None:
        self.missed.append((event.t, event.twin))

    def _began(self, event: fact.IncidentBegan) -> None:
        self.spans.append(Span(event.kind, self.board.touched(event), event.t, event.text))

    def _ended(self, event: fact.IncidentEnded) -> None:
        twins = self.board.touched(event)
        for span in self.spans:
            if span.end is None and span.kind == event.kind and (span.twins == twins or not twins):
                span.end = event.t
                return

    def _crashed(self, event: fact.Crashed) -> None:
        self.crashes.append(event)
        known = any(span.kind == "crash" and event.twin in span.twins and span.end is None for span in self.spans)
        if not known:
            self.spans.append(Span("crash", (event.twin,), event.t, f"the process of {event.twin} died, which nobody scripted"))

    def _revived(self, event: fact.Revived) -> None:
        self.revivals.append(event)
        for span in self.spans:
            if span.kind == "crash" and event.twin in span.twins and span.end is None:
                span.end = event.t

    def _twin_lost(self, event: fact.TwinLost) -> None:
        self.losses_of_twins.append(event)
        self.ended[event.twin] = event.t
        for span in self.spans:
            if span.kind == "crash" and event.twin in span.twins and span.end is None:
                span.end = event.t

    def _done(self, event: fact.TwinDone) -> None:
        self.ended[event.twin] = event.t

    def _device(self, event: Event) -> None:
        if event.twin not in self.devices:
            facts = self.board.plan.facts if self.board.plan else {}
            known = facts.get("twins", {}).get(event.twin, {}).get("device") or {}
            self.devices[event.twin] = Chronicle(float(known.get("day_s", DAY)))
        self.devices[event.twin].feed(event)


def fold(stream: Iterable[tuple[float, Event]]) -> History:
    """The history of recorded events (wall seconds, event)."""
    history = History()
    for wall, event in stream:
        history.feed(event, wall)
    return history


def by_round(curves: Curves) -> list[Band]:
    """The bundle at every round that anybody reached; a round done again after a revival counts once, as it came out last."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for twin, points in curves.items():
        for point in points:
            found[point.round][twin] = point.value
    return [_band(float(number), list(found[number].values())) for number in sorted(found)]


def by_time(curves: Curves, steps: int = 160) -> list[Band]:
    """The bundle over virtual time: at each moment the last value of every twin that has one."""
    known = {twin: sorted(points, key=lambda point: point.t) for twin, points in curves.items() if points}
    moments = sorted({point.t for points in known.values() for point in points})
    if len(moments) > steps:
        first, last = moments[0], moments[-1]
        moments = [first + (last - first) * i / (steps - 1) for i in range(steps)]
    times = {twin: [point.t for point in points] for twin, points in known.items()}
    bands = []
    for moment in moments:
        values = [points[index - 1].value for twin, points in known.items() if (index := bisect_right(times[twin], moment + 1e-9))]
        if values and 2 * len(values) >= len(known):  # the mean of the first few would say little of the swarm
            bands.append(_band(moment, values))
    return bands


def by_bytes(bands: Sequence[Band], sent_at: Sequence[tuple[float, int]]) -> list[Band]:
    """The bundle over megabytes that the whole swarm had sent by then."""
    times = [t for t, _ in sent_at]
    moved = []
    for band in bands:
        index = bisect_right(times, band.x + 1e-9)
        moved.append(Band(sent_at[index - 1][1] / 1e6 if index else 0.0, band.mean, band.low, band.high, band.twins))
    return moved


def _band(x: float, values: list[float]) -> Band:
    return Band(x, fmean(values), min(values), max(values), len(values))


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a <= b else (b, a)


_FOLD: dict[type[Event], Callable[[History, Any], None]] = {
    fact.TwinReady: History._ready,
    fact.FitStarted: History._fit,
    fact.Fitted: History._fitted,
    fact.FitRejected: History._fit_rejected,
    fact.FrameSent: History._sent,
    fact.FrameHeard: History._heard,
    fact.FrameRefused: History._refused,
    fact.Exchanged: History._exchanged,
    fact.Merged: History._merged,
    fact.Scored: History._scored,
    fact.RoundDone: History._round,
    fact.CloudMerged: History._cloud,
    fact.CloudMissed: History._missed,
    fact.IncidentBegan: History._began,
    fact.IncidentEnded: History._ended,
    fact.Crashed: History._crashed,
    fact.Revived: History._revived,
    fact.TwinLost: History._twin_lost,
    fact.TwinDone: History._done,
    **dict.fromkeys(chronicle.KINDS, History._device),
}
