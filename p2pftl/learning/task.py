"""What a twin learns, as the twin sees it: vectors in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from p2pftl.errors import P2pftlError
from p2pftl.learning.knowledge import Tutor
from p2pftl.params import Layout, Vector

Memory = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """One round's learning as the gossip needs it.

    shared: names that travel; samples: samples x epochs of the fit; held: training samples of the scene, 0 if there is no fit;
    listens: it takes what others send and sends nothing.
    """

    shared: tuple[str, ...]
    samples: int
    held: int
    listens: bool = False


@dataclass(frozen=True)
class Scene:
    """What a twin learns from just now; the default is the task's own studies.

    version: tells two scenes of a twin apart; cohorts: split ("train", "validation") -> what stands in for the task's own;
    adapt: train normalisation layers and head only, and share nothing.
    """

    version: int = 0
    cohorts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    adapt: bool = False


@dataclass(frozen=True)
class Learnt:
    """Outcome of a local fit. vector: all parameters; memory: optimiser state to keep, or None."""

    vector: Vector
    loss: float
    samples: int
    steps: int
    trained: float
    memory: Memory | None = None


@dataclass(frozen=True)
class Coming:
    """A fit that a twin is about to ask its task for."""

    task: Task
    vector: Vector
    round: int
    scene: Scene


class Task(Protocol):
    """Classification today; detection and masked images are others.

    layout: tensors of the model; samples: training samples that this twin begins with.
    """

    @property
    def layout(self) -> Layout: ...

    @property
    def samples(self) -> int: ...

    def initial(self) -> Vector:
        """Parameters that every twin of the run starts from."""
        ...

    def work(self, round: int, scene: Scene) -> Work:
        """What `round` shares, and how much it computes."""
        ...

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None, tutors: Sequence[Tutor] = ()) -> Learnt:
        """Train from `vector`, and learn from `tutors` as the knowledge policy says. Raises FitDiverged when the result is not finite."""
        ...

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        """Metrics of `vector`, as it is after `round`, on "validation" or "test"; empty if the split has no samples."""
        ...


class FitDiverged(P2pftlError):
    """A fit whose loss or parameters are not finite (E340). The message names no data."""
