"""Whom of its neighbours a twin sends to in a round."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from annotated_types import Ge

from p2pftl.draw import draw
from p2pftl.errors import ScenarioError

KEPT = 1 << 14
"""So many draws are remembered: some rounds of some thousand twins."""


@dataclass(frozen=True)
class All:
    """Every neighbour, every round."""

    directed: ClassVar[bool] = False

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        return tuple(neighbours)


@dataclass(frozen=True)
class Nobody:
    """Nobody: every twin learns alone, the lower bound of every comparison."""

    directed: ClassVar[bool] = False

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Random:
    """`k` neighbours, uniformly, without replacement; all of them where there are not more."""

    k: Annotated[int, Ge(1)] = 1

    directed: ClassVar[bool] = False

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        return _some(self.k, me, neighbours, round, seed)


@dataclass(frozen=True)
class OnePeerExponential:
    """The twin 2^(round mod tau) places further among all, tau = ceil(log2 n) (Assran et al. 2019, Ying et al. 2021).

    Raises ScenarioError E128 where that twin is no neighbour.
    """

    directed: ClassVar[bool] = True

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        n = len(everyone)
        if n == 1:
            return ()
        tau = (n - 1).bit_length()
        peer = everyone[(bisect_left(everyone, me) + 2 ** (round % tau)) % n]
        if peer not in neighbours:
            problem = f"partners one_peer_exponential: in round {round} {me} sends to {peer}, which is no neighbour of it"
            raise ScenarioError("E128", problem, fix="use topology complete, exponential or one_peer_exponential")
        return (peer,)


@dataclass(frozen=True)
class Epidemic:
    """EL-Local (de Vos 2023): `s` neighbours to send to, uniformly, without replacement; who hears how many is left to chance."""

    s: Annotated[int, Ge(1)] = 2

    directed: ClassVar[bool] = True

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        return _some(self.s, me, neighbours, round, seed)


def _some(count: int, me: str, neighbours: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
    if count >= len(neighbours):
        return tuple(neighbours)
    return tuple([neighbours[position] for position in _positions(count, len(neighbours), me, round, seed)])


@lru_cache(maxsize=KEPT)
def _positions(count: int, among: int, me: str, round: int, seed: int) -> tuple[int, ...]:
    """Remembered because in lockstep every neighbour draws it too."""
    chosen = draw(seed, "partners", me, round).choice(among, count, replace=False)
    return tuple(sorted(chosen.tolist()))
