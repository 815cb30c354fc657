"""FedAvg: the mean of the uploads, weighted by training samples (McMahan 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from p2pftl.cloud.seams import Memory, Reply, Upload
from p2pftl.params import Layout, Vector, gather


@dataclass(frozen=True)
class FedAvg:
    """x <- sum_i n_i x_i / sum_i n_i over the twins that returned; each tensor over those that sent it."""

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        mean = averaged(uploads, layout.size)
        return Reply({name: (gather(mean, upload.ranges),) for name, upload in uploads.items()}, memory)


def averaged(uploads: Mapping[str, Upload], size: int, instead: Vector | None = None) -> Vector:
    """Return the mean of `uploads` by samples over all `size` elements; where nobody sent one: `instead`, or 0."""
    total = np.zeros(size, np.float64)
    weight = np.zeros(size, np.float64)
    for name in sorted(uploads):
        upload = uploads[name]
        at = 0
        for start, stop in upload.ranges:
            total[start:stop] += upload.samples * upload.part[at : at + stop - start].astype(np.float64)
            weight[start:stop] += upload.samples
            at += stop - start
    mean: Vector = np.divide(total, weight, out=total, where=weight > 0).astype(np.float32)
    return mean if instead is None else np.where(weight > 0, mean, instead)
