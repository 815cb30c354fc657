"""Disjoint pairs: half of the twins teach, the other half learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

from annotated_types import Interval

from p2pftl.draw import draw

KEPT = 1 << 10
"""Rounds whose pairs are remembered: all twins draw the same."""


@dataclass(frozen=True)
class Pairs:
    """Per round `share` of all twins, drawn by lot, form disjoint pairs in which one sends to the other (Def-KT, Li et al. 2021).

    share: 1 pairs everybody (one is left over where the number is odd). A pair that is no edge is left out of its round, so only a
    complete topology has as many as asked for.
    """

    share: Annotated[float, Interval(ge=0, le=1)] = 1.0

    directed: ClassVar[bool] = True

    def choose(self, me: str, neighbours: Sequence[str], everyone: Sequence[str], round: int, seed: int) -> tuple[str, ...]:
        pairs = int(self.share * len(everyone)) // 2
        peer = _drawn(pairs, tuple(everyone), round, seed).get(me)
        return (peer,) if peer is not None and peer in neighbours else ()


@lru_cache(maxsize=KEPT)
def _drawn(pairs: int, everyone: tuple[str, ...], round: int, seed: int) -> dict[str, str]:
    """Sender -> receiver."""
    order = [everyone[place] for place in draw(seed, "pairs", round).permutation(len(everyone)).tolist()]
    return dict(zip(order[:pairs], order[pairs : 2 * pairs], strict=True))
