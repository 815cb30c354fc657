"""The part of what-if that needs a run: a twin's final model on slices as its scanner would acquire them under another protocol.

Only phantoms have a true anatomy to scan again; images that were acquired already cannot be given more dose, detail or slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p2pftl.draw import draw
from p2pftl.errors import CheckpointError, ScenarioError
from p2pftl.folder import MODELS, SCENARIO
from p2pftl.imaging.cohort import Cohort, Sample, Shard, Source
from p2pftl.imaging.scanner import Scanner
from p2pftl.policies import name_of

if TYPE_CHECKING:
    from p2pftl.learning.score import Score
    from p2pftl.scenario.plan import Plan


@dataclass(frozen=True)
class Rescanned:
    """Metrics of one model on the same anatomy scanned twice, with the same noise pattern. images: validation slices behind them."""

    now: Score
    then: Score
    images: int


def rescan(run: Path, name: str, now: Scanner, then: Scanner) -> Rescanned:
    """Score twin `name`'s final model of `run` on its validation slices, scanned as `now` and as `then`.

    Raises ScenarioError E118 with the reason where there is nothing to scan again or no model, CheckpointError E502 for a model that
    does not fit, and what compiling the scenario raises.
    """
    from p2pftl.scenario.load import load

    scenario = load(run / SCENARIO)
    source, file = scenario.data.source, run / MODELS / f"{name}.safetensors"
    if type(source).anatomy is Source.anatomy:
        raise ScenarioError("E118", f"{name_of(source)} images were acquired already", fix="only phantoms can be scanned again")
    if not file.is_file():
        raise ScenarioError("E118", f"the run kept no model of {name}", fix="models: trained")
    from p2pftl.learning.engine import prepare_torch

    prepare_torch()  # before anything imports torch
    from p2pftl.learning.models import Model
    from p2pftl.learning.score import score
    from p2pftl.scenario.plan import compile_plan

    plan = compile_plan(scenario)
    samples = _validation(plan, name)
    classes = len(plan.catalogue.classes)
    model = Model(scenario.model, classes, scenario.seed, plan.compute)
    vector = _vector(model, {**model.layout.tensors(model.take()), **_kept(file)}, file)
    usual = plan.scanners[name]
    before, after = (
        score(model, vector, _scanned(source, samples, _like(usual, one), scenario.seed, name), classes) for one in (now, then)
    )
    return Rescanned(before, after, len(samples))


def _validation(plan: Plan, name: str) -> tuple[Sample, ...]:
    """The validation samples of a twin, drawn where the cache lacks them."""
    if name not in plan.shards or not plan.shards[name].validation:
        raise ScenarioError("E118", f"{name} has no validation slices in this run", fix="raise data.validation")
    alone = {name: Shard((), plan.shards[name].validation, ())}
    ready = plan.scenario.data.source.prepare(alone, plan.scanners, plan.scenario.seed, lambda done, of: None)
    return ready[name].validation


def _like(usual: Scanner, asked: Scanner) -> Scanner:
    """The twin's own scanner, its calibration error included, with the protocol that is asked about."""
    return replace(usual, kernel=asked.kernel, kvp=asked.kvp, mas=asked.mas, dose=asked.dose, slice_mm=asked.slice_mm)


def _scanned(source: Source, samples: tuple[Sample, ...], scanner: Scanner, seed: int, name: str) -> Cohort:
    """Scan every patient once; its noise is drawn by name, so that two protocols differ by what they are and not by chance."""
    from p2pftl.imaging.acquisition import acquire

    patients: dict[str, list[Sample]] = {}
    for sample in samples:
        patients.setdefault(sample.patient, []).append(sample)
    pixels, labels, side = [], [], 0.0
    for patient, mine in patients.items():
        true = source.anatomy(mine, scanner.slice_mm)
        assert true is not None
        seen = acquire(true.hu.astype(np.float64), scanner, true.pixel_mm, draw(seed, "whatif", name, patient))
        pixels.append(np.rint(seen.hu.numpy()).astype(np.int16))
        labels += [sample.label for sample in mine]
        side = true.pixel_mm
    return Cohort(np.concatenate(pixels), np.array(labels, np.int64), "HU", pixel_mm=side)


def _kept(file: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("E502", "the model cannot be read", where=file.name, fix="run the scenario again") from error


def _vector(model: Any, tensors: Mapping[str, Any], file: Path) -> Any:
    layout = model.layout
    fits = tensors.keys() == set(layout.names) and all(
        tensors[name].shape == tuple(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)
    )
    if not fits:
        raise CheckpointError("E502", "the model is not one of this scenario", where=file.name, fix="run the scenario again")
    return layout.vector(tensors)
