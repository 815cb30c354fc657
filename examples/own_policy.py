"""A policy of one's own: send to `k` neighbours a round, one after the other, so that each has its turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge


@dataclass(frozen=True)
class InTurn:
    """`k` neighbours a round, in turn: after enough rounds each was chosen equally often."""

    k: Annotated[int, Ge(1)] = 1

    directed: ClassVar[bool] = False  # a chosen edge carries frames both ways, so that the mixing stays symmetric

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        turns = range(round * self.k, round * self.k + min(self.k, len(neighbours)))
        return tuple(sorted(neighbours[turn % len(neighbours)] for turn in turns))
