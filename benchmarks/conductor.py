"""What conducting costs per event, by the number of twins: a toy task through Conductor, LocalSwarm and Record, on one core.

Every case has twins of unequal speed (1x to 8x) and frames of 68 bytes of payload; nothing is learnt, torch is not loaded.
Each figure comes from a process of its own, so that its peak memory is its own.

    python -m benchmarks.conductor [--twins 8 64 512 1000] [--events 100000] [--case CASE ...] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from p2pftl.agenda import Participant
from p2pftl.draw import draw
from p2pftl.gossip.aggregators import WeightedMean
from p2pftl.gossip.codecs import Dense
from p2pftl.gossip.mixing import Metropolis
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import All
from p2pftl.learning.task import Learnt, Memory, Scene, Work
from p2pftl.observe.record import Record
from p2pftl.observe.summary import Summary
from p2pftl.params import Layout, Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.swarm.local import LocalSwarm
from p2pftl.terms import Terms
from p2pftl.world.links import Link
from p2pftl.world.topologies import Epidemic, Ring
from p2pftl.world.world import World

LAYOUT = Layout(("body.weight", "head.weight"), ((4, 3), (5,)), ("weight", "weight"), (0, 1))
CASES = {
    "ring, asynchronous": (Ring, Asynchronous()),
    "ring, synchronous": (Ring, Synchronous()),
    "epidemic, asynchronous": (Epidemic, Asynchronous()),
    "epidemic, synchronous": (Epidemic, Synchronous()),
}
EVENTS_OF_A_ROUND = 9
"""Of one twin with two neighbours: fit begun and done, two frames sent, two heard, merged, scored, round done."""


@dataclass(frozen=True)
class Toy:
    """A task that costs next to nothing."""

    name: str
    layout: Layout = LAYOUT
    samples: int = 10

    def initial(self) -> Vector:
        return draw(1, "start", self.name).standard_normal(self.layout.size).astype(np.float32)

    def work(self, round: int, scene: Scene) -> Work:
        return Work(self.layout.names, self.samples, self.samples)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        return Learnt(vector * np.float32(0.99), 0.5, self.samples, 1, 1.0)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        return {"accuracy": 0.5} if split == "test" else {}


@dataclass(frozen=True)
class Kept(Vault):
    """Saved states in memory: what a disk costs is not the conductor's."""

    states: dict[str, bytes] = field(default_factory=dict)

    def save(self, name: str, state: bytes) -> None:
        self.states[name] = state


@dataclass(frozen=True)
class Recruiter:
    """Builds twins over the toy task, the speed of each drawn between 1 and 8."""

    terms: Terms
    world: World

    def __call__(self, name: str) -> Participant:
        from p2pftl.twin import Twin

        about = {"train": 10, "validation": 0, "test": 10, "patients": 10, "labels": (5, 5), "scanner": {}}
        speed = float(draw(1, "speed", name).uniform(1.0, 8.0))
        return Twin(name, Toy(name), self.terms, self.world, speed=speed, about=about)


def measure(case: str, twins: int, events: int, folder: Path) -> dict[str, Any]:
    """One row: a run of about `events` events; seconds without the start, which is given beside it.

    core_seconds, and microseconds per event: of processor time, which others on the machine do not lengthen.
    """
    shape, pace = CASES[case]
    began = time.perf_counter()
    topology = (Epidemic(s=2, twins=twins) if shape is Epidemic else shape(twins=twins)).build(1)
    rounds = max(1, round(events / twins / EVENTS_OF_A_ROUND))
    terms = Terms("toy", 1, rounds, topology.names, WeightedMean(), Dense(), Metropolis(), pace, All())
    world = World(topology, Link(latency=0.05), seed=1)
    swarm, summary = LocalSwarm(), Summary()
    first = swarm.start(Recruiter(terms, world), [terms.everyone], Kept(folder))
    conductor = Conductor(world, swarm, first)
    started, cpu = time.perf_counter(), time.process_time()
    with Record(folder / "events.msgpack") as record:
        for event in conductor:
            record(event)
            summary(event)
    seconds, core = time.perf_counter() - started, time.process_time() - cpu
    return {
        "case": case,
        "twins": twins,
        "rounds": rounds,
        "events": record.events,
        "start": started - began,
        "seconds": seconds,
        "core_seconds": core,
        "microseconds_per_event": 1e6 * core / record.events,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "digest": record.digest,
    }


def alone(case: str, twins: int, events: int) -> dict[str, Any]:
    """`measure` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        told = [sys.executable, "-m", "benchmarks.conductor", "--one", case, str(twins), str(events), folder]
        row: dict[str, Any] = json.loads(subprocess.run(told, check=True, capture_output=True, text=True).stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twins", type=int, nargs="+", default=[8, 64, 512, 1000])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(map(repr, CASES)))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("CASE", "TWINS", "EVENTS", "FOLDER"), help="one row, in this process")
    options = parser.parse_args()
    if options.one:
        case, twins, events, folder = options.one
        print(json.dumps(measure(case, int(twins), int(events), Path(folder))))
        return
    print(f"{'case':<24} {'twins':>6} {'events':>8} {'start s':>8} {'seconds':>8} {'core s':>8} {'us/event':>9} {'peak MB':>8}")
    rows = []
    for case in options.case:
        for twins in options.twins:
            row = alone(case, twins, options.events)
            rows.append(row)
            print(
                f"{case:<24} {twins:>6} {row['events']:>8} {row['start']:>8.2f} {row['seconds']:>8.2f} "
                f"{row['core_seconds']:>8.2f} {row['microseconds_per_event']:>9.1f} {row['peak_megabytes']:>8.0f}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps({"name": "conductor", "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
