"""What layout and precision save: p2pftl's model in fp32 and bf16 against the same network as PyTorch makes it, and what bf16 costs.

Training step (SGD) and scoring of 32 images 64x64 in one thread. All ways take turns, the best turn of each counts. The accuracy
is that of the compact network on discs in noise, fp32 and bf16 with the same seeds; the floor is fp32, contiguous.

    python -m benchmarks.precision [--backbones NAME ...] [--turns 12] [--seeds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.nets import Normalised
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.arithmetic import instructions, resolved
from p2pftl.learning.backbones import anatomy
from p2pftl.learning.descent import Descent
from p2pftl.learning.fit import fit
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.score import score
from p2pftl.learning.specs import Backbone, Compute, Precision, Recipe
from p2pftl.learning.transfer import Full

BATCH, SIDE, CLASSES = 32, 64, 2
RECIPE = Recipe(lr=0.01, momentum=0.0)
Way = Callable[[], object]


def floor(backbone: Backbone) -> tuple[Way, Way]:
    """Training step and scoring as torch comes."""
    built = anatomy(backbone, CLASSES)
    torch.manual_seed(0)
    for part in built.module.to_empty(device="cpu").modules():
        if callable(fill := getattr(part, "reset_parameters", None)):
            fill()
    net = Normalised(built.module, built.mean, built.std)
    optimizer = torch.optim.SGD(net.parameters(), RECIPE.lr)
    images, labels = batch()

    def train() -> None:
        net.train()
        optimizer.zero_grad()
        cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def scored() -> Tensor:
        net.eval()
        with torch.no_grad():
            return net(images)  # type: ignore[no-any-return]

    return train, scored


def ours(backbone: Backbone, precision: Precision) -> tuple[Way, Way]:
    """Training step and scoring as p2pftl does them."""
    model = Model(ModelSpec(backbone), CLASSES, 0, Compute(precision, "cpu"))
    descent = Descent(RECIPE, RECIPE.lr, model.flat, model.grad)
    images, labels = batch()

    def train() -> None:
        model.focus(model.layout.names)
        model.grad.zero_()
        cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        descent.step()

    def scored() -> Tensor:
        model.rest()
        with torch.no_grad():
            return model(images)

    return train, scored


def batch() -> tuple[Tensor, Tensor]:
    """Noise to compute with."""
    return torch.rand(BATCH, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)), torch.arange(BATCH) % CLASSES


def speed(backbone: Backbone, turns: int) -> list[dict[str, Any]]:
    """One row per way: milliseconds per image, and how many times the floor's."""
    ways = {"floor": floor(backbone), "fp32": ours(backbone, "fp32"), "bf16": ours(backbone, "bf16")}
    best = {(name, part): float("inf") for name in ways for part in (0, 1)}
    for turn in range(turns + 1):
        for name, way in ways.items():
            for part in (0, 1):
                started = time.perf_counter()
                way[part]()
                if turn:
                    best[name, part] = min(best[name, part], time.perf_counter() - started)
    auto = resolved(Compute("auto", "cpu"), backbone).precision
    rows = []
    for name in ways:
        train, scored = (1e3 * best[name, part] / BATCH for part in (0, 1))
        times = {f"{what}_times_floor": best[name, part] / best["floor", part] for part, what in enumerate(("train", "score"))}
        both = (best[name, 0] + best[name, 1]) / (best["floor", 0] + best["floor", 1])
        about: dict[str, Any] = {"part": "speed", "backbone": backbone, "arithmetic": name, "auto": name == auto}
        rows.append({**about, "train_ms": train, "score_ms": scored, **times, "both_times_floor": both})
    return rows


def discs(n: int, side: int, seed: int) -> Cohort:
    """Half of the images hold a faint disc somewhere in the noise: hard enough that nobody gets all of them right."""
    draws, labels = np.random.default_rng(seed), np.arange(n) % 2
    y, x = np.mgrid[:side, :side]
    pixels = draws.normal(90, 25, (n, side, side))
    for row in np.flatnonzero(labels):
        top, left = draws.uniform(side / 4, 3 * side / 4, 2)
        pixels[row] += 22 * (np.hypot(y - top, x - left) < side / 6)
    return Cohort(np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64), "grey")


def accuracy(seeds: int) -> list[dict[str, Any]]:
    """One row per seed: accuracy in percent and AUROC of the compact network after the same fit in either precision."""
    rows = []
    for seed in range(seeds):
        train, test = discs(256, 32, 2 * seed), discs(1000, 32, 2 * seed + 1)
        row: dict[str, Any] = {"part": "accuracy", "backbone": "compact", "seed": seed}
        for precision in get_args(Precision):
            model = Model(ModelSpec(), CLASSES, seed, Compute(precision, "cpu"))
            lesson = Full().plan(0, model.layout)
            recipe = Recipe(lr=0.02, epochs=8)
            done = fit(model, model.take(), train, recipe, lesson, Full(), seed=seed, twin="a", round=0)
            found = score(model, done.vector, test, CLASSES)
            row |= {f"{precision}_percent": 100 * (found["accuracy"] or 0.0), f"{precision}_auroc": found["auroc"]}
        rows.append({**row, "bf16_minus_fp32": row["bf16_percent"] - row["fp32_percent"]})
    return rows


def main() -> None:
    """Print tables and, if asked, write the figures as JSON."""
    options = argparse.ArgumentParser(description="Layout and precision against PyTorch's defaults.")
    options.add_argument("--backbones", nargs="+", choices=get_args(Backbone), default=get_args(Backbone))
    options.add_argument("--turns", type=int, default=12)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_torch()
    print(f"bfloat16 instructions: {instructions() or 'none'}")
    rows: list[dict[str, Any]] = []
    print(f"{'backbone':20} {'':6} {'train ms/image':>14} {'x floor':>8} {'score ms/image':>14} {'x floor':>8} {'both':>6}")
    for backbone in chosen.backbones:
        for row in speed(backbone, chosen.turns):
            name = row["arithmetic"] + (" *" if row["auto"] else "")
            numbers = f"{row['train_ms']:14.3f} {row['train_times_floor']:8.2f} {row['score_ms']:14.3f} {row['score_times_floor']:8.2f}"
            print(f"{backbone:20} {name:6} {numbers} {row['both_times_floor']:6.2f}", flush=True)
            rows.append(row)
    pairs = accuracy(chosen.seeds)
    for row in pairs:
        print(f"seed {row['seed']}: fp32 {row['fp32_percent']:.1f} %, bf16 {row['bf16_percent']:.1f} %", flush=True)
    differences = np.array([row["bf16_minus_fp32"] for row in pairs])
    if len(differences) > 1:
        spread = differences.std(ddof=1) / np.sqrt(len(differences))
        print(f"bf16 - fp32: {differences.mean():+.2f} points, standard error {spread:.2f}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"name": "precision", "rows": [*rows, *pairs]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
