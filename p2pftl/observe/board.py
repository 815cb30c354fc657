"""The state of a run as a person sees it: one fold, shared by the live view, the plain lines, the summary and the replay.

A run may come from a full stream, from a truncated file, or from the middle: nothing here insists on an event it has not seen.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from p2pftl import events as fact
from p2pftl.device.troubles import MOMENTS
from p2pftl.events import Event
from p2pftl.observe.fleet import KINDS, Fleet, Tone
from p2pftl.observe.lead import ACCURACY, FOUND, PROBED, RESTORED, Lead, planned
from p2pftl.observe.tally import Tally
from p2pftl.observe.units import scanner, some

CLOUD = "cloud"
QUIET_REFUSALS = frozenset({"E407", "E408", "E409"})  # duplicate, older incarnation, late: weather, counted but not announced


@dataclass(slots=True)
class Row:
    """What is known of one participant. `trace` holds what the run is told by (accuracy, or a detector's mAP@0.5) in
    order, per split; `metrics` all that was scored last."""

    name: str
    scanner: str = ""
    activity: str = "waiting"
    down: int = 0
    left: bool = False
    absent: bool = False
    crashed: bool = False
    lost: bool = False
    done: bool = False
    incarnation: int = 1
    round: int = 0
    loss: float | None = None
    trace: dict[str, list[float]] = field(default_factory=lambda: {"validation": [], "test": []})
    metrics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    partners: tuple[str, ...] = ()
    staleness: float | None = None
    sent: int = 0
    model: str = ""
    missed: int = 0
    credit: int = 0

    @property
    def state(self) -> str:
        """One word; the worst that is true of it."""
        states = (
            ("lost", self.lost), ("left", self.left), ("done", self.done), ("crashed", self.crashed),
            ("down", self.down > 0), ("not yet", self.absent),
        )  # fmt: skip
        return next((word for word, holds in states if holds), self.activity)

    def accuracy(self, split: str) -> float | None:
        """The last accuracy on `split`, or mAP@0.5 of a detector."""
        trace = self.trace.get(split)
        return trace[-1] if trace else None


@dataclass(slots=True)
class Note:
    """One line of the ticker; `count` grows when the same thing happens again."""

    t: float
    tone: Tone
    text: str
    kind: str = ""
    count: int = 1


class Board:
    """Folds events; `feed` costs about a microsecond and never raises on an event it did not expect."""

    def __init__(self) -> None:
        self.plan: fact.RunPlanned | None = None
        self.lead: Lead = ACCURACY
        self.rows: dict[str, Row] = {}
        self.cloud: Row | None = None
        self.now = 0.0
        self.base = 1
        self.status = ""
        self.sent = self.lost = self.refused = 0
        self.bytes = 0
        self.cloud_merges = 0
        self.cloud_last = 0
        self.groups: tuple[tuple[str, ...], ...] = ()
        self.wrong = 0
        self.credit = 0
        self.fleet = Fleet()
        self.tally = Tally()
        self.scored: Counter[str] = Counter()
        self.notes: deque[Note] = deque(maxlen=64)
        self.noted = 0

    def feed(self, event: Event) -> None:
        """Take one more event in."""
        if event.t > self.now:
            self.now = event.t
        fold = _FOLD.get(type(event))
        if fold is not None:
            fold(self, event)

    # what a reader asks

    @property
    def rounds(self) -> int:
        return self.plan.rounds if self.plan else 0

    @property
    def split(self) -> str:
        """The split to show: the test set once it is scored as often as validation, or when the run is over."""
        tests = self.scored["test"]
        return "test" if tests and (self.status or tests >= self.scored["validation"]) else "validation"

    @property
    def progress(self) -> float:
        """Share of all rounds done, 0 to 1. A twin that is gone counts as through."""
        if self.status == "done" or self.status == "degraded":
            return 1.0
        whole = self.rounds * len(self.rows)
        return self.credit / whole if whole else 0.0

    @property
    def mean_round(self) -> int:
        """The round that the twins have done on average."""
        return int(self.progress * self.rounds + 1e-9)

    @property
    def degraded(self) -> bool:
        """True if something real, not scripted, was lost."""
        return self.status == "degraded" or self.wrong > 0

    def nth(self, number: int) -> int:
        """The round called `number` in events, counted from 1."""
        return number - self.base + 1

    def spread(self, split: str) -> tuple[float, float, float] | None:
        """Mean, lowest and highest last accuracy over the twins."""
        values = [value for row in self.rows.values() if (value := row.accuracy(split)) is not None]
        return (fmean(values), min(values), max(values)) if values else None

    def mean_loss(self) -> float | None:
        values = [row.loss for row in self.rows.values() if row.loss is not None]
        return fmean(values) if values else None

    def everyone(self) -> Iterator[Row]:
        """All twins, then the cloud."""
        yield from self.rows.values()
        if self.cloud is not None:
            yield self.cloud

    def row(self, name: str) -> Row:
        """The row of `name`, made on first sight."""
        if name == CLOUD:
            if self.cloud is None:
                self.cloud = Row(CLOUD)
            return self.cloud
        found = self.rows.get(name)
        if found is None:
            found = self.rows[name] = Row(name)
        return found

    def touched(self, event: fact.IncidentBegan | fact.IncidentEnded) -> tuple[str, ...]:
        """Whom an incident befalls: those the plan names for it, else the event's own twin."""
        for incident in self.plan.facts.get("incidents", ()) if self.plan else ():
            twins = tuple(incident.get("twins", ()))
            same = incident.get("text") == event.text or event.t in (incident.get("at"), incident.get("until"))
            if incident.get("kind") == event.kind and same and (not event.twin or event.twin in twins):
                return twins
        return (event.twin,) if event.twin else ()

    # folds, one per kind of event

    def _planned(self, event: fact.RunPlanned) -> None:
        self.plan, self.lead = event, planned(event.facts)
        self.tally.on = "gate" in event.facts.get("policies", {})
        for name, facts in event.facts.get("twins", {}).items():
            self.row(name).scanner = scanner(facts.get("scanner"))
        if event.facts.get("cloud"):
            self.row(CLOUD)
        for incident in event.facts.get("incidents", ()):
            if incident.get("kind") == "join":
                for name in incident.get("twins", ()):
                    self.row(name).absent = True

    def _ready(self, event: fact.TwinReady) -> None:
        row = self.row(event.twin)
        row.scanner = scanner(event.scanner) or row.scanner
        row.incarnation = max(row.incarnation, event.incarnation)

    def _fit_started(self, event: fact.FitStarted) -> None:
        row = self.row(event.twin)
        row.activity, row.absent = "fitting", False
        self.base = min(self.base, event.round)

    def _fitted(self, event: fact.Fitted) -> None:
        row = self.row(event.twin)
        row.activity, row.loss = "waiting", event.loss

    def _fit_rejected(self, event: fact.FitRejected) -> None:
        self.row(event.twin).activity = "waiting"
        self._note(event.t, "warn", f"a fit of {event.twin} was thrown away: {event.reason}", kind=f"fit {event.twin}")

    def _sent(self, event: fact.FrameSent) -> None:
        self.sent += 1
        self.lost += event.arrives is None
        self.bytes += event.bytes
        self.row(event.twin).sent += event.bytes

    def _refused(self, event: fact.FrameRefused) -> None:
        self.refused += 1
        if event.code not in QUIET_REFUSALS:
            text = f"{event.twin} refused a frame of {event.sender}: {event.code} {event.reason}".rstrip()
            self._note(event.t, "warn", text, kind=f"refused {event.twin} {event.sender} {event.code}")

    def _heard(self, event: fact.FrameHeard) -> None:
        self.tally.heard(event)

    def _exchanged(self, event: fact.Exchanged) -> None:
        self.tally.exchanged(event)
        for entry in event.ledger:
            if not entry["accepted"]:
                self._note(event.t, "info", "a twin refused an update that would not have gained it anything", kind="gate")

    def _merged(self, event: fact.Merged) -> None:
        row = self.row(event.twin)
        row.activity = "merged"
        row.partners = tuple(sorted(name for name in event.weights if name != event.twin))
        row.staleness = event.staleness

    def _scored(self, event: fact.Scored) -> None:
        row = self.row(event.twin)
        row.metrics[event.split] = event.metrics
        self.scored[event.split] += 1
        self.lead = next((lead for lead in (FOUND, RESTORED, PROBED) if lead.key in event.metrics), self.lead)
        value = event.metrics.get(self.lead.key)
        if value is not None:
            row.trace.setdefault(event.split, []).append(float(value))

    def _round_done(self, event: fact.RoundDone) -> None:
        row = self.row(event.twin)
        self.base = min(self.base, event.round)
        row.round = max(row.round, self.nth(event.round))
        self.fleet.mark(event.twin, event.round + 1)
        self._count(row)

    def _cloud_merged(self, event: fact.CloudMerged) -> None:
        self.cloud_merges += 1
        self.cloud_last = len(event.twins)
        if event.groups != self.groups and (self.groups or len(event.groups) > 1):
            parts = "; ".join(", ".join(group) for group in event.groups)
            self._note(event.t, "warn", f"the cloud keeps {some(len(event.groups), 'model')} now: {parts}", kind="groups")
        self.groups = event.groups
        row = self.row(CLOUD)
        row.round, row.activity = event.round, "merged"

    def _cloud_missed(self, event: fact.CloudMissed) -> None:
        self.row(event.twin).missed += 1
        self._note(event.t, "warn", "no answer from the cloud: twins go on without it", kind="missed")

    def _began(self, event: fact.IncidentBegan) -> None:
        for row in map(self.row, self.touched(event)):
            row.down += event.kind == "outage"
            row.left = row.left or (event.kind == "leave" and not row.done)
            self._count(row)
            if event.kind == "join":
                row.absent = False
        kind = f"crash {event.twin}" if event.kind == "crash" else ""
        self._note(event.t, "good" if event.kind == "join" else "warn", event.text, kind)

    def _ended(self, event: fact.IncidentEnded) -> None:
        for row in map(self.row, self.touched(event)):
            row.down = max(0, row.down - (event.kind == "outage"))
            row.left = row.left and event.kind != "leave"
            self._count(row)
        if event.kind not in ("crash", "join", *MOMENTS):  # a revival has its own event, and these end nothing
            self._note(event.t, "good", over(event, self.touched(event)))

    def _crashed(self, event: fact.Crashed) -> None:
        row = self.row(event.twin)
        row.crashed, row.activity = True, "waiting"
        self.wrong += not event.scripted
        if event.scripted and self.notes and self.notes[-1].kind == f"crash {event.twin}":
            return
        text = f"{event.twin}'s process was killed, as scripted" if event.scripted else f"{event.twin}'s process died, not scripted"
        self._note(event.t, "bad", text)

    def _revived(self, event: fact.Revived) -> None:
        row = self.row(event.twin)
        row.crashed, row.incarnation = False, event.incarnation
        self.fleet.go_back(event.twin, event.round)
        self._note(event.t, "good", f"{event.twin} is back as incarnation {event.incarnation}, after {some(event.round, 'round')}")

    def _twin_lost(self, event: fact.TwinLost) -> None:
        row = self.row(event.twin)
        self.wrong += not row.crashed
        row.lost = True
        self._count(row)
        self._note(event.t, "bad", f"{event.twin} did not come back: {event.reason}")

    def _twin_done(self, event: fact.TwinDone) -> None:
        row = self.row(event.twin)
        row.done, row.model = True, event.model
        row.round = event.rounds
        self._count(row)

    def _scanner(self, event: Event) -> None:
        self.row(event.twin)
        said = self.fleet.take(event)
        if said is not None:
            self._note(event.t, *said)

    def _finished(self, event: fact.RunFinished) -> None:
        self.status = event.status

    def _count(self, row: Row) -> None:
        """Keep the sum of rounds done, so that the progress of a thousand twins costs nothing to ask."""
        if row is self.cloud:
            return
        gone = row.done or row.lost or row.left
        credit = self.rounds if gone else min(row.round, self.rounds)
        self.credit += credit - row.credit
        row.credit = credit

    def _note(self, t: float, tone: Tone, text: str, kind: str = "") -> None:
        if kind and self.notes and self.notes[-1].kind == kind:
            self.notes[-1] = Note(t, tone, text, kind, self.notes[-1].count + 1)
            return
        self.noted += 1
        self.notes.append(Note(t, tone, text, kind))


def over(event: fact.IncidentEnded, twins: tuple[str, ...]) -> str:
    """What to say when an incident is over; the event's text is that of its beginning."""
    if event.kind == "outage" and twins:
        return f"{'the cloud' if twins[0] == CLOUD else twins[0]} is back"
    if event.kind == "partition":
        return "the network is whole again"
    if event.kind in ("slow_link", "cut_link") and len(twins) == 2:
        return f"the link {twins[0]} - {twins[1]} is as before"
    return f"over: {event.text}"


_FOLD: dict[type[Event], Callable[[Board, Any], None]] = {
    fact.RunPlanned: Board._planned,
    fact.TwinReady: Board._ready,
    fact.FitStarted: Board._fit_started,
    fact.Fitted: Board._fitted,
    fact.FitRejected: Board._fit_rejected,
    fact.FrameSent: Board._sent,
    fact.FrameHeard: Board._heard,
    fact.FrameRefused: Board._refused,
    fact.Exchanged: Board._exchanged,
    fact.Merged: Board._merged,
    fact.Scored: Board._scored,
    fact.RoundDone: Board._round_done,
    fact.CloudMerged: Board._cloud_merged,
    fact.CloudMissed: Board._cloud_missed,
    fact.IncidentBegan: Board._began,
    fact.IncidentEnded: Board._ended,
    fact.Crashed: Board._crashed,
    fact.Revived: Board._revived,
    fact.TwinLost: Board._twin_lost,
    fact.TwinDone: Board._twin_done,
    fact.RunFinished: Board._finished,
    **dict.fromkeys(KINDS, Board._scanner),
}
