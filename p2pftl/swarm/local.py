"""The same twins in this process: for tests, debugging, notebooks and where Ray does not exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from p2pftl.agenda import Parcel, Step
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Crew, Recruit
from p2pftl.swarm.seams import Advanced, Delivered, Report, T


class LocalSwarm:
    """Runs one participant at a time.

    shuffle: answers and deliveries come in an order drawn from it, as from a busy cluster; the result must not change.
    """

    def __init__(self, *, shuffle: np.random.Generator | None = None) -> None:
        self.shuffle = shuffle
        self.crew: Crew
        self._told: list[tuple[str, float]] = []
        self._flying: list[Parcel] = []
        self._lost: list[Delivered] = []

    def ask(self, question: Callable[[], T]) -> T:
        return question()

    def start(self, recruit: Recruit, crews: Sequence[Sequence[str]], vault: Vault) -> list[Step]:
        self.crew = Crew(recruit, vault)
        self._told, self._flying, self._lost = [], [], []
        return self.crew.begin([name for crew in crews for name in crew])

    def advance(self, name: str, until: float) -> None:
        self._told.append((name, until))

    def flush(self) -> None:
        pass

    def completed(self) -> Sequence[Report]:
        if self._lost:
            reports, self._lost = self._lost, []
            return reports
        if self.shuffle is not None and self._flying and (not self._told or self.shuffle.random() < 0.5):
            return [self._deliver(int(self.shuffle.integers(len(self._flying))))]
        turn = 0 if self.shuffle is None else int(self.shuffle.integers(len(self._told)))
        name, until = self._told.pop(turn)
        step = self.crew.advance(name, until, lambda: self._told)
        self._flying.extend(step.parcels)
        answer = Advanced(replace(step, parcels=tuple(replace(parcel, head=b"", payload=None) for parcel in step.parcels)))
        if self.shuffle is not None:
            return [answer]
        return [answer, *(self._deliver(0) for _ in step.parcels)]

    def _deliver(self, turn: int) -> Delivered:
        parcel = self._flying.pop(turn)
        there = parcel.receiver in self.crew.members
        if there:
            self.crew.post(parcel)
        return Delivered(parcel.receiver, parcel.flight, lost=not there)

    def kill(self, name: str) -> None:
        """Frames that fly from it or to it die with it, as with a process of its own."""
        del self.crew.members[name]
        self._told = [(told, until) for told, until in self._told if told != name]
        dead = [parcel for parcel in self._flying if name in (parcel.sender, parcel.receiver)]
        self._flying = [parcel for parcel in self._flying if name not in (parcel.sender, parcel.receiver)]
        self._lost += [Delivered(parcel.receiver, parcel.flight, lost=True) for parcel in dead]

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        return self.crew.revive(name, incarnation, at)

    def vector(self, name: str) -> Vector:
        """Final parameters of a twin."""
        return self.crew.vector(name)

    def stop(self) -> None:
        """Nothing outlives this object."""
