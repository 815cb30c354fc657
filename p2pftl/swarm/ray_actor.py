"""A crew in a Ray actor: one thread of it works, others take in orders and frames, send frames on and tell what happened.

Nobody is called once per event: orders come as many as there are, frames go to an actor and news to the driver
as many as came together within LINGER. A frame counts as received as soon as it lies here, even while a member
fits; the member hears it when it goes on, and its agenda makes the order.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import ray

from p2pftl.agenda import Parcel, Step
from p2pftl.errors import DataError, P2pftlError
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Crew, Recruit
from p2pftl.swarm.crew import Order as Order
from p2pftl.swarm.leftovers import Process, myself
from p2pftl.swarm.turns import Turns

T = TypeVar("T")
Flight = tuple[str, int]

LINGER = 0.004  # seconds that news and frames may wait for more, while there is work
NOWHERE = -1  # the home of who is dead
SHORT = 0.25  # seconds of a fit that may hold back what is told of the round before it
SMALL = 100_000  # bytes of a payload that goes within a call


@dataclass(frozen=True)
class Failed:
    """What an actor says of an error: never another exception's text, which may hold patient data."""

    error: P2pftlError


@dataclass(frozen=True)
class Whereabouts:
    """Where an actor runs. machine: equal for processes that see each other's pids; address: of the Ray machine."""

    process: Process
    machine: str
    address: str
    ray_machine: str


@dataclass(frozen=True)
class Answer:
    """A step without payloads. homes: the number of the actor that each parcel goes to."""

    step: Step
    homes: tuple[int, ...]


@dataclass(frozen=True)
class News:
    """What happened in an actor since it told last. received: (receiver, flight) of frames that lie here now."""

    run: int
    answers: tuple[Answer, ...] = ()
    received: tuple[tuple[str, Flight], ...] = ()
    failed: Failed | None = None


@dataclass(frozen=True)
class Moves:
    """Who lives in which actor, as far as it is new. actors: handle by number; homes: number by name."""

    version: int
    actors: Mapping[int, Any]
    homes: Mapping[str, int]


@dataclass
class _Tray:
    """What waits to be told, sent or heard. since: when the oldest of it came."""

    answers: list[Answer] = field(default_factory=list)
    received: list[tuple[str, Flight]] = field(default_factory=list)
    failed: Failed | None = None
    outgoing: list[tuple[int, Parcel]] = field(default_factory=list)
    incoming: list[Parcel] = field(default_factory=list)
    refused: set[Flight] = field(default_factory=set)
    told: tuple[tuple[str, Flight], ...] = ()
    since: float = 0.0


