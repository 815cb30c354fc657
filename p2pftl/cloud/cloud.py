"""The cloud: an optional coordinator, a participant without a shard. The twins go on without it."""

from __future__ import annotations

import math
from statistics import median_low

import numpy as np
import numpy.typing as npt

from p2pftl import events as facts
from p2pftl.agenda import Agenda, Kind, Parcel, Step
from p2pftl.cloud.memory import CloudState
from p2pftl.cloud.seams import Coordinator, Memory, Upload
from p2pftl.errors import FrameRefused
from p2pftl.exchange import dispatch, order, receive
from p2pftl.gossip.frames import Header, digest
from p2pftl.gossip.mailbox import Mailbox, Update
from p2pftl.gossip.seams import Signs
from p2pftl.params import Layout, Ranges
from p2pftl.terms import Terms
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World


class Cloud:
    """Collects uploads and answers whom it heard: when all twins came, at the latest `deadline` after the first upload.

    Who uploads nothing and asks for the answer alone gets what the first of the others gets. An answer says in which round the twins
    are: in lockstep a twin that was away joins it.
    """

    def __init__(self, coordinator: Coordinator, terms: Terms, world: World, layout: Layout) -> None:
        assert terms.cloud is not None
        self.name = CLOUD
        self.coordinator = coordinator
        self.terms = terms
        self.cloud = terms.cloud
        self.world = world
        self.layout = layout
        self.agenda = Agenda()
        self.mailbox = Mailbox(terms.expectation(CLOUD, layout))
        self.uploads: dict[str, Update] = {}
        self.rounds: dict[str, int] = {}  # of each twin's newest upload; lost with the process, as the mailbox is
        self.memory: Memory = {}
        self.incarnation = 1
        self.completed = 0
        self.seq = 0
        self._events: list[facts.Event] = []
        self._parcels: list[Parcel] = []

    def begin(self, at: float = 0.0) -> Step:
        if self.incarnation > 1:
            self._events.append(facts.Revived(t=at, twin=CLOUD, incarnation=self.incarnation, round=self.completed))
        return self._step(round_done=True)

    def post(self, parcel: Parcel) -> None:
        self.agenda.expect(parcel)

    def advance(self, until: float) -> Step:
        completed = self.completed
        while self.agenda.next() < until and self.completed == completed:
            t, kind, what = self.agenda.take()
            if kind is Kind.FRAME:
                self._hear(t, what)
                continue
            back = self.world.back(CLOUD, t)
            if back is None:
                self._answer(t, what)
            elif math.isfinite(back):
                self.agenda.add(back, kind, what)
        return self._step(round_done=self.completed > completed)

    def snapshot(self) -> bytes:
        """Its round number, what it knows of the twins' incarnations, and what its policy remembers."""
        return CloudState(self.completed, self.mailbox.incarnations, self.memory).packed()

    def restore(self, saved: bytes, incarnation: int) -> None:
        """Take over a saved state. Raises CheckpointError E502 when it is damaged, E505 when it is of another schema."""
        state = CloudState.unpacked(saved)
        self.completed, self.mailbox.incarnations, self.memory = state.completed, dict(state.incarnations), state.memory
        self.incarnation = incarnation

    def _hear(self, t: float, parcel: Parcel) -> None:
        fact, update = receive(self.mailbox, parcel, t, _only_uploads, self.completed)
        self._events.append(fact)
        if update is None:
            return
        if not self.uploads:
            self.agenda.add(t + self.cloud.deadline, Kind.CLOSE, self.completed)
        self.uploads[update.header.sender] = update
        self.rounds[update.header.sender] = update.header.round
        if len(self.uploads) == len(self.terms.everyone):
            self._answer(t, self.completed)

    def _answer(self, t: float, round: int) -> None:
        if round != self.completed or not self.uploads:
            return
        told = {name: update for name, update in self.uploads.items() if not update.header.withheld}
        if not told:
            self.uploads = {}
            return
        uploads = {name: _upload(update) for name, update in told.items()}
        reply = self.coordinator.answer(uploads, self.layout, self.memory)
        if reply.offers:
            merged = facts.CloudMerged(
                t=t, twin=CLOUD, round=round, twins=tuple(sorted(uploads)), samples=sum(upload.samples for upload in uploads.values()),
                groups=reply.groups, figures=reply.figures or {},
            )  # fmt: skip
            self._events.append(merged)
        first = min(reply.offers, default="")
        for name in sorted(reply.offers.keys() | (self.uploads.keys() - told.keys()) if first else ()):
            source = name if name in told else first
            for number, offer in enumerate(reply.offers[source]):
                payload = self.terms.codecs["answer"].encode(offer)
                self._send(t, name, told[source].header.ranges, payload, number, len(reply.offers[source]))
        self.memory = reply.memory
        self.uploads = {}
        self.completed += 1

    def _send(self, t: float, receiver: str, ranges: Ranges, payload: npt.NDArray[np.uint8], model: int, models: int) -> None:
        self.seq += 1
        upload = self.uploads[receiver]
        header = Header(
            run=self.terms.run, kind="answer", sender=CLOUD, incarnation=self.incarnation, receiver=receiver,
            round=upload.header.round, seq=self.seq, codec=type(self.terms.codecs["answer"]).__name__, layout=self.layout.digest,
            ranges=ranges, samples=upload.header.samples, age=0.0, mass=1.0, degree=0, closes=0.0, met=median_low(self.rounds.values()),
            sent_at=float(t), answers=order(upload.header.incarnation, upload.header.seq), signs=Signs(), sha256=digest(payload),
            model=model, models=models,
        )  # fmt: skip
        fact, parcel = dispatch(self.world, header, payload)
        self._events.append(fact)
        if parcel is not None:
            self._parcels.append(parcel)

    def _step(self, *, round_done: bool) -> Step:
        upcoming = self.agenda.next()
        step = Step(
            name=CLOUD, events=tuple(self._events), parcels=tuple(self._parcels), next=upcoming,
            sends=upcoming, reacts=0.0, round_done=round_done, done=False,
        )  # fmt: skip
        self._events, self._parcels = [], []
        return step


def _upload(update: Update) -> Upload:
    header = update.header
    return Upload(update.part.values, header.ranges, header.samples, header.model, header.signs.quality)


def _only_uploads(update: Update) -> None:
    if update.header.kind != "upload":
        raise FrameRefused("E412", "only uploads are for the cloud")
