"""Run the workload once, through p2pftl or as the bare loop, and say what it took."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from benchmarks.watch import Watched, watch
from benchmarks.workload import Workload
from p2pftl.events import Event, FitStarted, FrameSent, RoundDone, RunFinished, RunPlanned
from p2pftl.observe.record import FILE, read

GIGABYTE = 1e9
TIMED, SIZED = 0.5, 1.0  # seconds between samples of processor time, and of memory


@dataclass(frozen=True)
class Measured:
    """What one run took.

    round_s: every round after the first and, of p2pftl, before the last, wall seconds;
    first_sign_s, first_round_s, total_s: since the command started (NaN of the loop);
    memory_gb: 0 if it was not sampled; cpu_share: processor use of the whole process tree over the cores, from the first fit to the
    last event of training; actors_share: that of the actors alone.
    """

    round_s: list[float]
    first_sign_s: float
    first_round_s: float
    total_s: float
    memory_gb: float
    cpu_share: float
    actors_share: float
    train_s: float
    bytes_sent: int = 0
    bytes_ideal: int = 0
    frames: int = 0
    digest: str = ""


def p2pftl(scenario: dict[str, Any], folder: Path, *options: str, memory: bool = False, terminal: bool = False, cores: int = 2) -> Measured:
    """Run `scenario` with the command a user would type, and remove its run folder."""
    file, out = folder / "bench.yaml", folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    file.write_text(yaml.safe_dump(scenario, sort_keys=False))
    command = [sys.executable, "-m", "p2pftl", "run", str(file), "--out", str(out), *options]
    seen = watch(command, awaited=out / FILE, memory=memory, terminal=terminal, every=SIZED if memory else TIMED)
    measured = _told(seen, list(read(out / FILE)), cores, json.loads((out / "summary.json").read_text()))
    shutil.rmtree(out)
    return measured


def floor(work: Workload, archive: Path, variant: str, *, memory: bool = False, cores: int = 2) -> Measured:
    """Run the bare loop."""
    sizes = ["--model", work.model, "--twins", str(work.twins), "--rounds", str(work.rounds)]
    command = [sys.executable, "-m", "benchmarks.floor", "--archive", str(archive), "--variant", variant, *sizes]
    seen = watch(command, memory=memory, every=SIZED if memory else TIMED)
    walls: list[float] = json.loads(seen.output.splitlines()[-1])
    took = [b - a for a, b in pairwise(walls)]
    share = seen.cpu(walls[0], walls[-1]) / (cores * (walls[-1] - walls[0]))
    return Measured(
        took[1:], math.nan, walls[1] - seen.started, seen.ended - seen.started,
        seen.memory / GIGABYTE, share, share, walls[-1] - walls[0],
    )  # fmt: skip


def _told(seen: Watched, events: list[tuple[float, Event]], cores: int, summary: dict[str, Any]) -> Measured:
    """Read a run's figures off its events; their wall clock starts when their file appears."""
    ends: dict[int, float] = {}
    for wall, event in events:
        if isinstance(event, RoundDone):
            ends[event.round] = max(wall, ends.get(event.round, 0.0))
    rounds = [ends[number] for number in sorted(ends)]
    start = min(wall for wall, event in events if isinstance(event, FitStarted))
    stop = max(wall for wall, event in events if not isinstance(event, RunFinished))
    window = (seen.appeared + start, seen.appeared + stop)
    width = cores * (stop - start)
    plan = next(event for _, event in events if isinstance(event, RunPlanned))
    frames = sum(isinstance(event, FrameSent) for _, event in events)
    return Measured(
        round_s=[b - a for a, b in pairwise(rounds[:-1])] or [b - a for a, b in pairwise(rounds)],  # after the last fit nobody fits on
        first_sign_s=seen.spoke - seen.started,
        first_round_s=seen.appeared - seen.started + rounds[0],
        total_s=seen.ended - seen.started,
        memory_gb=seen.memory / GIGABYTE,
        cpu_share=seen.cpu(*window) / width,
        actors_share=seen.cpu(*window, _is_actor) / width,
        train_s=stop - start,
        bytes_sent=summary["bytes_sent"],
        bytes_ideal=4 * plan.facts["model"]["shared"] * frames,
        frames=frames,
        digest=summary["digest"],
    )


def _is_actor(title: str) -> bool:
    """Ray titles its actors by their class; its own agents and idle workers are not ours."""
    return title.startswith("ray::") and "Agent" not in title and "IDLE" not in title
