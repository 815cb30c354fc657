"""What the scripts of all peers have in common. Runs in a peer's environment: torch and numpy, nothing of p2pftl."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.floor import read
from benchmarks.workload import Workload

Study = tuple[Tensor, Tensor]
"""Images [n, 1, H, W] in [0, 1] and labels [n]."""


def asked() -> tuple[Workload, Path]:
    """Read the command line."""
    options = argparse.ArgumentParser()
    options.add_argument("--archive", type=Path, required=True)
    options.add_argument("--twins", type=int, required=True)
    options.add_argument("--rounds", type=int, required=True)
    chosen = options.parse_args()
    return Workload("M1", chosen.twins, chosen.rounds), chosen.archive


@cache
def studies(archive: Path, work: Workload) -> tuple[list[Study], Study]:
    """Every twin's images, and those on which all are scored; read once per process, which then has one thread."""
    torch.set_num_threads(1)
    found, test = read(archive, work, range(work.twins))
    return [found[twin] for twin in range(work.twins)], test


def tell(package: str, how: str, walls: Sequence[float]) -> None:
    """Print the result. walls: monotonic clock at the start of training and after every round."""
    print("\n" + json.dumps({"walls": list(walls), "version": version(package), "how": how}), flush=True)


now = time.monotonic
