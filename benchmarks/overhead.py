"""What the twins cost over a bare PyTorch loop: seconds per round and start-up, side by side in one run.

Workload: N twins on a ring, 256 images of 64 x 64 pixels each, the compact network, batch 32, one local epoch of plain
SGD, Metropolis average with the neighbours, every twin scored on 256 images every round. The floor does the same
arithmetic in a bare loop, two processes of one thread each. Images are noise: this measures time, nothing is learnt.

    python -m benchmarks.overhead [--twins 8] [--rounds 6] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SIDE, BATCH, LR = 256, 64, 32, 0.01
SCENARIO = """
name: overhead
seed: 1
rounds: {rounds}
topology: {{use: ring, twins: {twins}}}
data: {{use: npz, path: {path}, size: 64, split: iid, validation: 0.01}}
model: {{backbone: compact}}
fit: {{lr: {lr}, momentum: 0.0, batch: {batch}, epochs: 1}}
"""


def archive(path: Path, twins: int) -> None:
    """Write noise images: 256 to train per twin (validation comes on top), 256 to test."""
    draws = np.random.default_rng(1)
    parts = {"train": round(twins * IMAGES / 0.99), "test": IMAGES}
    arrays: dict[str, Any] = {}
    for part, count in parts.items():
        arrays[f"{part}_images"] = draws.integers(0, 256, (count, SIDE, SIDE), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % 2
    np.savez(path, **arrays)


def p2pftl(folder: Path, twins: int, rounds: int, *options: str) -> dict[str, float]:
    """Run the workload through the program; return start-up and median round, wall seconds."""
    from p2pftl.events import RoundDone
    from p2pftl.observe.record import read

    scenario = folder / "overhead.yaml"
    scenario.write_text(SCENARIO.format(rounds=rounds, twins=twins, path=folder / "noise.npz", lr=LR, batch=BATCH))
    out = folder / ("run" + "-".join(options).replace("--", ""))
    started = time.time()
    subprocess.run([sys.executable, "-m", "p2pftl", "run", str(scenario), "--out", str(out), "--quiet", *options], check=True)
    total = time.time() - started
    ends: dict[int, float] = {}
    for wall, event in read(out / "events.msgpack"):
        if isinstance(event, RoundDone):
            ends[event.round] = max(wall, ends.get(event.round, 0.0))
    walls = [ends[round] for round in sorted(ends)]
    return {"round_s": statistics.median(np.diff(walls)), "total_s": total, "first_round_s": walls[0]}


def bare(twins: int, rounds: int) -> dict[str, float]:
    """The same arithmetic without the program: two processes, one thread each, models in shared memory."""
    context = mp.get_context("spawn")
    started = time.time()
    barrier, size = context.Barrier(3), context.Value("i", 0)
    store = context.RawArray("f", twins * 2_000_000)
    workers = [context.Process(target=_worker, args=(k, twins, rounds, barrier, size, store)) for k in (0, 1)]
    for worker in workers:
        worker.start()
    barrier.wait()
    walls = [time.time()]
    for _ in range(rounds):
        barrier.wait()
        barrier.wait()
        walls.append(time.time())
    for worker in workers:
        worker.join()
    return {"round_s": statistics.median(np.diff(walls)), "total_s": time.time() - started, "first_round_s": walls[1] - started}


def _worker(rank: int, twins: int, rounds: int, barrier: Any, size: Any, store: Any) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    from p2pftl.learning.models import Model, ModelSpec, prepare_torch

    prepare_torch()
    model = Model(ModelSpec(), 2, 1)
    count = model.layout.size
    shared = torch.frombuffer(store, dtype=torch.float32)[: twins * count].view(twins, count)
    mine = range(rank, twins, 2)
    generator = torch.Generator().manual_seed(rank)
    images = {i: torch.rand(IMAGES, 1, SIDE, SIDE, generator=generator) for i in mine}
    test = torch.rand(IMAGES, 1, SIDE, SIDE, generator=generator)
    labels = torch.arange(IMAGES) % 2
    for i in mine:
        shared[i] = torch.from_numpy(model.take())
    optimizer = torch.optim.SGD(model.parameters.values(), lr=LR)
    barrier.wait()
    for _ in range(rounds):
        for i in mine:
            model.flat.copy_(shared[i])
            model.focus(model.layout.names)
            for rows in torch.randperm(IMAGES, generator=generator).split(BATCH):
                model.grad.zero_()
                cross_entropy(model(images[i][rows]), labels[rows]).backward()
                optimizer.step()
            shared[i] = model.flat
        barrier.wait()
        mixed = {i: (shared[i] + shared[(i - 1) % twins] + shared[(i + 1) % twins]) / 3 for i in mine}
        model.rest()
        with torch.inference_mode():
            for i in mine:
                model.flat.copy_(mixed[i])
                for rows in torch.arange(IMAGES).split(64):
                    model(test[rows]).argmax(1)
        barrier.wait()
        for i in mine:
            shared[i] = mixed[i]


def main() -> None:
    """Print a table and, if asked, write the figures as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive(folder / "noise.npz", chosen.twins)
        figures = {
            "bare loop, 2 processes": bare(chosen.twins, chosen.rounds),
            "p2pftl, ray, one actor per twin": p2pftl(folder, chosen.twins, chosen.rounds),
            "p2pftl, ray, 2 actors": p2pftl(folder, chosen.twins, chosen.rounds, "--workers", "2"),
            "p2pftl, local, 1 process": p2pftl(folder, chosen.twins, chosen.rounds, "--executor", "local"),
        }
    floor = figures["bare loop, 2 processes"]["round_s"]
    print(f"{'':34s}{'s a round':>10s}{'x floor':>9s}{'first round s':>15s}{'total s':>9s}")
    for title, row in figures.items():
        print(f"{title:34s}{row['round_s']:10.2f}{row['round_s'] / floor:9.2f}{row['first_round_s']:15.1f}{row['total_s']:9.1f}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"twins": chosen.twins, "rounds": chosen.rounds, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
