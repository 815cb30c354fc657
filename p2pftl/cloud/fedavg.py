"""FedAvg: the mean of the uploads, weighted by training samples (McMahan 2017), or by the quality of the device as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from p2pftl.cloud.seams import Memory, Reply, Upload
from p2pftl.params import Layout, Vector, gather


@dataclass(frozen=True)
class FedAvg:
    """x <- sum_i w_i x_i / sum_i w_i over the twins that returned; each tensor over those that sent it.

    weigh: w_i is the number of training samples n_i, or with "quality" n_i q_i, q_i of the twin's device from 0 to 1 (n_i where all are 0).
    """

    weigh: Literal["samples", "quality"] = "samples"

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        trusted = self.weigh == "quality" and any(upload.quality > 0 for upload in uploads.values())
        mean = averaged(uploads, layout.size, weight=_by_quality if trusted else _by_samples)
        return Reply({name: (gather(mean, upload.ranges),) for name, upload in uploads.items()}, memory)


def _by_samples(upload: Upload) -> float:
    return upload.samples


def _by_quality(upload: Upload) -> float:
    return upload.samples * upload.quality


def averaged(
    uploads: Mapping[str, Upload], size: int, instead: Vector | None = None, weight: Callable[[Upload], float] = _by_samples
) -> Vector:
    """Return the mean of `uploads` by `weight` over all `size` elements; where nobody sent one: `instead`, or 0."""
    total = np.zeros(size, np.float64)
    weights = np.zeros(size, np.float64)
    for name in sorted(uploads):
        upload, at = uploads[name], 0
        for start, stop in upload.ranges:
            total[start:stop] += weight(upload) * upload.part[at : at + stop - start].astype(np.float64)
            weights[start:stop] += weight(upload)
            at += stop - start
    mean: Vector = np.divide(total, weights, out=total, where=weights > 0).astype(np.float32)
    return mean if instead is None else np.where(weights > 0, mean, instead)
