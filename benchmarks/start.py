"""What a person at a terminal waits for: the first sign of life, the first round; and what the live view costs a round.

python -m benchmarks.start [--twins 8 64] [--repeat 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.results import cores, middle, save
from benchmarks.rounds import ALONE_AT_MOST, LAYOUTS
from benchmarks.workload import Workload, scenario, write_noise


def measured(counts: Sequence[int], folder: Path, *, repeat: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """One row per layout and number of twins, on a terminal."""
    rows = []
    for twins in counts:
        work = Workload("M1", twins, 4)
        write_noise(folder / "noise.npz", work)
        for layout in ("packed in 2", "one actor per twin"):
            if layout == "one actor per twin" and twins > ALONE_AT_MOST:
                continue
            described = scenario(work, folder / "noise.npz")
            runs = [measure.p2pftl(described, folder, *LAYOUTS[layout], terminal=True, cores=cores()) for _ in range(repeat)]
            row: dict[str, Any] = {
                "bench": "start", "layout": layout, "twins": twins,
                "first_sign_s": [run.first_sign_s for run in runs], "first_round_s": [run.first_round_s for run in runs],
                "round_s": [value for run in runs for value in run.round_s],
            }  # fmt: skip
            rows.append(row)
            say(f"{layout}, N={twins}: first sign {middle(row['first_sign_s']):.2f} s, first round {middle(row['first_round_s']):.1f} s")
    return rows


def main() -> None:
    """Print each line as it comes and, if asked, write JSON."""
    options = argparse.ArgumentParser(description="First sign of life and first round, on a terminal.")
    options.add_argument("--twins", nargs="+", type=int, default=[8, 64])
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measured(chosen.twins, Path(name), repeat=chosen.repeat)
    if chosen.out:
        save(chosen.out, "start", rows)


if __name__ == "__main__":
    main()
