"""A crew: the participants that share one process, whichever executor runs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from p2pftl.agenda import Parcel, Participant, Step
from p2pftl.events import Fitted
from p2pftl.learning.task import Coming
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.twin import Twin

Recruit = Callable[[str], Participant]
"""Builds a participant by name inside the process it will live in: reads its shard, makes its model."""

Order = tuple[str, float]
"""Who may go on, and how far."""


class Crew:
    """Holds participants, passes calls on to them and saves their state: after a round as often as the vault says, and at the end.

    short: seconds; with a synchronous pace the fit of a twin whose last one took less is done in the step of the round before it, one
    call instead of two. With an asynchronous one others go on by what that round alone tells: when its twin can send next.
    """

    def __init__(self, recruit: Recruit, vault: Vault, short: float = 0.0) -> None:
        self.recruit = recruit
        self.vault = vault
        self.short = short
        self.members: dict[str, Participant] = {}
        self._unsaved: dict[str, int] = {}
        self._fits: dict[str, float] = {}  # seconds that each member's last fit took
        self._ahead: set[str] = set()  # whose order begins with a fit that is done already
        self._patience = 0  # so many orders go by before looking ahead again is worth it

    def begin(self, names: Iterable[str]) -> list[Step]:
        """Bring `names` up at virtual time 0."""
        steps = []
        for name in names:
            self.members[name] = self.recruit(name)
            steps.append(self.members[name].begin(0.0))
            self.vault.save(name, self.members[name].snapshot())
        return steps

    def advance(self, name: str, until: float, waiting: Callable[[], Iterable[Order]] = tuple) -> Step:
        """Let `name` go on. waiting: returns orders that are to follow; fits that they begin with may be done with this one."""
        if getattr(getattr(self.members[name], "task", None), "together", False):
            self._look_ahead(name, until, waiting)
            return self._advance(name, until)
        step = self._advance(name, until)
        member = self.members[name]
        lockstep = isinstance(member, Twin) and member.terms.pace.lockstep
        if lockstep and step.round_done and not step.done and step.next < until and self._fits.get(name, math.inf) < self.short:
            more = self._advance(name, until)
            step = replace(more, events=step.events + more.events, parcels=step.parcels + more.parcels, round_done=True)
        return step

    def _advance(self, name: str, until: float) -> Step:
        begun = time.monotonic()
        step = self.members[name].advance(until)
        if any(isinstance(event, Fitted) for event in step.events):
            self._fits[name] = time.monotonic() - begun
        unsaved = self._unsaved.get(name, 0) + step.round_done
        if unsaved >= self.vault.every or (unsaved and step.done):
            self.vault.save(name, self.members[name].snapshot())
            unsaved = 0
        self._unsaved[name] = unsaved
        return step

    def _look_ahead(self, name: str, until: float, waiting: Callable[[], Iterable[Order]]) -> None:
        """Before a fit that is not done yet, do all together that are to come, if they are many; if not, look again a while later."""
        self._patience -= 1
        if name in self._ahead:
            self._ahead.remove(name)
        elif self._patience <= 0 and self._coming(name, until) is not None:
            orders = [(name, until), *(order for order in waiting() if order[0] not in self._ahead)]
            found = (self._coming(*order) for order in orders)
            fitted = self.members[name].task.fit_together(fit for fit in found if fit is not None)  # type: ignore[attr-defined]
            self._patience = 0 if fitted else len(orders)
            self._ahead |= fitted - {name}

    def _coming(self, name: str, until: float) -> Coming | None:
        member = self.members.get(name)
        return member.foresee(until) if isinstance(member, Twin) else None

    def post(self, parcel: Parcel) -> None:
        self.members[parcel.receiver].post(parcel)

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        """Build `name` anew from its last saved state. Raises CheckpointError E501, E502."""
        saved = self.vault.load(name)
        member = self.recruit(name)
        member.restore(saved, incarnation)
        self.members[name] = member
        self._ahead.discard(name)
        return member.begin(at)

    def vector(self, name: str) -> Vector:
        """Parameters of a twin as they are now. Raises KeyError for the cloud, which has none."""
        member = self.members[name]
        if not isinstance(member, Twin):
            raise KeyError(name)
        return member.vector
