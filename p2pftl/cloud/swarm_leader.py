"""Swarm learning's merge: by whoever leads this time, as soon as enough twins came (Warnat-Herresthal et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from p2pftl.cloud.fedavg import averaged
from p2pftl.cloud.seams import Memory, Reply, Upload
from p2pftl.params import Layout, Vector, gather, scatter

_STEPS, _CLOSE = 64, 1e-9


@dataclass(frozen=True)
class SwarmLeader:
    """The mean by samples, the coordinate median or the geometric median of the uploads; below `min_peers` there is no merge.

    Who leads changes nothing in what is merged, so the leader is the cloud; its election and its failure are the cloud's outages.
    The geometric median is found by Weiszfeld's steps from the mean, with samples as weights. What one twin did not send counts as
    the mean of those that did.
    """

    min_peers: Annotated[int, Ge(1)] = 2
    merge: Literal["mean", "median", "geometric_median"] = "mean"

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        if len(uploads) < self.min_peers:
            return Reply({}, memory)
        merged = averaged(uploads, layout.size)
        if self.merge != "mean":
            names = sorted(uploads)
            rows = np.stack([scatter(merged, uploads[name].ranges, uploads[name].part) for name in names])
            merged = _middle(rows) if self.merge == "median" else _nearest(rows, merged, [uploads[name].samples for name in names])
        return Reply({name: (gather(merged, upload.ranges),) for name, upload in uploads.items()}, memory)


def _middle(rows: npt.NDArray[np.float32]) -> Vector:
    return np.median(rows.astype(np.float64), axis=0).astype(np.float32)


def _nearest(rows: npt.NDArray[np.float32], start: Vector, samples: list[int]) -> Vector:
    """The point with the least sum of distances to `rows`, each counted `samples` times."""
    at = start.astype(np.float64)
    for _ in range(_STEPS):
        apart = [max(float(np.sqrt(np.square(row - at).sum())), _CLOSE) for row in rows]
        weights = np.array(samples) / np.array(apart)
        before, at = at, (weights[:, None] * rows).sum(axis=0) / weights.sum()
        if np.abs(at - before).max() <= _CLOSE:
            break
    return at.astype(np.float32)
