"""Mixing policies: the weight of one neighbour, from what both ends of the edge know, so that a twin needs no more than its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from p2pftl.gossip.seams import Side

Spread = Annotated[float, Ge(0.01)]
"""Never 0: scanners that all use 120 kV would be infinitely far from the first one that does not."""


@dataclass(frozen=True)
class Metropolis:
    """W_ij = 1 / (1 + max(d_i, d_j)): symmetric, so the mean of all twins is conserved (Xiao, Boyd, Lall 2005)."""

    def weight(self, mine: Side, peer: Side) -> float:
        return 1.0 / (1.0 + max(mine.degree, peer.degree))


@dataclass(frozen=True)
class Uniform:
    """W_ij = 1 / (1 + d_i): the plain mean of the neighbourhood.

    Rows sum to one; columns only on regular graphs, elsewhere the limit weights twin i by 1 + d_i.
    """

    def weight(self, mine: Side, peer: Side) -> float:
        return 1.0 / (1.0 + mine.degree)


@dataclass(frozen=True)
class Similarity:
    """W_ij = s_ij min(q_i, q_j) / (1 + max(d_i, d_j)): like scanners weigh more, doubtful ones less; symmetric and doubly stochastic.

    s_ij = floor + (1 - floor) exp(-|(f_i - f_j) / scale|^2 / (2 tau^2 6)), q the quality: 0 isolates a twin (SCANNER_TWIN.md
    section 8). An unknown fingerprint counts as similarity 1: nothing says that the scanners differ, and what is not known
    to work is the quality's to say.

    tau: distance at which likeness has fallen by 0.4; floor: likeness of the most different; by_fingerprint, by_quality: count
    likeness, quality; scale: one for all twins, for with a scale of its own each end would see another s_ij; about
    the step between neighbouring kernel groups (ln HU, 1/mm, 1/mm), from 1.5 to 2.5 mm, 20 kV and 1 HU of cupping.
    """

    tau: Annotated[float, Gt(0)] = 1.0
    floor: Annotated[float, Interval(gt=0, le=1)] = 0.2
    by_fingerprint: bool = True
    by_quality: bool = True
    scale: tuple[Spread, Spread, Spread, Spread, Spread, Spread] = (0.4, 0.07, 0.15, 0.5, 1.0, 1.0)

    def weight(self, mine: Side, peer: Side) -> float:
        likeness = self.likeness(mine.signs.fingerprint, peer.signs.fingerprint) if self.by_fingerprint else 1.0
        trust = min(mine.signs.quality, peer.signs.quality) if self.by_quality else 1.0
        return likeness * trust / (1.0 + max(mine.degree, peer.degree))

    def likeness(self, mine: tuple[float, ...], peer: tuple[float, ...]) -> float:
        """s_ij of two fingerprints, from `floor` to 1."""
        if not mine or not peer:
            return 1.0
        apart = math.fsum(((a - b) / unit) ** 2 for a, b, unit in zip(mine, peer, self.scale, strict=True))
        return self.floor + (1.0 - self.floor) * math.exp(-apart / (2.0 * self.tau**2 * len(self.scale)))
