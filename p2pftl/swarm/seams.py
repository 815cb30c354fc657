"""What the conductor asks of whatever carries the participants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from p2pftl.agenda import Step
from p2pftl.params import Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.crew import Recruit

T = TypeVar("T")


@dataclass(frozen=True)
class Advanced:
    """A participant answered. Its step's parcels have no payload: tensors went from twin to twin."""

    step: Step


@dataclass(frozen=True)
class Delivered:
    """A frame lies at its receiver (or died with the process it left or came to: `lost`). flight: Parcel.flight."""

    receiver: str
    flight: tuple[str, int]
    lost: bool = False


@dataclass(frozen=True)
class Died:
    """The process of these participants is gone, or no longer answers."""

    names: tuple[str, ...]
    reason: str


Report = Advanced | Delivered | Died


class Swarm(Protocol):
    """All participants under one executor. Never reorders what one participant does; may reorder everything else."""

    def ask(self, question: Callable[[], T]) -> T:
        """Answer it where torch is, or will be anyway. Raises what it raises."""
        ...

    def start(self, recruit: Recruit, crews: Sequence[Sequence[str]], vault: Vault) -> list[Step]:
        """Bring every participant up, each crew in a process, and return their first steps. May be called again."""
        ...

    def advance(self, name: str, until: float) -> None:
        """Tell a participant how far it may go; its answer comes through completed()."""
        ...

    def flush(self) -> None:
        """Send on what `advance` said, if it was kept to be sent together; completed() does so too."""
        ...

    def completed(self) -> Sequence[Report]:
        """Wait until at least one report is there; a step is reported before the delivery of its parcels."""
        ...

    def kill(self, name: str) -> None:
        """End the process of a participant, at once and for good."""
        ...

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        """Bring a participant back from its last saved state. Raises P2pftlError if it does not come back."""
        ...

    def vector(self, name: str) -> Vector:
        """Parameters of a twin as they are now."""
        ...

    def stop(self) -> None:
        """Leave nothing behind: no process, no file of ours outside the run folder."""
        ...
