"""Clustered federated learning: one model per group of twins that pull the same way (Sattler, Mueller, Samek 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Interval

from p2pftl.cloud.seams import Memory, Reply, Upload
from p2pftl.cloud.similarity import Linkage, cosines, halves, learnt_elements, norm, unit
from p2pftl.cloud.tree import Tree
from p2pftl.params import Layout, Vector, weighted_sum

EPS1, EPS2 = 0.2, 0.4
"""Of the longest update so far: 0.1 of the longest mean, the paper's rule of thumb, is below what twins with few studies can reach."""


@dataclass(frozen=True)
class Clustered:
    """A cluster is split when its twins still move (longest update > eps2) and yet stand still together (mean update < eps1).

    An update is what a twin uploads less what it was sent before, without statistics of normalisation. eps1, eps2: lengths of
    updates; null: EPS1 and EPS2 times the longest so far (they scale with learning rate, epochs and model). after: answers before
    the first split. linkage: see `halves`. gamma: noise of the updates relative to the means of the halves; they are parted only if
    gamma < sqrt((1 - largest similarity across) / 2) (eq. 29); null: taken as max_i |d_i - mean| / |mean| over both; 0: no such test.
    """

    eps1: Annotated[float, Gt(0)] | None = None
    eps2: Annotated[float, Gt(0)] | None = None
    after: Annotated[int, Ge(0)] = 20
    linkage: Linkage = "complete"
    gamma: Annotated[float, Interval(ge=0, le=1)] | None = None

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        """Split clusters, move each by the mean update of its twins weighted by samples, and send them its model."""
        tree = Tree.recalled(memory)
        updates = tree.updates(uploads, layout.size)
        learnt = learnt_elements(layout)
        lengths = {name: norm(np.nan_to_num(update[learnt])) for name, update in updates.items()}
        tree.longest = max([tree.longest, *lengths.values()])
        figures = {"longest": max(lengths.values()), "mean": 0.0}
        for at, names in sorted(tree.place(updates).items()):
            steps = _Steps(names, [updates[name] for name in names], [uploads[name].samples for name in names], learnt)
            figures["mean"] = max(figures["mean"], steps.stride)
            if tree.answers >= self.after and len(names) > 2 and self._restless(steps, tree.longest):
                self._part(tree, at, steps)
        offers: dict[str, tuple[Vector, ...]] = {}
        for at, names in tree.place(updates).items():
            offers |= {name: (part,) for name, part in tree.move(at, {name: uploads[name] for name in names}, layout.size).items()}
        tree.answers += 1
        groups = tree.groups()
        return Reply(offers, tree.remembered(), groups, figures | {"clusters": float(len(groups))})

    def _restless(self, steps: _Steps, longest: float) -> bool:
        eps1 = EPS1 * longest if self.eps1 is None else self.eps1
        eps2 = EPS2 * longest if self.eps2 is None else self.eps2
        return steps.stride < eps1 and max(norm(one) for one in steps.known) > eps2

    def _part(self, tree: Tree, at: int, steps: _Steps) -> None:
        """Split a cluster in two if its halves differ by more than noise."""
        alike = cosines(steps.known)
        first, second = halves(alike, self.linkage)
        across = float(alike[np.ix_(first, second)].max())
        gamma = max(steps.noise(first), steps.noise(second)) if self.gamma is None else self.gamma
        if gamma < math.sqrt(max(0.0, 1 - across) / 2):
            tree.split(at, steps.called(first), steps.called(second), steps.axis(first, second))


class _Steps:
    """The updates of a cluster's twins: of the elements that are learnt and that all of them sent and were sent."""

    def __init__(self, names: Sequence[str], updates: Sequence[Vector], samples: Sequence[int], learnt: npt.NDArray[np.bool_]) -> None:
        self.names, self.samples = names, samples
        self.common = learnt & np.isfinite(sum(updates))
        self.known = [update[self.common] for update in updates]

    @property
    def stride(self) -> float:
        """Length of the mean update."""
        return norm(self.mean(range(len(self.names))))

    def mean(self, rows: Sequence[int]) -> Vector:
        """Mean update of some twins, weighted by samples."""
        total = sum(self.samples[row] for row in rows)
        return weighted_sum([self.known[row] for row in rows], [self.samples[row] / total for row in rows])

    def noise(self, rows: Sequence[int]) -> float:
        """How far the updates of some twins are from their mean, at most, relative to it."""
        mean = self.mean(rows)
        return max(norm(self.known[row] - mean) for row in rows) / max(norm(mean), 1e-30)

    def axis(self, first: Sequence[int], second: Sequence[int]) -> Vector:
        """Direction of one half's mean update less that of the other, in the whole model."""
        whole = np.zeros(len(self.common), np.float32)
        whole[self.common] = unit(self.mean(first)) - unit(self.mean(second))
        return whole

    def called(self, rows: Sequence[int]) -> list[str]:
        return [self.names[row] for row in rows]
