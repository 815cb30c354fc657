"""A swarm that can be interrupted while it is waited for, and only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from p2pftl.agenda import Step
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Recruit
from p2pftl.swarm.seams import Report, Swarm, T


class Attended:
    """Passes everything on to `swarm`; what takes long happens within `open()`, where Ctrl-C is listened to.

    So whoever conducts the swarm never loses an event, or half of one, to an interruption.
    """

    def __init__(self, swarm: Swarm, open: Callable[[], AbstractContextManager[None]]) -> None:
        self.swarm = swarm
        self.open = open

    def ask(self, question: Callable[[], T]) -> T:
        with self.open():
            return self.swarm.ask(question)

    def start(self, recruit: Recruit, crews: Sequence[Sequence[str]], vault: Vault) -> list[Step]:
        with self.open():
            return self.swarm.start(recruit, crews, vault)

    def advance(self, name: str, until: float) -> None:
        self.swarm.advance(name, until)

    def flush(self) -> None:
        self.swarm.flush()

    def completed(self) -> Sequence[Report]:
        with self.open():
            return self.swarm.completed()

    def kill(self, name: str) -> None:
        self.swarm.kill(name)

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        with self.open():
            return self.swarm.revive(name, incarnation, at)

    def vector(self, name: str) -> Vector:
        with self.open():
            return self.swarm.vector(name)

    def stop(self) -> None:
        self.swarm.stop()
