"""Scale: the time of a round against the number of twins, and a thousand twins with a frozen squeezenet1_1.

Two series: M1 of the common workload (memory and seconds at N = 256), and `frozen`: squeezenet1_1 of which the head is trained on 32
images per twin, epidemic gossip. The slope is that of log(time of a round) against log(N): 1 means that doubling N doubles the time.

    python -m benchmarks.scale [--series M1 frozen] [--twins 8 64 256 1000] [--rounds 10] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.results import cores, middle, save
from benchmarks.workload import Workload, scenario, write_noise

FROZEN = {
    "model": {"backbone": "squeezenet1_1"},
    "transfer": {"use": "head"},
    "partners": {"use": "epidemic", "s": 2},
    "evaluate": {"every": 5},
    "checkpoint": {"every": 10},
}


def measured(series: str, twins: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Run one point of a series, packed as `auto` packs it."""
    work = Workload("M1", twins, rounds, images=32 if series == "frozen" else 256)
    archive = folder / "noise.npz"
    write_noise(archive, work)
    described = scenario(work, archive, **(_frozen(twins) if series == "frozen" else {}))
    found = measure.p2pftl(described, folder, "--twins-per-actor", "auto", memory=True, cores=cores())
    archive.unlink()
    return {
        "bench": "scale", "series": series, "twins": twins, "rounds": rounds, "round_s": found.round_s, "training_s": found.train_s,
        "first_round_s": found.first_round_s, "total_s": found.total_s, "memory_gb": found.memory_gb, "cpu_share": found.cpu_share,
        "bytes_x_ideal": found.bytes_sent / found.bytes_ideal,
    }  # fmt: skip


def _frozen(twins: int) -> dict[str, Any]:
    """Epidemic gossip: every twin sends to two others, drawn anew each round among eight neighbours, or all of a small swarm."""
    return {**FROZEN, "topology": {"use": "regular", "k": min(8, twins - 1), "twins": twins}}


def slope(rows: Sequence[dict[str, Any]]) -> float:
    """Least squares slope of log(seconds of training per round) against log(twins)."""
    twins = np.log([row["twins"] for row in rows])
    took = np.log([row["training_s"] / row["rounds"] for row in rows])
    return float(np.polyfit(twins, took, 1)[0])


def series(name: str, counts: Sequence[int], rounds: int, folder: Path, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """All points of a series, and its slope as a row of its own."""
    rows = []
    for twins in counts:
        rows.append(measured(name, twins, rounds, folder))
        point = rows[-1]
        say(f"{name} N={twins}: {middle(point['round_s']):.2f} s a round, {point['total_s']:.0f} s in all, {point['memory_gb']:.1f} GB")
    if len(rows) < 2:
        return rows
    return [*rows, {"bench": "scale", "series": name, "of": " ".join(map(str, counts)), "log_log_slope": slope(rows)}]


def main() -> None:
    """Print each point as it comes and, if asked, write JSON."""
    options = argparse.ArgumentParser(description="Time and memory against the number of twins.")
    options.add_argument("--series", nargs="+", choices=("M1", "frozen"), default=["M1", "frozen"])
    options.add_argument("--twins", nargs="+", type=int, default=[8, 64, 256, 1000])
    options.add_argument("--most", type=int, default=256, help="most twins of the series M1")
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for which in chosen.series:
            counts = [twins for twins in chosen.twins if which == "frozen" or twins <= chosen.most]
            rows += series(which, counts, chosen.rounds, Path(name))
    for row in rows:
        if "log_log_slope" in row:
            print(f"{row['series']}: slope {row['log_log_slope']:.3f} over N = {row['of']}")
    if chosen.out:
        save(chosen.out, "scale", rows)


if __name__ == "__main__":
    main()
