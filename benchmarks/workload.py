"""The workload everybody is measured on: twins on a ring, 256 images of 64 x 64 pixels each, batch 32, one local epoch of plain SGD.

The images are noise: time is measured, nothing is learnt. This module needs numpy alone, so that peers in their own
environments can use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MODELS = {"M1": "compact", "M2": "mobilenet_v3_small", "R18": "resnet18"}
CLASSES = 2
LR = 0.01
SCORED_TOGETHER = 64  # images per forward pass of an evaluation, here and in p2pftl


@dataclass(frozen=True)
class Workload:
    """What is run. model: key of MODELS; images: training images per twin, and test images common to all; side: pixels."""

    model: str = "M1"
    twins: int = 8
    rounds: int = 6
    images: int = 256
    side: int = 64
    batch: int = 32


def write_noise(path: Path, work: Workload) -> None:
    """Write an archive as data source `npz` reads it: per twin its images and one to validate on, and a test part."""
    draws = np.random.default_rng(1)
    arrays: dict[str, Any] = {}
    for part, count in {"train": work.twins * (work.images + 1), "test": work.images}.items():
        arrays[f"{part}_images"] = draws.integers(0, 256, (count, work.side, work.side), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % CLASSES
    np.savez(path, **arrays)


def scenario(work: Workload, archive: Path, **changes: Any) -> dict[str, Any]:
    """The workload as a scenario of p2pftl, top-level keys changed."""
    return {
        "name": "bench",
        "seed": 1,
        "rounds": work.rounds,
        "topology": {"use": "ring", "twins": work.twins},
        # Every twin keeps at least one image to validate on: the least that can be asked for.
        "data": {"use": "npz", "path": str(archive), "size": work.side, "split": "iid", "validation": 1e-6},
        "model": {"backbone": MODELS[work.model]},
        "fit": {"lr": LR, "momentum": 0.0, "batch": work.batch, "epochs": 1},
        "mixing": "metropolis",
        **changes,
    }
