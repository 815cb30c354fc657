"""Aggregators: how one twin merges what it heard into its own model.

Common to all: fold in order of sender, accumulate in float64, round once; arrival order changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from p2pftl.gossip.seams import Copy, Heard
from p2pftl.params import Vector, weighted_sum


@dataclass(frozen=True)
class WeightedMean:
    """x_i <- x_i + sum_j W_ij (z_j - x_i), with W from the mixing policy (D-PSGD, Lian 2017).

    In difference form a missing neighbour falls back to the own model without renormalising.
    """

    whole: ClassVar[bool] = False

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        ordered = _by_sender(heard)
        weights = {update.sender: update.weight for update in ordered}
        vector = weighted_sum([update.copy.vector for update in ordered], [update.weight for update in ordered], around=own.vector)
        return replace(own, vector=vector), weights


@dataclass(frozen=True)
class AgeWeighted:
    """Gossip learning: models are averaged by age, the age becomes the oldest (Ormandi 2013, Hegedus 2021).

    x <- sum_k t_k x_k / sum_k t_k over own and heard, t <- max_k t_k; the plain mean if all ages are 0.
    With one update it is the published pairwise rule; with several it does not depend on their order.
    """

    whole: ClassVar[bool] = False

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        ordered = _by_sender(heard)
        copies = [own, *(update.copy for update in ordered)]
        vector, weights = _average(copies, [copy.age for copy in copies])
        return replace(own, vector=vector, age=max(copy.age for copy in copies)), _summed(ordered, weights[1:])


@dataclass(frozen=True)
class NeighbourhoodFedAvg:
    """x_i <- sum_k n_k x_k / sum_k n_k over own and heard, n the training samples: FedAvg's mean, taken by every twin for itself.

    Of each sender only versions newer than those merged already count; a twin keeps the number of the last one (`v` of BrainTorrent,
    Roy et al. 2019, whose merge this is). Mixing weights and the discount of old updates play no part. Rows sum to one, columns do
    not: pure mixing on a fixed graph ends at a mean that weighs twin i by n_i sum_{k in N[i]} n_k, not by n_i, except where everybody
    hears everybody.
    """

    whole: ClassVar[bool] = False

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        fresh = [update for update in _by_sender(heard) if update.round > own.state.get(update.sender, -1)]
        copies = [own, *(update.copy for update in fresh)]
        vector, weights = _average(copies, [max(1, own.samples), *(update.samples for update in fresh)])
        versions = {**own.state, **{update.sender: float(update.round) for update in fresh}}
        return replace(own, vector=vector, state=versions), _summed(fresh, weights[1:])


@dataclass(frozen=True)
class PushSum:
    """Stochastic gradient push (Assran 2019): twins send shares of (x, w) and sum what they hear; the model in use is z = x / w.

    Column-stochastic only, so directed and time-varying graphs are allowed. The share of a frame known to be lost is kept, so
    sum w and sum w z are conserved under loss as long as losses are known. A copy holds z and w: z is then an average by mass,
    exact however small w becomes. For the same reason a fit moves z, where the paper's single gradient step moves x: a whole
    fit divided by the small w of a twin that sends more than it hears would diverge.
    """

    whole: ClassVar[bool] = True

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        part = own.mass / (fanout + 1)
        return replace(own, mass=part), replace(own, mass=part * (1 + failed))

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        ordered = _by_sender(heard)
        copies = [own, *(update.copy for update in ordered)]
        vector, weights = _average(copies, [copy.mass for copy in copies])
        return replace(own, vector=vector, mass=sum(copy.mass for copy in copies)), _summed(ordered, weights[1:])


def _by_sender(heard: Sequence[Heard]) -> list[Heard]:
    """In canonical order: no twin sends another two frames of one round at one time."""
    return sorted(heard, key=lambda update: (update.sender, update.round, update.staleness))


def _average(copies: Sequence[Copy], shares: Sequence[float]) -> tuple[Vector, list[float]]:
    """Return the mean of `copies` weighted by `shares`, the plain mean where all are 0, and the weights given."""
    total = sum(shares)
    weights = [share / total if total > 0 else 1 / len(copies) for share in shares]
    return weighted_sum([copy.vector for copy in copies], weights), weights


def _summed(ordered: Sequence[Heard], weights: Sequence[float]) -> dict[str, float]:
    """Weight per sender; under push-sum one may have been heard twice."""
    given: dict[str, float] = {}
    for update, weight in zip(ordered, weights, strict=True):
        given[update.sender] = given.get(update.sender, 0.0) + weight
    return given
