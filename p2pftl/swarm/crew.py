"""A crew: the participants that share one process, whichever executor runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from p2pftl.agenda import Parcel, Participant, Step
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.twin import Twin

Recruit = Callable[[str], Participant]
"""Builds a participant by name inside the process it will live in: reads its shard, makes its model."""


class Crew:
    """Holds participants, passes calls on to them and saves their state: after a round as often as the vault says, and at the end."""

    def __init__(self, recruit: Recruit, vault: Vault) -> None:
        self.recruit = recruit
        self.vault = vault
        self.members: dict[str, Participant] = {}
        self._unsaved: dict[str, int] = {}

    def begin(self, names: Iterable[str]) -> list[Step]:
        """Bring `names` up at virtual time 0."""
        steps = []
        for name in names:
            self.members[name] = self.recruit(name)
            steps.append(self.members[name].begin(0.0))
            self.vault.save(name, self.members[name].snapshot())
        return steps

    def advance(self, name: str, until: float) -> Step:
        step = self.members[name].advance(until)
        unsaved = self._unsaved.get(name, 0) + step.round_done
        if unsaved >= self.vault.every or (unsaved and step.done):
            self.vault.save(name, self.members[name].snapshot())
            unsaved = 0
        self._unsaved[name] = unsaved
        return step

    def post(self, parcel: Parcel) -> None:
        self.members[parcel.receiver].post(parcel)

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        """Build `name` anew from its last saved state. Raises CheckpointError E501, E502."""
        saved = self.vault.load(name)
        member = self.recruit(name)
        member.restore(saved, incarnation)
        self.members[name] = member
        return member.begin(at)

    def vector(self, name: str) -> Vector:
        """Parameters of a twin as they are now. Raises KeyError for the cloud, which has none."""
        member = self.members[name]
        if not isinstance(member, Twin):
            raise KeyError(name)
        return member.vector
