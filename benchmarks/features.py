"""What the feature cache saves: a round in which only the head is trained, features kept against computed again.

Each twin fits its head to its images and is scored on the common test images, as a twin of a run would do it, all twins in
this one process. Both ways take turns, and must end with equal models. The images are noise: time is measured, nothing is learnt.

    python -m benchmarks.features [--backbone NAME] [--twins 8] [--images 256] [--rounds 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from p2pftl.imaging.cohort import Cohort
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.classification import Classification
from p2pftl.learning.features import Features
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import FeatureCache, Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import Head
from p2pftl.params import Vector

SIDE, CLASSES, SEED = 64, 2, 1
RECIPE = Recipe(lr=0.01, momentum=0.0, batch=32)


def tasks(model: Model, twins: int, images: int, settings: FeatureCache) -> list[Classification]:
    """Twins with `images` noise images each, and as many in common to be scored on."""
    draws = np.random.default_rng(SEED)
    cohorts = [
        Cohort(draws.integers(0, 256, (images, SIDE, SIDE), np.uint8), np.arange(images) % CLASSES, "grey") for _ in range(twins + 1)
    ]
    features, start = Features(model, settings), model.take()
    return [
        Classification(f"ct-{k:02d}", model, start, {"train": own, "test": cohorts[-1]}, Scanner(), RECIPE, Head(), SEED, CLASSES, features)
        for k, own in enumerate(cohorts[:-1])
    ]


def timed_round(crew: list[Classification], vectors: list[Vector], round: int) -> tuple[float, list[Vector], list[Any]]:
    """Fit and score every twin; return seconds, the models, their scores."""
    started, ends, scores = time.perf_counter(), [], []
    for task, vector in zip(crew, vectors, strict=True):
        ends.append(task.fit(vector, round, Scene(), None).vector)
        scores.append(task.score(ends[-1], "test", Scene(), round))
    return time.perf_counter() - started, ends, scores


def measure(backbone: str, twins: int, images: int, rounds: int) -> list[dict[str, Any]]:
    """Run both ways in turn; the round that fills the cache is not counted. Raises AssertionError if their models differ."""
    prepare_torch()
    model = Model(ModelSpec(backbone), CLASSES, SEED)  # type: ignore[arg-type]
    ways = {"recomputed": FeatureCache(cache=False), "kept": FeatureCache()}
    crews = {way: tasks(model, twins, images, settings) for way, settings in ways.items()}
    vectors = {way: [task.initial() for task in crew] for way, crew in crews.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round in range(rounds + 1):
        scores = {}
        for way, crew in crews.items():
            took, vectors[way], scores[way] = timed_round(crew, vectors[way], round)
            seconds[way].append(took)
        assert scores["kept"] == scores["recomputed"]
        assert all(np.array_equal(one, other) for one, other in zip(vectors["kept"], vectors["recomputed"], strict=True))
    about = {"part": "features", "backbone": backbone, "twins": twins, "images": images}
    faster = [slow / quick for slow, quick in zip(seconds["recomputed"][1:], seconds["kept"][1:], strict=True)]
    rows: list[dict[str, Any]] = [
        {**about, "features": way, "round_s": took[1:], "first_round_s": took[0]} for way, took in seconds.items()
    ]
    return [*rows, {**about, "features": "kept against recomputed", "round_faster": faster}]


def main() -> None:
    """Print a table and, if asked, write the figures as JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--backbone", default="mobilenet_v3_small")
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--images", type=int, default=256)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    rows = measure(chosen.backbone, chosen.twins, chosen.images, chosen.rounds)
    print(f"{chosen.backbone}, {chosen.twins} twins, {chosen.images} images each, only the head trained, models and scores equal")
    for row in rows[:-1]:
        print(f"{row['features']:>12s}: {statistics.median(row['round_s']):7.3f} s a round (the first {row['first_round_s']:.3f} s)")
    print(f"{'ratio':>12s}: {statistics.median(rows[-1]['round_faster']):7.1f}")
    if chosen.out:
        chosen.out.write_text(json.dumps({"name": "features", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
