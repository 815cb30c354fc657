"""What a coordinator policy takes and gives. What it remembers comes in and goes out, so that it outlives a crash of the cloud."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from p2pftl.imaging.cohort import Place
from p2pftl.params import Layout, Ranges, Vector

Memory = Mapping[str, Any]
"""Numbers, texts, None, arrays, and lists and mappings of them; empty before the first answer."""


@dataclass(frozen=True)
class Upload:
    """What a twin sent to the cloud.

    part: the elements of `ranges`; samples: its training samples; model: number of the model it chose among those it was offered
    last, 0 if there was one only, -1 if it chose none; quality: what its device says of itself, 0 to 1.
    """

    part: Vector
    ranges: Ranges
    samples: int
    model: int = 0
    quality: float = 1.0


@dataclass(frozen=True)
class Reply:
    """What the cloud says, and remembers.

    offers: twin -> new values of the ranges it sent, once per model it may choose from (usually one); twins left out get no answer;
    groups: twins that learn the same model, sorted, empty where there is one model for all; figures: what a person should see of it.
    """

    offers: Mapping[str, tuple[Vector, ...]]
    memory: Memory
    groups: tuple[tuple[str, ...], ...] = ()
    figures: Mapping[str, float] | None = None


@runtime_checkable
class Equipped(Protocol):
    """A coordinator that needs something of its own before a run, images without labels for instance."""

    def equipped(
        self, seed: int, size: int, weights: str | None, own: Collection[Place], progress: Callable[[int, int], None]
    ) -> Coordinator:
        """Return it ready for one run. size: of the twins' images; weights: file of the first model, None if it is drawn; own: where
        every image lies that a twin has, none of which it may have. Raises DataError."""
        ...


class Coordinator(Protocol):
    """The cloud's answer to what it heard (entry point `p2pftl.cloud`)."""

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        """Answer twins that uploaded. layout: of the whole model; memory: of the reply before. Changes nothing it is given."""
        ...