class CrewActor:
    """A crew in its own process. Every method may be called at any time; the crew itself is touched by one thread only.

    places: so many actors of this machine compute at a time, 0 for all.
    """

    def __init__(self, places: int = 0) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        context = ray.get_runtime_context()
        self._turns = Turns(Path(context.get_temp_dir()) / context.get_session_name(), places)
        self._crew: Crew | None = None
        self._run = 0
        self._number = -1
        self._version = -1
        self._actors: dict[int, Any] = {}
        self._homes: dict[str, int] = {}
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._working = 0
        self._waiting: dict[str, float] = {}
        self._tray = _Tray()
        self._change = threading.Condition()
        for act in (self._work, self._carry):
            threading.Thread(target=act, daemon=True).start()

    # ------------------------------------------------------------------ up

    def whereabouts(self) -> Whereabouts:
        context = ray.get_runtime_context()
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return Whereabouts(myself(), machine(), address, context.get_node_id())

    def warm(self) -> None:
        """Import what learning needs, before anything is known of it."""
        from p2pftl.learning.engine import prepare_torch

        def act() -> None:
            with self._turns.turn():
                prepare_torch()

        self._jobs.put(lambda: self._noted("torch", act))

    def ask(self, question: Callable[[], T]) -> T | Failed:
        """Answer a question for which torch is needed."""
        return self._in_crew(lambda: _guarded("a question", question))

    def begin(self, run: int, number: int, recruit: Recruit, vault: Vault, names: Sequence[str], moves: Moves) -> list[Step] | Failed:
        """Bring `names` up as actor `number` of the driver's `run`-th start; what is left of an earlier start is forgotten."""

        def act() -> list[Step] | Failed:
            with self._change:
                self._run, self._number, self._tray, self._version = run, number, _Tray(), -1
                self._crew = crew = Crew(recruit, vault, SHORT)
            self.move(moves)
            return _guarded(", ".join(names), lambda: crew.begin(names))

        return self._in_crew(act)

    def revive(self, run: int, number: int, recruit: Recruit, vault: Vault, name: str, incarnation: int, at: float) -> Step | Failed:
        """Bring `name` back, beside those that were revived here before."""

        def act() -> Step | Failed:
            with self._change:
                self._run, self._number = run, number
                self._crew = crew = self._crew or Crew(recruit, vault, SHORT)
            return _guarded(name, lambda: crew.revive(name, incarnation, at))

        return self._in_crew(act)

    def move(self, moves: Moves) -> None:
        """Learn in which actor each peer lives."""
        with self._change:
            if moves.version > self._version:
                self._version = moves.version
                self._actors.update(moves.actors)
                self._homes.update(moves.homes)

    # ------------------------------------------------------------------ going on

    def order(self, orders: Iterable[Order], moves: Moves | None = None) -> None:
        """Let members go on, one after the other."""
        if moves is not None:
            self.move(moves)
        with self._change:
            for name, until in orders:
                self._working += 1
                self._waiting[name] = until
                self._jobs.put(lambda name=name, until=until: self._advance(name, until))  # type: ignore[misc]

    def news(self, orders: Iterable[Order], moves: Moves | None = None) -> News:
        """Take orders, then wait until there is something to tell."""
        self.order(orders, moves)
        with self._change:
            self._linger(self._worth_telling)
            tray = self._tray
            told = News(self._run, tuple(tray.answers), tuple(tray.received), tray.failed)
            tray.answers, tray.received, tray.told = [], [], told.received
            return told

    def _worth_telling(self) -> bool:
        """That frames lie here can wait while others wait for their turn: the receivers live here, and would wait behind them."""
        tray = self._tray
        return bool(tray.answers or tray.failed or (tray.received and not self._waiting))

    def post(self, run: int, parcels: Sequence[tuple[Parcel, int]], *payloads: Any) -> None:
        """Take in frames; each names its payload by its place."""
        with self._change:
            if run != self._run:
                return
            for parcel, place in parcels:
                if parcel.flight not in self._tray.refused:
                    self._tray.incoming.append(replace(parcel, payload=payloads[place]))
                    self._receive(parcel)
            self._change.notify_all()

    def settle(self, flights: Iterable[Flight]) -> list[Flight]:
        """Return which of `flights` lie here, and refuse the others from now on: their sender is dead."""
        with self._change:
            here = {flight for _, flight in (*self._tray.told, *self._tray.received)}
            self._tray.refused.update(flight for flight in flights if flight not in here)
            return [flight for flight in flights if flight in here]

    def vector(self, name: str) -> Vector | Failed:
        crew = self._crew
        assert crew is not None
        return self._in_crew(lambda: _guarded(name, lambda: crew.vector(name)))

    # ------------------------------------------------------------------ the thread that works

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _in_crew(self, act: Callable[[], T]) -> T:
        """Do `act` in the thread that works, and wait for what it returns."""
        answer: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._jobs.put(lambda: answer.put(act()))
        return answer.get()

    def _advance(self, name: str, until: float) -> None:
        crew = self._crew
        assert crew is not None
        with self._change:
            self._waiting.pop(name, None)
            if self._tray.received and not self._waiting:
                self._change.notify_all()

        def waiting() -> Sequence[Order]:
            """Orders that came, once all is posted that came before them."""
            with self._change:
                orders, incoming, self._tray.incoming = tuple(self._waiting.items()), self._tray.incoming, []
            for parcel in incoming:
                if parcel.receiver in crew.members:
                    crew.post(parcel)
            return orders

        def act() -> Step:
            with self._turns.turn():
                waiting()
                return crew.advance(name, until, waiting)

        step = self._noted(name, act)
        with self._change:
            self._working -= 1
            self._tray.since = self._tray.since or time.monotonic()
            if step is not None:
                self._send(step)
            self._change.notify_all()

    def _noted(self, who: str, act: Callable[[], T]) -> T | None:
        """Do `act`; an error is told with the next news."""
        answer = _guarded(who, act)
        if not isinstance(answer, Failed):
            return answer
        with self._change:
            self._tray.failed = answer
            self._change.notify_all()
        return None

    def _send(self, step: Step) -> None:
        homes = tuple(self._homes.get(parcel.receiver, NOWHERE) for parcel in step.parcels)
        for home, parcel in zip(homes, step.parcels, strict=True):
            if home == self._number:
                self._tray.incoming.append(parcel)
                self._receive(parcel)
            elif home != NOWHERE:
                self._tray.outgoing.append((home, parcel))
        bare = tuple(replace(parcel, head=b"", payload=None) for parcel in step.parcels)
        self._tray.answers.append(Answer(replace(step, parcels=bare), homes))

    def _receive(self, parcel: Parcel) -> None:
        self._tray.since = self._tray.since or time.monotonic()
        self._tray.received.append((parcel.receiver, parcel.flight))

    # ------------------------------------------------------------------ the thread that sends on

    def _carry(self) -> None:
        """Send frames on, those to one actor in one call; receivers of one payload share one object."""
        while True:
            with self._change:
                self._linger(lambda: bool(self._tray.outgoing))
                outgoing, self._tray.outgoing = self._tray.outgoing, []
                run, actors = self._run, dict(self._actors)
            self._noted("sending frames", lambda: _post(run, actors, outgoing))  # noqa: B023

    def _linger(self, something: Callable[[], bool]) -> None:
        """Wait until there is something; while there is work too, a moment longer for more of it."""
        while not something():
            self._change.wait()
        until = (self._tray.since or time.monotonic()) + LINGER
        while self._working and not self._tray.failed and (left := until - time.monotonic()) > 0:
            self._change.wait(left)
        self._tray.since = 0.0


