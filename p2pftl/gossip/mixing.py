"""Mixing policies: the weight of one neighbour, from the two degrees alone, so that a twin needs to know no more than its neighbours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metropolis:
    """W_ij = 1 / (1 + max(d_i, d_j)): symmetric, so the mean of all twins is conserved (Xiao, Boyd, Lall 2005)."""

    def weight(self, my_degree: int, peer_degree: int) -> float:
        return 1.0 / (1.0 + max(my_degree, peer_degree))


@dataclass(frozen=True)
class Uniform:
    """W_ij = 1 / (1 + d_i): the plain mean of the neighbourhood.

    Rows sum to one; columns only on regular graphs, elsewhere the limit weights twin i by 1 + d_i.
    """

    def weight(self, my_degree: int, peer_degree: int) -> float:
        return 1.0 / (1.0 + my_degree)
