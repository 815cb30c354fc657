"""The swarm on Ray: one actor per twin (or per packed crew), named after its scanner. Ray only carries.

Frames go from actor to actor: the payload as one object, passed by reference as a top-level argument; the driver
sees headers, times and which frames arrived. Actors never wait for each other. One call at a time waits at each
actor for its news and brings its orders, so that the driver's work grows with time, not with the number of twins.
A dead actor is not restarted by Ray (it would come back with its state silently reset): the conductor revives its
members from their last saved state, in a new actor, at a higher incarnation.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, RayActorError, RayError, RayTaskError

from p2pftl.agenda import Step
from p2pftl.errors import CheckpointError, P2pftlError, UsageError
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Recruit
from p2pftl.swarm.placing import Device, bound_apart
from p2pftl.swarm.ray_actor import Failed, Flight, Moves, News, Order
from p2pftl.swarm.ray_cluster import Cluster
from p2pftl.swarm.ray_homes import ROOM, SILENCE, Homes
from p2pftl.swarm.seams import Advanced, Delivered, Died, Report, T
from p2pftl.world.topology import CLOUD

PATIENCE = 600.0  # seconds for an actor to read its studies, or for a frame to arrive


class RaySwarm:
    """Participants as Ray actors, on a cluster of our own on this machine or on the one at `address`.

    run: namespace of the actors' names; notice: told in one line what is being waited for; device: whether crews
    share the cluster's GPUs; connect: do so at once, or leave it to the caller.
    Raises UsageError E604 when the cluster cannot be reached.
    """

    def __init__(
        self, *, run: str, address: str | None = None, notice: Callable[[str], None] = lambda text: None, device: Device = "auto",
        connect: bool = True,
    ) -> None:  # fmt: skip
        self.cluster = Cluster(address, run)
        self.notice = notice
        self.vault: Vault
        self._homes = Homes(self.cluster, device)
        self._lives: dict[str, int] = {}
        self._run = 0
        self._brief: tuple[Any, Any] = (None, None)
        self._moved: list[tuple[str, int]] = []
        self._orders: dict[int, list[Order]] = {}
        self._awaited: dict[Any, int] = {}
        self._reports: list[Report] = []
        self._flying: dict[Flight, str] = {}
        self._early: set[Flight] = set()
        self._heirs: dict[str, int | None] = {}
        if connect:
            self.connect()

    # ------------------------------------------------------------------ up and down

    def connect(self) -> None:
        """Start or find Ray. May be called from a thread of its own, while signals are held back."""
        self.cluster.connect()

    @property
    def dashboard(self) -> str:
        """Address of Ray's dashboard, "" if there is none."""
        return self.cluster.dashboard

    @property
    def cores(self) -> int:
        """Processors of all machines that are up."""
        return max(1, int(sum(one.cores for one in self.cluster.machines())))

    def process(self, name: str) -> int:
        """Process number of the participant's actor, on the machine where it runs."""
        return self._homes.where(self._lives[name]).process[0]

    def machine(self, name: str) -> str:
        """Ray's id of the machine where the participant's actor runs."""
        return self._homes.where(self._lives[name]).ray_machine

    def warm(self, crews: Sequence[Sequence[str]]) -> None:
        """Start one process per crew and let those of twins import torch, before it is known what they will learn."""
        self._settle_in(bound_apart(crews, self.cluster.machines()))
        for number in {number for name, number in self._lives.items() if name != CLOUD}:
            self._homes[number].actor.warm.remote()

    def ask(self, question: Callable[[], T]) -> T:
        """Answer it in the process of a twin that `warm` started; in this one if there is none."""
        name = next((name for name in self._lives if name != CLOUD), None)
        if name is None:
            return question()
        self.notice("importing torch")
        try:
            answer: T = _told(self._homes[self._lives[name]].actor.ask.remote(question), timeout=PATIENCE)
        except RayError as error:
            raise UsageError(
                "E610", f"the process of {name} died while importing torch", fix="free some memory, or raise twins_per_actor"
            ) from error
        return answer

    def start(self, recruit: Recruit, crews: Sequence[Sequence[str]], vault: Vault) -> list[Step]:
        """Start one actor per crew, all at once; those of an earlier start that still answer are used again."""
        self._run += 1
        self._orders, self._reports, self._flying, self._early, self._heirs = {}, [], {}, set(), {}
        crews = bound_apart(crews, self.cluster.machines())
        self.notice(f"starting {len(crews)} actors")
        self._brief, self.vault, self._moved = (ray.put(recruit), ray.put(vault)), vault, []
        numbers = self._settle_in(crews)
        moves = ray.put(Moves(0, {number: self._homes[number].actor for number in numbers}, dict(self._lives)))
        begun = {}
        for crew, number in zip(crews, numbers, strict=True):
            self._homes[number].known = 0
            begun[self._homes[number].actor.begin.remote(self._run, number, *self._brief, list(crew), moves)] = (number, crew)
        steps: dict[int, list[Step]] = {}
        waiting = list(begun)
        until = time.monotonic() + PATIENCE
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=max(0.0, until - time.monotonic()))
            if not done:
                raise UsageError("E610", f"{len(waiting)} actors did not start in {PATIENCE:.0f} s", fix="raise twins_per_actor")
            number, crew = begun[done[0]]
            steps[number] = self._first(done[0], number, crew)
            self.notice(f"{len(steps)} of {len(crews)} actors have read their studies")
        return [step for number in numbers for step in steps[number]]

    def stop(self) -> None:
        """End actors, cluster and temporary files; called again after an interruption, it does so by force."""
        homes, self._homes.open, self._lives = self._homes.open, {}, {}
        try:
            with contextlib.suppress(Exception):
                for home in homes.values():
                    ray.kill(home.actor)
        finally:
            self.cluster.stop()

    def _settle_in(self, crews: Sequence[Sequence[str]]) -> list[int]:
        numbers = self._homes.settle(crews, self._lives)
        self._awaited = {ref: number for ref, number in self._awaited.items() if number in numbers}  # these still wait
        self._lives = {name: number for crew, number in zip(crews, numbers, strict=True) for name in crew}
        return numbers

    def _first(self, ref: Any, number: int, crew: Sequence[str]) -> list[Step]:
        """What a crew says that begins. Raises UsageError E610, or DataError with the machine that lacks the data."""
        try:
            address = self._homes.where(number).address
            steps: list[Step] = _told(ref)
        except RayError as error:
            problem = f"the process of {', '.join(crew[:4])} died while reading its studies"
            raise UsageError("E610", problem, fix="free some memory, or raise twins_per_actor") from error
        except P2pftlError as error:
            if error.code not in ("E301", "E307") or len(self.cluster.machines()) == 1:
                raise
            fix = f"""give every machine the data at the same path, or start Ray where they lie with --resources '{{"{crew[0]}": 1}}'"""
            raise type(error)(error.code, f"{error.problem} on the machine {address}", where=error.where, fix=fix) from None
        return steps

    # ------------------------------------------------------------------ going on

    def advance(self, name: str, until: float) -> None:
        self._orders.setdefault(self._lives[name], []).append((name, until))

    def flush(self) -> None:
        self._send_orders()

    def completed(self) -> Sequence[Report]:
        self._send_orders()
        quiet, asked = time.monotonic(), 0
        while not self._reports:
            done, _ = ray.wait(list(self._awaited), num_returns=1, timeout=1.0)
            if done and len(self._awaited) > 1:
                done, _ = ray.wait(list(self._awaited), num_returns=len(self._awaited), timeout=0)
            for ref in done:
                self._hear(ref)
            if not done and time.monotonic() - quiet > SILENCE * (1 + asked):
                asked += 1
                self._ask_around(time.monotonic() - quiet)
            self._send_orders()
        reports, self._reports = self._reports, []
        return reports

    def _send_orders(self) -> None:
        """Every actor has one call that waits for its news; orders go with it, or after it."""
        listening = set(self._awaited.values())
        for number in set(self._lives.values()):
            orders = self._orders.pop(number, None)
            if number not in listening:
                self._awaited[self._homes[number].actor.news.remote(orders or (), self._moves(number))] = number
            elif orders:
                self._homes[number].actor.order.remote(orders, self._moves(number))

    def _moves(self, number: int) -> Moves | None:
        """What an actor does not know yet of who lives where."""
        home, version = self._homes[number], len(self._moved)
        if home.known == version:
            return None
        news = self._moved[max(home.known, 0) :]
        where = {name: self._lives[name] for name, _ in news if name in self._lives} if home.known >= 0 else dict(self._lives)
        home.known = version
        return Moves(version, {there: self._homes[there].actor for there in where.values()}, where)

    def _hear(self, ref: Any) -> None:
        number = self._awaited.pop(ref)
        try:
            news: News = ray.get(ref)
        except RayTaskError as error:
            raise P2pftlError("E700", f"an actor stopped: {type(error.cause).__name__}", fix="run with --executor local to debug") from None
        except RayError:
            self._dead(number)
            return
        if news.failed is not None:
            raise news.failed.error
        if news.run != self._run:
            return
        for answer in news.answers:
            self._reports.append(Advanced(answer.step))
            for parcel, home in zip(answer.step.parcels, answer.homes, strict=True):
                if parcel.flight in self._early:
                    self._early.remove(parcel.flight)
                    self._reports.append(Delivered(parcel.receiver, parcel.flight))
                elif self._lives.get(parcel.receiver) != home:  # sent to a process it no longer lives in
                    self._reports.append(Delivered(parcel.receiver, parcel.flight, lost=True))
                else:
                    self._flying[parcel.flight] = parcel.receiver
        for receiver, flight in news.received:
            if self._flying.pop(flight, None) is None:
                self._early.add(flight)
            else:
                self._reports.append(Delivered(receiver, flight))

    def _ask_around(self, quiet: float) -> None:
        """Long nothing: a fit may take long, but an actor answers meanwhile; and a frame arrives, or its way is broken."""
        numbers = set(self._lives.values())
        for number in sorted(numbers - self._homes.answering(numbers)):
            self._dead(number, "no answer")
        if quiet > PATIENCE:
            self._settle(set(self._flying))

    def vector(self, name: str) -> Vector:
        """Final parameters of a twin; from its last saved state, in a new process, if it died since."""
        try:
            found: Vector = _told(self._homes[self._lives[name]].actor.vector.remote(name), timeout=PATIENCE)
        except RayActorError:
            self.kill(name)
            self.revive(name, 0, 0.0)
            found = _told(self._homes[self._lives[name]].actor.vector.remote(name), timeout=PATIENCE)
        return found

    # ------------------------------------------------------------------ death and return

    def kill(self, name: str) -> None:
        """End the actor's process; Ray does so at once and without asking it."""
        number = self._lives.pop(name)
        home = self._homes[number]
        self._forget(number, [name])
        if not self._homes.end(number):
            raise P2pftlError("E701", f"the process of {name} does not end", fix="look for a stopped process on this machine")
        self._heirs[name] = self._homes.build(name, home.place, home.deaths)

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        for again in (False, True):
            number = self._heirs[name]
            if number is None:
                raise P2pftlError("E702", "no machine that is up holds its data")
            try:
                step = self._revived(number, name, incarnation, at)
            except RayError as error:
                self._replace(number)
                if again or not isinstance(error, ActorUnschedulableError):  # its machine was lost meanwhile
                    raise P2pftlError("E702", f"its new process gave no answer ({type(error).__name__})") from error
            else:
                self._lives[name] = number
                self._moved.append((name, number))
                return step
        raise AssertionError("unreachable")

    def _revived(self, number: int, name: str, incarnation: int, at: float) -> Step:
        self._homes.where(number, ROOM)
        ref = self._homes[number].actor.revive.remote(self._run, number, *self._brief, name, incarnation, at)
        try:
            step: Step = _told(ref, timeout=PATIENCE)
        except CheckpointError as error:
            if error.code != "E501" or len(self.cluster.machines()) == 1:
                raise
            problem = "its saved state is not where it lives now; --out must be a folder that all machines share"
            raise CheckpointError("E501", problem) from error
        del self._heirs[name]
        return step

    def _replace(self, number: int) -> None:
        """Another process for those who wait to be revived in one that gives no answer."""
        waiting = sorted(name for name, heir in self._heirs.items() if heir == number)
        if waiting:
            self._heirs |= dict.fromkeys(waiting, self._homes.rebuild(waiting, self._homes[number]))
        if number not in self._lives.values():
            self._homes.end(number)

    def _dead(self, number: int, reason: str = "") -> None:
        """Report everybody who lived in an actor. They come back together; if that ends so too, in halves, until one is alone."""
        names = sorted(name for name, lived in self._lives.items() if lived == number)
        home = self._homes[number]
        for name in names:
            del self._lives[name]
        self._forget(number, names)
        self._replace(number)
        for half in [names[0::2], names[1::2]] if home.deaths else [names]:
            if half:
                self._heirs |= dict.fromkeys(half, self._homes.rebuild(half, home))
        self._reports.append(Died(tuple(names), reason or self._homes.lost(home)))

    def _forget(self, number: int, names: Collection[str]) -> None:
        """Nothing more comes from an actor; frames to it are lost, those from it are if they do not lie at their receiver."""
        self._awaited = {ref: other for ref, other in self._awaited.items() if other != number}
        self._orders.pop(number, None)
        to = [flight for flight, receiver in self._flying.items() if receiver in names]
        for flight in to:
            self._reports.append(Delivered(self._flying.pop(flight), flight, lost=True))
        self._settle({flight for flight in self._flying if flight[0] in names})
        self._early = {flight for flight in self._early if flight[0] not in names}

    def _settle(self, flights: Collection[Flight]) -> None:
        """Ask receivers for frames that should be there; what is not there is lost."""
        asked: dict[int, list[Flight]] = {}
        for flight in sorted(flights):
            asked.setdefault(self._lives.get(self._flying[flight], -1), []).append(flight)
        for number, sought in asked.items():
            try:
                here = set(ray.get(self._homes[number].actor.settle.remote(sought), timeout=SILENCE))
            except (KeyError, RayError):  # dead too: its next news says so
                here = set()
            for flight in sought:
                receiver = self._flying[flight]
                if flight not in here:
                    del self._flying[flight]
                    self._reports.append(Delivered(receiver, flight, lost=True))


def _told(ref: Any, timeout: float | None = None) -> Any:
    answer = ray.get(ref, timeout=timeout)
    if isinstance(answer, Failed):
        raise answer.error
    return answer
