"""No barrier: unequal scanners (compute speeds 1x to 8x) must keep every core busy.

Measured: processor seconds of the actors over cores x wall, between the first fit and the last event of training. Beside it the time
a round of all takes, and the same with the synchronous pace.

    python -m benchmarks.barrier [--twins 8] [--rounds 10] [--repeat 3] [--model M1] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.results import cores, middle, save
from benchmarks.rounds import LAYOUTS
from benchmarks.workload import MODELS, Workload, scenario, write_noise

SPEEDS = (1.0, 8.0, 2.0, 5.0, 3.0, 7.0, 4.0, 6.0)
PACES = ("asynchronous", "synchronous")


def measured(work: Workload, folder: Path, *, repeat: int, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """One row per pace and layout."""
    archive = folder / "noise.npz"
    write_noise(archive, work)
    speeds = {f"ct-{k + 1:02d}": {"speed": SPEEDS[k % len(SPEEDS)]} for k in range(work.twins)}
    cases = [(pace, layout) for pace in PACES for layout in ("packed in 2", "one actor per twin")]
    runs: dict[tuple[str, str], list[measure.Measured]] = {case: [] for case in cases}
    for _ in range(repeat):
        for pace, layout in cases:
            described = scenario(work, archive, twins=speeds, pace=pace)
            runs[pace, layout].append(measure.p2pftl(described, folder, *LAYOUTS[layout], cores=cores()))
            say(f"{pace}, {layout}: {runs[pace, layout][-1].actors_share:.0%} of {cores()} cores")
    return [
        {
            "bench": "barrier", "model": work.model, "twins": work.twins, "pace": pace, "layout": layout,
            "actors_share": [run.actors_share for run in found], "all_processes_share": [run.cpu_share for run in found],
            "training_s": [run.train_s for run in found],
        }
        for (pace, layout), found in runs.items()
    ]  # fmt: skip


def main() -> None:
    """Print the shares and, if asked, write JSON."""
    options = argparse.ArgumentParser(description="Are all cores busy when scanners are unequal?")
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--model", choices=MODELS, default="M1")
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measured(Workload(chosen.model, chosen.twins, chosen.rounds), Path(name), repeat=chosen.repeat)
    for row in rows:
        print(f"{row['pace']:13s} {row['layout']:19s} {middle(row['actors_share']):6.1%} busy  {middle(row['training_s']):7.2f} s")
    if chosen.out:
        save(chosen.out, "barrier", rows)


if __name__ == "__main__":
    main()