def _post(run: int, actors: Mapping[int, Any], outgoing: Sequence[tuple[int, Parcel]]) -> None:
    stored: dict[int, Any] = {}
    for home in sorted({home for home, _ in outgoing}):
        parcels = [parcel for there, parcel in outgoing if there == home]
        payloads = {id(parcel.payload): parcel.payload for parcel in parcels}
        for key, payload in payloads.items():
            if payload is not None and payload.nbytes > SMALL and key not in stored:
                stored[key] = ray.put(payload)
        places = {key: place for place, key in enumerate(payloads)}
        bare = [(replace(parcel, payload=None), places[id(parcel.payload)]) for parcel in parcels]
        actors[home].post.remote(run, bare, *(stored.get(key, payload) for key, payload in payloads.items()))


def machine() -> str:
    """Name what shares its process numbers with this process: a booted system, and in it a pid namespace."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return f"{os.uname().nodename}"


def _guarded(who: str, act: Callable[[], T]) -> T | Failed:
    """Run `act`; turn any error into one that names the twin and the place in our code, and nothing of the data."""
    try:
        return act()
    except P2pftlError as error:
        return Failed(error)
    except FileNotFoundError as error:
        return Failed(DataError("E301", f"{who}: a file of its studies is not there", where=_place(error)))
    except Exception as error:
        return Failed(
            P2pftlError("E700", f"{who} stopped: {type(error).__name__} at {_place(error)}", fix="run with --executor local to debug")
        )


def _place(error: Exception) -> str:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "p2pftl" in frame.filename]
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "outside p2pftl"
