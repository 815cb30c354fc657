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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from p2pftl.agenda import Step
from p2pftl.errors import P2pftlError
from p2pftl.events import Crashed, Event, IncidentBegan, IncidentEnded, TwinDone, TwinLost
from p2pftl.swarm.seams import Advanced, Delivered, Died, Swarm
from p2pftl.world.incidents import Crash
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

REVIVALS = 3


@dataclass
class Seat:
    """What the conductor knows of one participant.

    step: its last answer; until: how far it was told to go, None while it rests; coming: arrivals it has not
    processed; unacknowledged: flight -> arrivals of frames not known to be delivered; crashes: scripted ones ahead.
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
        return math.inf if self.gone else min([self.step.next, *self.coming])

    @property
    def sends(self) -> float:
        """Earliest virtual time at which it could send, hearing nothing that is not on its way already."""
        return math.inf if self.gone else min(self.step.sends, min(self.coming, default=math.inf) + self.step.reacts)

    @property
    def crash(self) -> float:
        """Virtual time of its next scripted crash; a twin that is done no longer crashes."""
        return self.crashes[0].at if self.crashes and not (self.gone or self.step.done) else math.inf


class Conductor:
    """Advances a swarm through virtual time. Iterating over it runs the scenario and yields its events in order.

    first: the participants' first steps; scripted: incident events known before the start; degraded: what was lost unscripted.
    """

    def __init__(self, world: World, swarm: Swarm, first: Sequence[Step], scripted: Sequence[Event] = ()) -> None:
        self.world = world
        self.swarm = swarm
        self.names = tuple(step.name for step in first)
        self.seats = {step.name: Seat(step, crashes=list(world.crashes(step.name))) for step in first}
        self.degraded: list[str] = []
        self.finished = self.latest = 0.0
        self._heap: list[tuple[float, str, int, int, Event]] = []
        self._added = 0
        self._receivers = _reach(world, self.names)
        for event in scripted:
            self._keep(event, -1)
        for step in first:
            self._collect(self.seats[step.name], step)

    def __iter__(self) -> Iterator[Event]:
        while self._dispatch():
            for report in self.swarm.completed():
                if isinstance(report, Advanced):
                    self._advanced(report.step)
                elif isinstance(report, Delivered):
                    self._delivered(report)
                else:
                    self._died(report)
            yield from self._ripe()
        yield from self.remaining()

    def remaining(self) -> Iterator[Event]:
        """Yield what is still held back: after an interruption, or at the end (nothing scripted for later happens)."""
        end = self.finished if all(seat.next == math.inf for seat in self.seats.values()) else self._horizon()
        while self._heap:
            event = heapq.heappop(self._heap)[-1]
            if event.t <= end:
                yield event

    # ------------------------------------------------------------------ going on

    def _dispatch(self) -> bool:
        """Advance everybody who may; return False when nothing is left to do."""
        self._forget_crashes()
        while True:
            safe = self._safe_times()
            crashing = [name for name in self.names if self._may_crash(name, safe[name])]
            if not crashing:
                break
            for name in crashing:
                self._crash(name)
        for name, seat in self.seats.items():
            limit = min(safe[name], self._limit(name))
            if seat.until is None and seat.next < limit:
                seat.until = limit
                self.swarm.advance(name, limit)
        if any(seat.until is not None or seat.unacknowledged for seat in self.seats.values()):
            return True
        waiting = [name for name, seat in self.seats.items() if seat.next < math.inf]
        if waiting:
            raise RuntimeError(f"virtual time stands still: {', '.join(waiting)} wait for each other; please report this scenario")
        return False

    def _safe_times(self) -> dict[str, float]:
        """For each participant the earliest virtual time at which a frame that is not sent yet could arrive."""
        safe = dict.fromkeys(self.names, math.inf)
        could = {name: self.seats[name].sends for name in self.names}
        heap = [(t, name) for name, t in could.items() if t < math.inf]
        heapq.heapify(heap)
        while heap:
            t, name = heapq.heappop(heap)
            if t > could[name]:
                continue
            for receiver, latency in self._receivers[name]:
                arrival = t + latency
                if arrival < safe[receiver]:
                    safe[receiver] = arrival
                    seat = self.seats[receiver]
                    if not seat.gone and arrival + seat.step.reacts < could[receiver]:
                        could[receiver] = arrival + seat.step.reacts
                        heapq.heappush(heap, (could[receiver], receiver))
        return safe

    def _limit(self, name: str) -> float:
        """Not past an undelivered frame, one's own crash, or the crash of somebody one sends to."""
        seat = self.seats[name]
        ahead = [self.seats[receiver].crash for receiver, _ in self._receivers[name]]
        return min([seat.crash, *_first(seat), *ahead])

    # ------------------------------------------------------------------ what comes back

    def _advanced(self, step: Step) -> None:
        seat = self.seats[step.name]
        if seat.until is None:
            return
        reached = min(seat.until, step.next)
        seat.step, seat.until = step, None
        seat.coming = [arrival for arrival in seat.coming if arrival >= reached]
        self._collect(seat, step)

    def _collect(self, seat: Seat, step: Step) -> None:
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
                receiver.coming.extend(parcel.arrives)

    def _delivered(self, report: Delivered) -> None:
        seat = self.seats[report.receiver]
        arrives = seat.unacknowledged.pop(report.flight, ())
        if report.lost and arrives:
            for arrival in arrives:
                seat.coming.remove(arrival)
            self._degrade(f"a frame to {report.receiver} was lost with the process that held it")

    # ------------------------------------------------------------------ crashes

    def _forget_crashes(self) -> None:
        """Once every twin is done, the cloud crashes no more."""
        if all(seat.gone or seat.step.done for name, seat in self.seats.items() if name != CLOUD):
            for seat in self.seats.values():
                seat.crashes.clear()

    def _may_crash(self, name: str, safe: float) -> bool:
        """It rests before its crash, nothing can still reach it before, and what it sent has left its process."""
        seat = self.seats[name]
        if seat.until is not None or seat.crash == math.inf or min([seat.next, safe, *_first(seat)]) < seat.crash:
            return False
        return not any(sender == name for other in self.seats.values() for sender, _ in other.unacknowledged)

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
            seat.until, seat.coming, seat.unacknowledged = None, [], {}
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

    def _horizon(self) -> float:
        """No event before this virtual time can still come."""
        return min((min(seat.next, seat.crash) for seat in self.seats.values()), default=0.0)

    def _ripe(self) -> Iterator[Event]:
        horizon = self._horizon()
        while self._heap and self._heap[0][0] < horizon:
            if self._heap[0][2] == -1 and horizon == math.inf and self._heap[0][0] > self.finished:
                return
            yield heapq.heappop(self._heap)[-1]


def _first(seat: Seat) -> list[float]:
    return [arrives[0] for arrives in seat.unacknowledged.values()]


def _reach(world: World, names: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Whom each participant could ever send to, with the least latency."""
    graph = world.topology.union()
    reach = {name: [(peer, world.fastest(name, peer)) for peer in sorted(graph.neighbors(name))] for name in names if name != CLOUD}
    if CLOUD in names:
        for name in reach:
            reach[name].append((CLOUD, world.fastest(name, CLOUD)))
        reach[CLOUD] = [(name, world.fastest(CLOUD, name)) for name in sorted(reach) if name != CLOUD]
    return reach


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
