"""The source task of transfer learning: another scenario that is run first, from whose model this one starts. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from p2pftl.draw import number
from p2pftl.imaging.domains import Domains

if TYPE_CHECKING:
    from p2pftl.scenario.schema import Scenario

MEAN = "mean"


@dataclass(frozen=True)
class SourceTask:
    """The first stage of a transfer in two stages (ALGORITHMS.md §4, two-stage).

    scenario: file of the scenario that is run first; model: of its final models the mean over its twins, or the one of the twin
    named; head: begin with its head as well, where the classes are the same; overlap: it may train on studies that this scenario
    trains on, never on those this one is tested on, and has the same seed; folder: of a run of it that is done already.
    """

    scenario: str
    model: str = MEAN
    head: bool = False
    overlap: bool = False
    folder: str | None = None


def as_source(found: Scenario, target: Scenario) -> Scenario:
    """Return the scenario `found` as it is run first for `target`: alone, with all models kept, and with a seed of its own.

    The seed follows from the target's and is another one: phantoms are drawn from it, and would be the same patients. With
    `overlap` it is the target's, so that the same studies are dealt alike and the same are held out. A domain that the target leaves
    out is left out of it too.
    """
    assert target.source is not None
    seed = target.seed if target.source.overlap else number(target.seed, "source")
    mine, theirs = found.data.source, target.data.source
    if isinstance(mine, Domains) and isinstance(theirs, Domains) and theirs.left_out in mine.domains:
        found = replace(found, data=replace(found.data, source=replace(mine, left_out=theirs.left_out)))
    return replace(found, seed=seed, seed_chosen=False, control=False, models="all", variants={}, seeds=())


def disagreements(source: Scenario, target: Scenario) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield what keeps `target` from starting where `source` ends: the key to blame, the problem, and what mends it."""
    at = ("source", "scenario")
    if source.source is not None:
        yield at, f"{source.name} has a source task itself", "one level is the limit: start its own source from `model.weights`"
    if target.detector is not None or source.detector is not None:
        yield ("source",), "a detector has weights of its own and starts from no classifier", "give its backbone `detector.weights`"
    elif source.network.backbone != target.network.backbone:
        problem = f"{source.name} has the backbone {source.network.backbone}, this scenario {target.network.backbone}"
        yield at, problem, "give both the same backbone"
    if target.source is not None and target.source.head and (target.universal or target.masked):
        yield ("source", "head"), "an encoder is what is taken, and heads are private", "leave it out"
    for key in ("model", "universal", "masked"):
        if getattr(getattr(target, key), "weights", None) is not None:
            fix = f"keep one: `source: null`, or `{key}: {{weights: null}}`"
            yield (key, "weights"), "the first weights come from the source task", fix
