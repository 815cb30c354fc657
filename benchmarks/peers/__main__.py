"""Run peers on the common workload, one after the other, each in a throw-away environment.

    python -m benchmarks.peers flower fluke p2pfl [--twins 8] [--rounds 4] [--repeat 3] [--folder DIR] [--out FILE.json]

Each is installed by pip from the registry together with a torch of its own: 2 to 6 GB and some minutes. The environment is
removed before the next one is made. Floors of the same minutes are measured beside each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.results import ROOT, middle, save
from benchmarks.table import peers_table
from benchmarks.watch import Watched, watch
from benchmarks.workload import Workload, write_noise

PACKAGES = {
    "flower": ("flwr[simulation]", "torch"),
    "fluke": ("fluke-fl",),
    "p2pfl": ("p2pfl[torch,dp]", "pyarrow<20", "huggingface_hub<1"),
}
"""What each peer needs from the registry. p2pfl 0.4.4 alone does not start: its old numpy and datasets need old companions."""


def install(name: str, folder: Path) -> Path:
    """Make an environment that holds the peer and nothing of ours; return its python. Raises CalledProcessError."""
    home = folder / f"env-{name}"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES[name]], check=True)
    return python


def measured(name: str, python: Path, work: Workload, archive: Path, repeat: int) -> list[dict[str, Any]]:
    """Run the peer and the floor in turns; return a row each."""
    sizes = ["--archive", str(archive), "--twins", str(work.twins), "--rounds", str(work.rounds)]
    command = [str(python), "-m", f"benchmarks.peers.{name}", *sizes]
    home = archive.parent / "home"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    seen = partial(watch, command, folder=home, PYTHONPATH=str(ROOT), HOME=str(home), PATH=path)  # some write logs where they stand
    runs: list[Watched] = []
    floors: list[measure.Measured] = []
    for _ in range(repeat):
        home.mkdir(exist_ok=True)
        floors.append(measure.floor(work, archive, "fp32"))
        runs.append(seen())
        print(f"{name}: {middle(_rounds(runs[-1])):.2f} s a round, the floor {middle(floors[-1].round_s):.2f}", flush=True)
    sized = seen(memory=True, every=1.0)
    told = _told(runs[0])
    return [
        {
            "bench": "peers", "peer": name, "version": told["version"], "how": told["how"], "model": work.model, "twins": work.twins,
            "round_s": [value for run in runs for value in _rounds(run)],
            "x_floor": [middle(_rounds(run)) / middle(floor.round_s) for run, floor in zip(runs, floors, strict=True)],
            "first_round_s": [_told(run)["walls"][1] - run.started for run in runs],
            "memory_gb": sized.memory / measure.GIGABYTE,
        },
        {
            "bench": "peers", "peer": "floor fp32", "version": "", "how": f"beside {name}", "model": work.model, "twins": work.twins,
            "round_s": [value for floor in floors for value in floor.round_s],
            "first_round_s": [floor.first_round_s for floor in floors],
        },
    ]  # fmt: skip


def _told(run: Watched) -> dict[str, Any]:
    """The JSON that a peer's script prints as its last line."""
    lines = [line for line in run.output.splitlines() if line.startswith('{"walls"')]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _rounds(run: Watched) -> list[float]:
    """Seconds of every round after the first."""
    return [b - a for a, b in pairwise(_told(run)["walls"])][1:]


def main() -> None:
    """Measure the peers that were named and, if asked, write JSON."""
    options = argparse.ArgumentParser(description="Peers on the common workload, each in a throw-away environment.")
    options.add_argument("peers", nargs="+", choices=PACKAGES)
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where environments are made (the system's folder for temporary files)")
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    work = Workload("M1", chosen.twins, chosen.rounds)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        archive = Path(folder) / "noise.npz"
        write_noise(archive, work)
        for name in chosen.peers:
            python = install(name, Path(folder))
            rows += measured(name, python, work, archive, chosen.repeat)
            shutil.rmtree(python.parents[1])
            if chosen.out:
                save(chosen.out, "peers", rows)
    print(peers_table(rows))


if __name__ == "__main__":
    main()
