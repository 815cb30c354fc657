"""A twin: the digital twin of one scanner. A pure state machine that owns a small agenda.

    wake -> fit -> send to partners (and, every so often, to the cloud) -> wait as the pace says -> merge -> wake

`post(parcel)` puts a frame on the agenda, `advance(until)` runs the agenda up to a virtual time and answers
with a Step. No I/O, no clock, no Ray: links and outages are the world's, carrying is the swarm's.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from p2pftl import events as facts
from p2pftl.agenda import Agenda, Kind, Parcel, Step
from p2pftl.errors import CheckpointError
from p2pftl.exchange import Round, chosen, dispatch, drafted, in_time, order, partners, receive, settled, tutors, usable, weigh
from p2pftl.gossip.frames import Header
from p2pftl.gossip.gates import admitted
from p2pftl.gossip.mailbox import Mailbox, Update
from p2pftl.gossip.seams import Copy, Heard
from p2pftl.learning.task import Coming, FitDiverged, Learnt, Memory, Scene, Task
from p2pftl.merge import aligned, cost, exchanged, joined, merged, next_round, on_trial, scored
from p2pftl.params import Ranges, Vector, gather, scatter
from p2pftl.state import EMPTY, Departure, TwinState, origin
from p2pftl.terms import Terms
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

if TYPE_CHECKING:
    from p2pftl.mirror import Mirror

NOTHING: npt.NDArray[np.uint8] = np.empty(0, np.uint8)


class Twin:
    """Composes a task (what is learnt), terms (how gossip goes) and the world (links, outages, drift).

    mirror: the device and the studies behind it, None for a set of studies that nothing befalls; speed: compute speed relative to
    the nominal scanner; about: what TwinReady tells of the shard and scanner.
    """

    def __init__(
        self, name: str, task: Task, terms: Terms, world: World, *,
        mirror: Mirror | None = None, speed: float = 1.0, about: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.task, self.mirror = name, task, mirror
        self.terms, self.world, self.speed = terms, world, speed
        self.about, self.agenda = dict(about or {}), Agenda()
        self.model = Departure(task.initial())
        self.own = Copy(EMPTY)
        self.told: Vector | None = None
        self.shared: Ranges = ()
        self.lately: list[Heard] = []  # what a knowledge policy learns from next; lost with the process, as the mailbox is
        self.owed = 0.0  # virtual seconds that the gate's trials took, part of the next fit; lost with the process too
        self.memory: Memory | None = None
        self.incarnation, self.completed, self.seq, self.choice = 1, 0, 0, -1
        self.met: dict[str, int] = {}
        self.current: Round | None = None
        self.learnt: Learnt | FitDiverged | None = None
        self.retired = False
        self.mailbox = Mailbox(terms.expectation(name, task.layout))
        self.least_fit = self._seconds(task.work(0, self._scene()).samples)
        self._foreseen: list[facts.Event] = []  # of the mirror, to be told when the twin wakes
        self._events: list[facts.Event] = []
        self._parcels: list[Parcel] = []

    # ------------------------------------------------------------------ what the swarm calls

    @property
    def vector(self) -> Vector:
        """All parameters as they are now, not to be written."""
        return self.model.vector

    def begin(self, at: float = 0.0) -> Step:
        """Announce itself at `at` and wake then. A revived twin goes on after its last completed round."""
        if self.incarnation > 1:
            self._events.append(facts.Revived(t=at, twin=self.name, incarnation=self.incarnation, round=self.completed))
        else:
            self._events.append(facts.TwinReady(t=at, twin=self.name, incarnation=1, **self.about))
        self.agenda.add(at, Kind.WAKE)
        return self._step(round_done=True)

    def post(self, parcel: Parcel) -> None:
        """Put a frame on the agenda at each of its arrivals."""
        self.agenda.expect(parcel)

    def advance(self, until: float) -> Step:
        """Process events before `until`, at most to the end of one round."""
        completed = self.completed
        while self.agenda.next() < until and self.completed == completed:
            t, kind, what = self.agenda.take()
            if kind is Kind.FRAME:
                self._hear(t, what)
            elif self.retired:
                continue
            elif (back := self.world.back(self.name, t)) is not None:
                self._pause(t, back, kind, what)
            elif kind is Kind.FITTED:
                self._send(t)
            elif kind is Kind.WAKE:
                self._wake(t)
            elif self.current is not None and self.current.number == what:
                self._close_if_ready(t)
        return self._step(round_done=self.completed > completed)

    def foresee(self, until: float) -> Coming | None:
        """The fit that `advance(until)` would begin with, None if it would begin with anything else."""
        t, kind = self.agenda.entries[0].key[:2] if self.agenda.entries else (math.inf, Kind.WAKE)
        if t >= until or kind is not Kind.WAKE or self.retired or self.world.back(self.name, t) is not None:
            return None
        number = next_round(self.mailbox.waiting, self.completed, self.terms)
        if number >= self.terms.rounds or self.lately:
            return None
        self._foreseen += self._live(t, number)
        scene = self._scene()
        return Coming(self.task, self.vector, number, scene) if self.task.work(number, scene).held else None

    def snapshot(self) -> memoryview:
        """Everything a later incarnation needs: parameters, optimiser state, round, what it knew of its peers."""
        model, own = self.model, self.own
        return TwinState(
            incarnation=self.incarnation, completed=self.completed, origin=self._origin, size=len(model.start),
            ranges=model.ranges, part=model.part, shared=self.shared, age=own.age, mass=own.mass, extra=own.state, memory=self.memory,
            told=self.told, incarnations=self.mailbox.incarnations, mirror=self.mirror.memory() if self.mirror else None,
        ).packed()  # fmt: skip

    def restore(self, saved: bytes | memoryview, incarnation: int) -> None:
        """Take over a saved state as `incarnation`. Raises CheckpointError E502, E505."""
        state = TwinState.unpacked(saved)
        if state.origin != self._origin:
            raise CheckpointError("E502", f"the saved state of {self.name} began with another model", fix="run the scenario again")
        self.incarnation, self.completed, self.memory, self.told = incarnation, state.completed, state.memory, state.told
        self.model, self.shared = Departure(self.model.start, state.ranges, state.part), state.shared
        self.own = Copy(gather(self.vector, self.shared), state.age, state.mass, state.extra)
        self.mailbox.incarnations.update(state.incarnations)
        if self.mirror and state.mirror:
            self.mirror.resume(state.mirror)

    # ------------------------------------------------------------------ a round

    def _wake(self, t: float) -> None:
        number = next_round(self.mailbox.waiting, self.completed, self.terms)
        if number >= self.terms.rounds:
            self._retire(t)
            return
        self._events += [*self._foreseen, *self._live(t, number)]
        self._foreseen = []
        scene = self._scene()
        work = self.task.work(number, scene)
        taught, self.lately = tutors(self.lately, self.shared, self.vector), []
        slow = self.world.slowdown(self.name, t)
        until = t + max(self.least_fit, self._seconds(work.samples) * (self.terms.effort(len(taught)) * slow)) + self.owed * slow
        self.owed = 0.0
        if not scene.adapt:
            self._align(self.task.layout.ranges(work.shared))
        self.current = Round(number, 0, False, held=work.held, listens=work.listens)
        self.own = replace(self.own, samples=work.held)
        self.agenda.add(until, Kind.FITTED)
        if work.held == 0:
            return
        self._note(facts.FitStarted(t=t, twin=self.name, round=number, until=until))
        try:
            more = {"tutors": taught} if taught else {}
            self.learnt = self.task.fit(self.vector, number, scene, self.memory, **more)
        except FitDiverged as error:
            self.learnt = error

    def _send(self, t: float) -> None:
        current = self._round()
        self._learn(t)
        self._reflect(t)
        receivers, senders, current.directed = partners(self.world.topology, self.terms, self.name, current.number)
        current.degree = len(receivers)
        current.closes = self.terms.pace.closes(t, all_came=not (receivers or senders))
        current.reached = self._gossip(t, receivers) if receivers else {}
        current.expected = frozenset(sender for sender in senders if current.directed or sender in current.reached)
        if self.terms.cloud and (current.number + 1) % self.terms.cloud.every == 0 and not current.withheld:
            self._upload(t)
        current.sent = True
        for deadline in (current.closes, current.cloud_until):
            if deadline > t:
                self.agenda.add(deadline, Kind.CLOSE, current.number)
        self._close_if_ready(t)

    def _learn(self, t: float) -> None:
        number, learnt, self.learnt = self._round().number, self.learnt, None
        if isinstance(learnt, FitDiverged):
            self._note(facts.FitRejected(t=t, twin=self.name, round=number, reason=learnt.problem))
            return
        if learnt is None:  # there was nothing to learn from
            return
        self.model, self.memory = self.model.moved(learnt.vector, self.task.layout), learnt.memory
        self.own = replace(self.own, vector=gather(learnt.vector, self.shared), age=self.own.age + learnt.steps)
        self._note(facts.Fitted(
            t=t, twin=self.name, round=number, loss=learnt.loss, samples=learnt.samples, steps=learnt.steps, trained=learnt.trained
        ))  # fmt: skip

    def _reflect(self, t: float) -> None:
        """What this round tells of the device, and whether its update goes."""
        current = self._round()
        if self.mirror is None:
            return
        self._events += self._live(t, current.number)
        current.signs, reason = self.mirror.signs, self.mirror.withheld
        if reason:
            current.withheld, current.signs = True, replace(current.signs, quality=0.0)
            self._note(facts.UpdateWithheld(t=t, twin=self.name, round=current.number, reason=reason))

    def _gossip(self, t: float, receivers: tuple[str, ...]) -> dict[str, float]:
        """Send own copy to `receivers`, or word that there is none; return receiver -> arrival of the frames that are not lost."""
        if self._round().mute:
            return self._spread(self._header("update", t, NOTHING, 0.0, 0.0), NOTHING, receivers)
        sent, _ = self.terms.aggregator.share(self.own, len(receivers), 0)
        payload = self.terms.codec.encode(sent.vector, self.told)
        header = self._header("update", t, payload, sent.age, sent.mass)
        reached = self._spread(header, payload, receivers)
        if self.told is not None and reached:
            self.told = self.terms.codec.decode(payload.data, len(self.told)).onto(self.told)
        _, self.own = self.terms.aggregator.share(self.own, len(receivers), len(receivers) - len(reached))
        return reached

    def _spread(self, header: Header, payload: npt.NDArray[np.uint8], receivers: tuple[str, ...]) -> dict[str, float]:
        reached: dict[str, float] = {}
        for receiver in receivers:
            arrives = self._dispatch(replace(header, receiver=receiver, met=self.met.get(receiver, -1), seq=self._number()), payload)
            if arrives is not None:
                reached[receiver] = arrives
        return reached

    def _upload(self, t: float) -> None:
        current, cloud = self._round(), self.terms.cloud
        assert cloud is not None
        payload = NOTHING if current.listens else self.terms.codecs["upload"].encode(self.own.vector)
        header, seq = replace(self._header("upload", t, payload, self.own.age, 1.0), model=self.choice), self._number()
        current.upload = order(self.incarnation, seq)
        if self._dispatch(replace(header, receiver=CLOUD, seq=seq), payload) is not None:
            current.cloud_until = t + cloud.wait
        else:
            self._note(facts.CloudMissed(t=t, twin=self.name, round=current.number))

    def _hear(self, t: float, parcel: Parcel) -> None:
        check = partial(in_time, current=self.current, terms=self.terms, completed=self.completed, retired=self.retired)
        fact, update = receive(self.mailbox, parcel, t, check, self.completed)
        self._note(fact)
        if update is None:
            return
        if update.header.kind == "answer":
            self._round().answers[update.header.model] = update
        else:
            self.mailbox.keep(update, every=self.terms.aggregator.whole or self.terms.pace.lockstep)
        self._close_if_ready(t, heard=True)

    def _close_if_ready(self, t: float, *, heard: bool = False) -> None:
        """Merge once gossip and the cloud are both in, or both overdue. Having `heard` at a deadline is not past it: more may come."""
        current = self.current
        if current is None or not current.sent:
            return
        late = math.nextafter(t, -math.inf) if heard else t
        gossip = late >= current.closes or current.expected <= settled(self.mailbox.waiting, current.number)
        cloud = late >= current.cloud_until or current.answered
        if gossip and cloud:
            self._merge(t)

    def _merge(self, t: float) -> None:
        current = self._round()
        updates = self.mailbox.take(lambda update: usable(update, current, self.terms))
        heard, silent = weigh(updates, current, self.terms, t, self._aligned)
        trial = None
        if self.terms.gate and (heard or current.answers):
            trial = on_trial(self.terms.gate, self.task, self.vector, self.shared, self.own.vector, self._scene(), current.number)
        let_in = admitted(trial, self.terms.aggregator, self.own, heard)
        refused = {update.sender for update in heard} - {update.sender for update in let_in}
        weights: dict[str, float] = {}
        if let_in:
            self.own, weights = self.terms.aggregator.merge(self.own, let_in)
            self.lately = let_in if self.terms.knowledge else []
        self.met.update(dict.fromkeys([*weights, *refused], current.number))
        self.choice = chosen(current.answers, self._loss, self.choice)
        answer = current.answers.get(self.choice)
        current.number = joined(current.number, answer, self.terms)
        if answer and trial and not trial.admits(CLOUD, answer.header.round, self._aligned(answer)):
            answer = None
        if answer:
            self.own = replace(self.own, vector=self._aligned(answer))
            weights = {CLOUD: 1.0}
        elif not current.answers and current.cloud_until > -math.inf:
            self._note(facts.CloudMissed(t=t, twin=self.name, round=current.number))
        if trial:
            self.owed = cost(trial, self._scene(), self.about.get("validation", 0)) * self.terms.seconds_per_sample / self.speed
            self._note(exchanged(t, self.name, current.number, trial, weights, self.own.vector))
        self.model = self.model.put(self.shared, self.own.vector)
        self._note(merged(t, self.name, current, weights, answer, let_in, silent | refused))
        self._finish_round(t, len(heard))

    def _finish_round(self, t: float, heard: int) -> None:
        current = self._round()
        if current.number + 1 >= self.terms.rounds or (current.number + 1) % self.terms.evaluate == 0:
            for fact in scored(self.name, t, current.number, self.task, self.vector, self._scene(), self.terms):
                if self.mirror and isinstance(fact, facts.Scored) and fact.split == "validation":
                    self.mirror.scored(fact.metrics, t)
                self._note(fact)
        self._note(facts.RoundDone(t=t, twin=self.name, round=current.number, bytes_sent=current.bytes_sent, heard=heard))
        self.completed = current.number + 1
        self.current = None
        self.agenda.add(t, Kind.WAKE)

    # ------------------------------------------------------------------ merging, in detail

    def _loss(self, answer: Update) -> float:
        vector = scatter(self.vector, self.shared, self._aligned(answer))
        return float(self.task.score(vector, "train", self._scene(), self._round().number)["loss"])

    def _aligned(self, update: Update) -> Vector:
        return aligned(update, self.shared, self.own.vector, self.vector)

    def _align(self, ranges: Ranges) -> None:
        """Share `ranges` from now on. Nothing was told yet of elements that are shared for the first time, so the start counts as told."""
        if ranges == self.shared:
            return
        self.own = replace(self.own, vector=gather(self.vector, ranges))
        if self.terms.codec.partial:
            known = self.model.start if self.told is None else scatter(self.model.start, self.shared, self.told)
            self.told = gather(known, ranges)
        self.shared = ranges

    # ------------------------------------------------------------------ small things

    def _dispatch(self, header: Header, payload: npt.NDArray[np.uint8]) -> float | None:
        """Put one frame on its way; return its arrival, None if the world loses it."""
        fact, parcel = dispatch(self.world, header, payload)
        self._round().bytes_sent += fact.bytes
        self._note(fact)
        if parcel is not None:
            self._parcels.append(parcel)
        return fact.arrives

    def _header(self, kind: str, t: float, payload: npt.NDArray[np.uint8], age: float, mass: float) -> Header:
        drawn = drafted(kind, t, self._round(), self.terms, self.task.layout.digest, self.shared, payload, age, mass)
        return replace(drawn, sender=self.name, incarnation=self.incarnation)

    def _pause(self, t: float, back: float, kind: Kind, what: Any) -> None:
        if math.isinf(back):
            self._retire(t)
        else:
            self.agenda.add(back, kind, what)

    def _retire(self, t: float) -> None:
        self.retired = True
        self.current = self.learnt = None
        self._note(facts.TwinDone(t=t, twin=self.name, rounds=self.completed, model=hashlib.sha256(self.vector.tobytes()).hexdigest()[:16]))

    def _step(self, *, round_done: bool) -> Step:
        waiting_last = self.current is not None and self.current.sent and self.current.number + 1 >= self.terms.rounds
        quiet = self.retired or waiting_last
        hearing_hastens = self.terms.pace.lockstep or self.terms.cloud is not None
        upcoming = self.agenda.next()
        step = Step(
            name=self.name, events=tuple(self._events), parcels=tuple(self._parcels), next=upcoming,
            sends=math.inf if quiet else min(self.agenda.first(Kind.FITTED), upcoming + self.least_fit),
            reacts=math.inf if quiet or not hearing_hastens else self.least_fit, round_done=round_done, done=self.retired,
        )  # fmt: skip
        self._events, self._parcels = [], []
        return step

    def _round(self) -> Round:
        assert self.current is not None
        return self.current

    @cached_property
    def _origin(self) -> str:
        return origin(self.model.start, self.task.layout)

    def _number(self) -> int:
        self.seq += 1
        return self.seq

    def _scene(self) -> Scene:
        return self.mirror.scene() if self.mirror else Scene()

    def _live(self, t: float, number: int) -> list[facts.Event]:
        return self.mirror.advance(t, number) if self.mirror else []

    def _seconds(self, samples: int) -> float:
        return max(samples * self.terms.seconds_per_sample / self.speed, 1e-6)

    def _note(self, event: facts.Event) -> None:
        self._events.append(event)
