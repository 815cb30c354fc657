"""The cascade against its controls: same first values, same images, same order, phantom nodules.

`python -m tests.learning.detection.proof 1 2 3` prints a table for the seeds 1, 2 and 3 (about six minutes of one core each); with
`fine` after them, of detectors that pool small regions at stride 2.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from p2pftl.imaging.boxes import BoxCohort
from p2pftl.imaging.boxes_phantom import PhantomBoxes
from p2pftl.imaging.cohort import Shard
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.detection.model import Detector
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.detection.task import Detection, truth
from p2pftl.learning.engine import prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Memory, Scene
from p2pftl.learning.transfer import Full
from p2pftl.params import Vector

Score = Mapping[str, Any]

CASCADE = DetectorSpec()
CONTROLS = {
    "cascade 0.5, 0.6, 0.7": CASCADE,
    "one stage at 0.5 (Faster R-CNN)": replace(CASCADE, stages=1),
    "one stage at 0.7": replace(CASCADE, stages=1, iou=0.7),
}
SHOWN = ("map_50", "map_70", "map_75", "map_strict", "map")


@dataclass(frozen=True)
class Trial:
    """How much is learnt: patients with nodules, two slices each, and epochs at the learning rate 0.001 and then a fifth of it."""

    train: int = 160
    test: int = 80
    epochs: tuple[int, int] = (3, 1)


def cohorts(seed: int, trial: Trial, cache: str) -> dict[str, BoxCohort]:
    """Patients of this seed, none in two cohorts."""
    source = PhantomBoxes(patients=2 * (trial.train + trial.test), cache=cache)
    ill = [sample for sample in source.catalogue({}, seed).samples if sample.label]
    cut = trial.train * source.slices
    shards = {"ct-01": Shard(tuple(ill[:cut]), (), tuple(ill[cut:]))}
    shard = source.prepare(shards, {"ct-01": Scanner()}, seed, lambda done, of: None)["ct-01"]
    return {"train": source.read(shard.train), "test": source.read(shard.test)}


def trained(spec: DetectorSpec, seed: int, trial: Trial, images: Mapping[str, BoxCohort]) -> tuple[Detection, Vector]:
    """A detector after its epochs."""
    model = Detector(spec, 2, seed)
    fast = Recipe(optimizer="adam", lr=1e-3, batch=4, epochs=trial.epochs[0], flip=True, shift=16, reset_optimizer=False)
    memory: Memory | None = None
    vector = model.take()
    for round, recipe in enumerate((fast, replace(fast, lr=2e-4, epochs=trial.epochs[1]))):
        task = Detection("ct-01", model, vector, images, recipe, Full(), seed)
        learnt = task.fit(vector, round, Scene(), memory)
        vector, memory = learnt.vector, learnt.memory
    return task, vector


def compared(seed: int, trial: Trial, cache: str, controls: Mapping[str, DetectorSpec] = CONTROLS) -> dict[str, Score]:
    """Scores on the test patients by name; and of the single stage applied three times, the "iterative box"."""
    images = cohorts(seed, trial, cache)
    scores: dict[str, Score] = {}
    for name, spec in controls.items():
        task, vector = trained(spec, seed, trial, images)
        scores[name] = task.score(vector, "test", Scene(), 1)
        if spec.stages == 1 and spec.iou == 0.5:
            again = replace(task, model=Detector(replace(spec, repeats=3), 2, seed))
            scores["the same, applied three times"] = again.score(vector, "test", Scene(), 1)
        if spec.stages > 1:
            scores["overlap of the stages' boxes"] = risen(task, vector)
    return scores


def risen(task: Detection, vector: Vector) -> dict[str, float]:
    """Mean overlap with the truth of those boxes that began above 0.5, before the first and after each stage."""
    import torch

    from p2pftl.learning.detection.geometry import overlaps

    task.model.load(vector)
    network, cohort = task.model.network, task.cohorts["test"]
    sums, many = np.zeros(task.model.spec.stages + 1), 0
    with torch.no_grad():
        for row in range(len(cohort)):
            images = torch.from_numpy(cohort.images([row]))
            passing, _ = network.cascade.stages(*network.proposed(images), images.shape[-1])
            best = torch.stack([overlaps(boxes[0], truth(cohort, row).boxes).amax(1) for boxes in passing])
            near = best[:, best[0] >= 0.5]
            sums, many = sums + near.sum(1).numpy(), many + near.shape[1]
    return {f"before {t + 1}": round(float(value / many), 4) for t, value in enumerate(sums)}


def main(seeds: list[int], *, fine: bool) -> None:
    prepare_torch()
    controls = {name: replace(spec, fine=fine) for name, spec in CONTROLS.items()}
    table = []
    with tempfile.TemporaryDirectory() as cache:
        for seed in seeds:
            table.append(scores := compared(seed, Trial(), cache, controls))
            for name, score in scores.items():
                shown = {key: value for key, value in score.items() if key in SHOWN or key.startswith("before")}
                print(seed, name, shown, flush=True)
    for control in [*table[0]][1:]:
        for metric in SHOWN if "map" in table[0][control] else ():
            gains = [scores["cascade 0.5, 0.6, 0.7"][metric] - scores[control][metric] for scores in table]
            print(f"cascade minus {control}, {metric}: {np.mean(gains):+.3f}", [round(gain, 3) for gain in gains])


def rises(overlap: Mapping[str, float]) -> bool:
    """Whether each stage hands over better boxes than it got."""
    return all(late > early for early, late in pairwise(overlap.values()))


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:] if word != "fine"], fine="fine" in sys.argv)
