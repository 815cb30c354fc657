"""Do all variants of one seed start from the same place, with the same studies and budget? Told from the plan, before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from p2pftl.compare.cells import Cell
from p2pftl.errors import UsageError
from p2pftl.imaging.cohort import Sample
from p2pftl.learning.detection.spec import DetectorSpec, said
from p2pftl.scenario.load import source_of
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import Scenario
from p2pftl.source import Stage

MUST = ("start", "test", "studies", "rounds")
"""What the bounds must share with the method they bound."""


@dataclass(frozen=True)
class Footing:
    """Where a run starts, as digests and numbers.

    start: what the first parameters come from (equal names have equal values, whatever the stages of a detector); test: test images, in
    order; studies: images that are trained and validated on, with the scanner that acquired each where it is known; split: who holds
    which; rounds; budget: epochs or steps, and batch, of a round; detector: its stages, and what else does not change its first values.
    """

    start: str
    test: str
    studies: str
    split: str
    rounds: int
    budget: str
    detector: str = ""


def footing(plan: Plan) -> Footing:
    """Return the footing of a plan; a pooled one counts the studies as the twins acquired them."""
    made = plan.apart or plan
    scenario = plan.scenario
    shards = made.shards
    scanners = {name: _scanner(made, name) for name in shards}
    held = [
        (name, scanners[name], part, sample)
        for name, shard in shards.items()
        for part, samples in (("train", shard.train), ("validation", shard.validation))
        for sample in samples
    ]
    test = next(iter(shards.values())).test
    if plan.catalogue.own:
        test = tuple(sample for shard in shards.values() for sample in shard.test)
    model, fit, detector = scenario.model, scenario.fit, scenario.detector
    per_round = f"fit.steps {fit.steps}" if fit.steps is not None else f"fit.epochs {fit.epochs}"
    return Footing(
        start=_digest(
            [*astuple(replace(model, weights=None)), _begun(scenario), *_trunk(detector), *plan.catalogue.classes, scenario.seed]
        ),
        test=_digest([*map(_key, test), *(scanners.values() if plan.catalogue.synthetic else ())]),
        studies=_digest(sorted(f"{scanner} {part} {_key(sample)}" for _, scanner, part, sample in held)),
        split=_digest(sorted(f"{'' if plan.apart else name} {part} {_key(sample)}" for name, _, part, sample in held)),
        rounds=scenario.rounds,
        budget=f"{per_round}, fit.batch {fit.batch}",
        detector=f"{said(detector)}, {detector.proposals} proposals, {detector.sampled} sampled" if detector else "",
    )


def differences(mine: Footing, other: Footing) -> list[str]:
    """What `mine` has otherwise than `other`, in words; nothing if they stand on the same footing."""
    found = []
    if mine.start != other.start:
        found.append("starts from other parameters")
    if mine.test != other.test:
        found.append("is tested on other images")
    if mine.studies != other.studies:
        found.append("learns from other studies")
    elif mine.split != other.split:
        found.append("deals the studies otherwise")
    if mine.rounds != other.rounds:
        found.append(f"does {mine.rounds} rounds instead of {other.rounds}")
    if mine.budget != other.budget:
        found.append(f"has {mine.budget} instead of {other.budget}")
    if mine.detector != other.detector:
        found.append(f"its detector: {mine.detector}; not {other.detector}")
    return found


def uneven(cells: Iterable[Cell], baseline: str, bounds: Mapping[str, str]) -> dict[str, list[str]]:
    """Return variant -> what it has otherwise than the baseline, over all seeds; plans every cell, which is where a bad one is refused.

    bounds: variants that are bounds -> the variant they bound. Raises UsageError E617 for a bound that starts elsewhere, P2pftlError
    for what cannot run as written.
    """
    found: dict[tuple[str, int], Footing] = {}
    for cell in cells:
        plan = compile_plan(cell.scenario)
        if cell.scenario.source is not None:
            Stage.of(plan)  # refused here, and not after its run
        found[cell.variant, cell.seed] = footing(plan)
    told: dict[str, list[str]] = {}
    for (name, seed), mine in found.items():
        told.setdefault(name, [])
        told[name] += [text for text in differences(mine, found[baseline, seed]) if text not in told[name]]
        if name in bounds:
            _bounded(name, mine, found[bounds[name], seed])
    return told


def _bounded(name: str, mine: Footing, method: Footing) -> None:
    apart = [key for key in MUST if getattr(mine, key) != getattr(method, key)]
    if apart:
        text = "; ".join(differences(mine, method))
        raise UsageError("E617", f"{name} cannot bound the others: it {text}", fix="let the variant of that name be made by --bounds")


def _scanner(plan: Plan, name: str) -> str:
    """What shapes the images of a twin: of real studies it is in the images already."""
    return repr(replace(plan.scanners[name], speed=1.0)) if plan.catalogue.synthetic else ""


def _key(sample: Sample) -> str:
    return f"{sample.file} {sample.index} {sample.label} {sample.patient}"


def _trunk(detector: DetectorSpec | None) -> tuple[object, ...]:
    """What the first values of a detector come from, beside its classes and the seed."""
    if detector is None:
        return ()
    return detector.backbone, _content(detector.weights), detector.channels, detector.hidden


def _begun(scenario: Scenario) -> str:
    """What the first parameters are made of: the source task, its seed and what is taken of it, or the content of the weights."""
    if scenario.source is None:
        return _content(scenario.network.weights)
    return f"{_digest([resolved(source_of(scenario))])} {scenario.source.model} {scenario.source.head}"


def _content(weights: str | None) -> str:
    """Digest of a weights file; its name where it is one of torchvision's."""
    if weights is None or not weights.endswith(".safetensors"):
        return weights or ""
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(parts: Iterable[object]) -> str:
    whole = hashlib.blake2b(digest_size=12)
    for part in parts:
        whole.update(f"{part}\n".encode())
    return whole.hexdigest()
