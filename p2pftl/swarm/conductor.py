"""The conductor: conservative virtual time without a barrier.

Each participant says when it could send next; the conductor computes for each receiver the time before
which nothing it has not got can arrive (its safe time: Chandy, Misra and Bryant's look-ahead, taken
transitively), and lets whoever has an event before its safe time advance at once. Events leave in order
of (t, participant, count) as soon as nothing earlier can come, so the stream and its digest do not depend
on the executor, the number of workers or the order of arrival.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from p2pftl.agenda import Step
from p2pftl.errors import P2pftlError
from p2pftl.events import Crashed, Event, IncidentBegan, IncidentEnded, TwinDone, TwinLost
from p2pftl.swarm.horizon import Horizon, Least, reach
from p2pftl.swarm.seams import Advanced, Delivered, Died, Swarm
from p2pftl.world.incidents import Crash
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

REVIVALS = 3
HELD = 100_000
"""So many events may wait for their turn (about 50 MB); beyond it those far ahead wait for the others."""


@dataclass
class Seat:
    """What the conductor knows of one participant.

    step: its last answer; until: how far it was told to go, None while it rests; coming: arrivals it has not
    processed, sorted; unacknowledged: flight -> arrivals of frames not known to be delivered; crashes: scripted ones ahead.
    """

    step: Step
    until: float | None = None
    coming: list[float] = field(default_factory=list)
    unacknowledged: dict[tuple[str, int], tuple[float, ...]] = field(default_factory=dict)
    crashes: list[Crash] = field(default_factory=list)
    incarnation: int = 1
    revivals: int = 0
    counted: int = 0
    gone: bool = False

    @property
    def next(self) -> float:
        """Virtual time of its next event."""
        return math.inf if self.gone else min(self.step.next, self._hears)

    @property
    def sends(self) -> float:
        """Earliest virtual time at which it could send, hearing nothing that is not on its way already."""
        return math.inf if self.gone else min(self.step.sends, self._hears + self.step.reacts)

    @property
    def crash(self) -> float:
        """Virtual time of its next scripted crash; a twin that is done no longer crashes."""
        return self.crashes[0].at if self.crashes and not (self.gone or self.step.done) else math.inf

    @property
    def lands(self) -> float:
        """Virtual time at which the first frame arrives that is not known to be delivered."""
        return min((arrives[0] for arrives in self.unacknowledged.values()), default=math.inf)

    @property
    def reacts(self) -> float:
        """How long after hearing something it could send at the earliest."""
        return math.inf if self.gone else self.step.reacts

    @property
    def _hears(self) -> float:
        return self.coming[0] if self.coming else math.inf


class Conductor:
    """Advances a swarm through virtual time. Iterating over it runs the scenario and yields its events in order.

    first: the participants' first steps; scripted: incident events known before the start; degraded: what was lost unscripted;
    held: about so many events are kept until nothing earlier can come.
    """

    def __init__(self, world: World, swarm: Swarm, first: Sequence[Step], scripted: Sequence[Event] = (), *, held: int = HELD) -> None:
        self.world = world
        self.swarm = swarm
        self.names = tuple(step.name for step in first)
        self.seats = {step.name: Seat(step, crashes=list(world.crashes(step.name))) for step in first}
        self.degraded: list[str] = []
        self.finished = self.latest = 0.0
        self._heap: list[tuple[float, str, int, int, Event]] = []
        self._added = 0
        self._place = {name: place for place, name in enumerate(self.names)}
        self._reach = reach(world, self.names)
        self._horizon = Horizon(self._reach)
        self._least = Least()  # of each, the earliest event that it could still tell of
        self._changed = dict.fromkeys(self.names)
        self._open: dict[str, None] = {}  # who might be able to go on
        self._held, self._middle, self._ahead = held, math.inf, Least()
        self._active = {name for name in self.names if name != CLOUD}
        self._busy = 0
        self._aloft: Counter[str] = Counter()
        self._mortal = [name for name in self.names if self.seats[name].crashes]
        self._crashes: dict[str, float] = {}  # as they were last taken in
        self._near = self._who_is_near()
        for event in scripted:
            self._keep(event, -1)
        for step in first:
            self._collect(self.seats[step.name], step)

    def __iter__(self) -> Iterator[Event]:
        going = self._dispatch()
        while going:
            for report in self.swarm.completed():
                if isinstance(report, Advanced):
                    self._advanced(report.step)
                elif isinstance(report, Delivered):
                    self._delivered(report)
                else:
                    self._died(report)
            going = self._dispatch()
            self.swarm.flush()  # nobody waits while the events are looked at
            yield from self._ripe()
        yield from self.remaining()

    def remaining(self) -> Iterator[Event]:
        """Yield what is still held back: after an interruption, or at the end (nothing scripted for later happens)."""
        end = self.finished if all(seat.next == math.inf for seat in self.seats.values()) else self._ripe_before()
        while self._heap:
            event = heapq.heappop(self._heap)[-1]
            if event.t <= end:
                yield event

    # ------------------------------------------------------------------ going on

    def _dispatch(self) -> bool:
        """Advance everybody who may; return False when nothing is left to do."""
        self._take_in_changes()
        self._forget_crashes()
        self._open.update(dict.fromkeys(self._horizon.passed()))
        while crashing := [name for name in self._mortal if self._may_crash(name)]:
            for name in crashing:
                self._crash(name)
            self._take_in_changes()
            self._open.update(dict.fromkeys(self._horizon.passed()))
        furthest = self._furthest()
        while self._ahead.first()[0] <= furthest and self._ahead.first()[1]:
            self._open[self._ahead.first()[1]] = None
            self._ahead.set(self._ahead.first()[1], math.inf)
        for name in sorted(self._open, key=self._place.__getitem__):
            self._go_on(name, furthest)
        self._open.clear()
        if self._busy or self._aloft:
            return True
        waiting = [name for name, seat in self.seats.items() if seat.next < math.inf]
        if waiting:
            raise RuntimeError(f"virtual time stands still: {', '.join(waiting)} wait for each other; please report this scenario")
        return False

    def _furthest(self) -> float:
        """Up to which virtual time anybody goes on: if too many events are held back, to the middle of them until that is reached.

        Whoever holds them back is the earliest of all, so it can always go on.
        """
        earliest = self._least.first()[0]
        if len(self._heap) <= self._held:
            self._middle = math.inf
        elif self._middle == math.inf or self._middle < earliest:
            self._middle = max(earliest, sorted(entry[0] for entry in self._heap)[len(self._heap) // 2])
        return self._middle

    def _go_on(self, name: str, furthest: float) -> None:
        """Advance `name` if it may; else it is looked at again when what it waits for has changed."""
        seat = self.seats[name]
        upcoming = seat.next
        if seat.until is not None or upcoming == math.inf:
            return
        if upcoming > furthest:
            self._ahead.set(name, upcoming)
            return
        safe = self._horizon.safe(name)
        limit = min(safe, seat.lands, min((other.crash for other in self._near.get(name, ())), default=math.inf))
        if upcoming < limit:
            seat.until = limit
            self._busy += 1
            self.swarm.advance(name, limit)
        elif upcoming >= safe:
            self._horizon.watch(name, upcoming)

    def _take_in_changes(self) -> None:
        """Tell whoever keeps account of all of those who changed."""
        changed, self._changed = self._changed, {}
        for name in changed:
            seat = self.seats[name]
            self._horizon.tell(name, seat.sends, seat.reacts)
            self._least.set(name, min(seat.next, seat.crash))
            if seat.gone or seat.step.done:
                self._active.discard(name)
            elif name != CLOUD:
                self._active.add(name)
            if seat.crash != self._crashes.get(name, math.inf):
                self._crashes[name] = seat.crash
                self._everybody()
        self._open.update(changed)

    def _everybody(self) -> None:
        """Look at everybody again."""
        self._open.update(dict.fromkeys(self.names))

    # ------------------------------------------------------------------ what comes back

    def _advanced(self, step: Step) -> None:
        seat = self.seats[step.name]
        if seat.until is None:
            return
        reached = min(seat.until, step.next)
        seat.step = step
        self._rest(seat)
        del seat.coming[: bisect_left(seat.coming, reached)]
        self._collect(seat, step)

    def _rest(self, seat: Seat) -> None:
        self._busy -= seat.until is not None
        seat.until = None

    def _collect(self, seat: Seat, step: Step) -> None:
        self._changed[step.name] = None
        for event in step.events:
            seat.counted += 1
            self.latest = max(self.latest, event.t)
            self._keep(event, seat.counted)
            if isinstance(event, TwinDone):
                self.finished = max(self.finished, event.t)
        for parcel in step.parcels:
            receiver = self.seats.get(parcel.receiver)
            if receiver is not None and not receiver.gone:
                receiver.unacknowledged[parcel.flight] = parcel.arrives
                self._aloft[parcel.sender] += 1
                for arrival in parcel.arrives:
                    insort(receiver.coming, arrival)
                self._changed[parcel.receiver] = None

    def _delivered(self, report: Delivered) -> None:
        seat = self.seats[report.receiver]
        arrives = seat.unacknowledged.pop(report.flight, ())
        if not arrives:
            return
        self._landed([report.flight])
        self._changed[report.receiver] = None
        if report.lost:
            for arrival in arrives:
                seat.coming.remove(arrival)
            self._degrade(f"a frame to {report.receiver} was lost with the process that held it")

    def _landed(self, flights: Iterable[tuple[str, int]]) -> None:
        for sender, _ in flights:
            self._aloft[sender] -= 1
            if not self._aloft[sender]:
                del self._aloft[sender]

    # ------------------------------------------------------------------ crashes

    def _who_is_near(self) -> dict[str, list[Seat]]:
        """For each participant those with scripted crashes among itself and whom it can send to: it does not go past their crashes."""
        near: dict[str, list[Seat]] = {}
        for name in self._mortal:
            for other in (name, *self._reach.senders(name)):
                near.setdefault(other, []).append(self.seats[name])
        return near

    def _forget_crashes(self) -> None:
        """Once every twin is done, the cloud crashes no more."""
        if self._mortal and not self._active:
            for name in self._mortal:
                self.seats[name].crashes.clear()
                self._changed[name] = None
            self._mortal, self._near = [], {}
            self._take_in_changes()

    def _may_crash(self, name: str) -> bool:
        """It rests before its crash, nothing can still reach it before, and what it sent has left its process."""
        seat = self.seats[name]
        if seat.until is not None or seat.crash == math.inf or name in self._aloft:
            return False
        return min(seat.next, self._horizon.safe(name), seat.lands) >= seat.crash

    def _crash(self, name: str) -> None:
        seat = self.seats[name]
        crash = seat.crashes.pop(0)
        self._keep(Crashed(t=crash.at, twin=name, incarnation=seat.incarnation, scripted=True), seat.counted)
        self.swarm.kill(name)
        self._revive(name, crash.at + crash.revive_after)

    def _died(self, report: Died) -> None:
        """Something real: revive from the last saved state, later than anything the others were promised."""
        for name in report.names:
            seat = self.seats[name]
            if seat.gone:
                continue
            at = seat.sends if seat.sends < math.inf else self.latest
            self._keep(Crashed(t=at, twin=name, incarnation=seat.incarnation, scripted=False), seat.counted)
            self._degrade(f"{name} died: {report.reason}")
            self._rest(seat)
            self._landed(seat.unacknowledged)
            seat.coming, seat.unacknowledged = [], {}
            seat.revivals += 1
            if seat.revivals > REVIVALS:
                self._lose(name, at, "it died again and again")
            else:
                self._revive(name, at)

    def _revive(self, name: str, at: float) -> None:
        seat = self.seats[name]
        seat.incarnation += 1
        try:
            step = self.swarm.revive(name, seat.incarnation, at)
        except P2pftlError as error:
            self._lose(name, at, error.problem)
            return
        seat.step = step
        self._collect(seat, step)

    def _lose(self, name: str, at: float, reason: str) -> None:
        seat = self.seats[name]
        seat.gone = True
        self._changed[name] = None
        self.finished = max(self.finished, at)
        seat.step = replace(seat.step, next=math.inf, sends=math.inf, parcels=(), events=())
        self._degrade(f"{name} did not come back: {reason}")
        self._keep(TwinLost(t=at, twin=name, incarnation=seat.incarnation, reason=reason), seat.counted)

    def _degrade(self, why: str) -> None:
        self.degraded.append(why)

    # ------------------------------------------------------------------ events, in order

    def _keep(self, event: Event, count: int) -> None:
        self._added += 1
        heapq.heappush(self._heap, (event.t, event.twin, count, self._added, event))

    def _ripe_before(self) -> float:
        """No event before this virtual time can still come."""
        self._take_in_changes()
        return self._least.first()[0] if self.seats else 0.0

    def _ripe(self) -> Iterator[Event]:
        horizon = self._ripe_before()
        while self._heap and self._heap[0][0] < horizon:
            if self._heap[0][2] == -1 and horizon == math.inf and self._heap[0][0] > self.finished:
                return
            yield heapq.heappop(self._heap)[-1]


def incident_events(timeline: Sequence[Mapping[str, object]]) -> list[Event]:
    """Events of a world's timeline: one when an incident begins, one when it ends."""
    events: list[Event] = []
    for entry in timeline:
        twins, kind, text, until = entry["twins"], str(entry["kind"]), str(entry["text"]), entry["until"]
        assert isinstance(twins, list | tuple)
        first = str(twins[0]) if twins else ""
        events.append(IncidentBegan(t=float(str(entry["at"])), twin=first, kind=kind, text=text))
        if until is not None and math.isfinite(float(str(until))):
            events.append(IncidentEnded(t=float(str(until)), twin=first, kind=kind, text=text))
    return events
