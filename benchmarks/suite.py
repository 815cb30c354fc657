"""All benchmarks one after the other, into one file of results: `make bench` (a few minutes) and `make bench-full` (hours).

    python -m benchmarks.suite [--full] [--only rounds start ...] [--precision fp32 bf16] --out FILE.json

Nothing else should run meanwhile. What is done so far is written after every part.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import barrier, rounds, scale, start
from benchmarks.precisions import PRECISIONS
from benchmarks.results import ROOT, environment, save
from benchmarks.table import rounds_table
from benchmarks.workload import Workload

OTHERS = {
    "conductor": ("--twins", "8", "64", "--events", "20000"),
    "features": (),
    "precision": ("--backbones", "compact", "--turns", "4", "--seeds", "1"),
}
"""Benchmarks that run by themselves, and the options that make them short."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Size:
    """How much is measured. points: (model, twins, rounds of a run, repetitions)."""

    points: Sequence[tuple[str, int, int, int]]
    start: Sequence[int]
    repeat: int
    barrier: Sequence[int]
    barrier_rounds: int
    scale: dict[str, Sequence[int]]
    scale_rounds: int
    memory: bool
    others: bool


SHORT = Size(
    points=[("M1", 8, 20, 2), ("M2", 8, 6, 1)],
    start=[8], repeat=1, barrier=[8], barrier_rounds=10, scale={"frozen": [8, 64]}, scale_rounds=5, memory=False, others=False,
)  # fmt: skip
FULL = Size(
    points=[
        ("M1", 8, 20, 5), ("M1", 16, 16, 5), ("M1", 32, 12, 3), ("M1", 64, 8, 3), ("M2", 8, 10, 3), ("R18", 8, 5, 3),
    ],
    start=[8, 64], repeat=3, barrier=[8, 16], barrier_rounds=20, scale={"M1": [8, 64, 256], "frozen": [8, 64, 256, 1000]}, scale_rounds=10,
    memory=True, others=True,
)  # fmt: skip


def parts(size: Size, precisions: Sequence[str], folder: Path) -> dict[str, Callable[[], Rows]]:
    """Name of a part -> what measures it."""

    def all_rounds() -> Rows:
        return [
            row
            for model, twins, count, repeat in size.points
            for row in rounds.measured(Workload(model, twins, count), folder, repeat=repeat, precisions=precisions, memory=size.memory)
        ]

    def all_paces() -> Rows:
        works = [Workload("M1", twins, size.barrier_rounds) for twins in size.barrier]
        return [row for work in works for row in barrier.measured(work, folder, repeat=size.repeat)]

    def all_series() -> Rows:
        return [row for name, counts in size.scale.items() for row in scale.series(name, counts, size.scale_rounds, folder)]

    return {
        "rounds": all_rounds,
        "start": lambda: start.measured(size.start, folder, repeat=size.repeat),
        "barrier": all_paces,
        "scale": all_series,
        **{name: _other(name, () if size.others else short, folder) for name, short in OTHERS.items()},
    }


def _other(name: str, options: Sequence[str], folder: Path) -> Callable[[], Rows]:
    def run() -> Rows:
        out = folder / f"{name}.json"
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options, "--out", str(out)], cwd=ROOT, check=True)
        return [{"bench": name, **row} for row in json.loads(out.read_text())["rows"]]

    return run


def main() -> None:
    """Run the parts and write what they found."""
    options = argparse.ArgumentParser(description="All benchmarks, into one file of results.")
    options.add_argument("--full", action="store_true", help="everything that docs/performance.md shows: two hours")
    options.add_argument("--only", nargs="+", choices=("rounds", "start", "barrier", "scale", *OTHERS), help="these parts only")
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    options.add_argument("--out", type=Path, required=True)
    chosen = options.parse_args()
    found: Rows = []
    here = environment()
    with tempfile.TemporaryDirectory() as name:
        for part, measured in parts(FULL if chosen.full else SHORT, chosen.precision, Path(name)).items():
            if (chosen.only and part not in chosen.only) or (part in OTHERS and importlib.util.find_spec(f"benchmarks.{part}") is None):
                continue
            started = time.monotonic()
            found += measured()
            save(chosen.out, "suite", found, here)
            print(f"-- {part}: {time.monotonic() - started:.0f} s", flush=True)
    print(rounds_table(found))
    print(f"results {chosen.out}")


if __name__ == "__main__":
    main()
