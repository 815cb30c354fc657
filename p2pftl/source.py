"""Two stages: what a source task comes to, and the file of weights from which the scenario that named it starts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from p2pftl.errors import P2pftlError, ScenarioError, UsageError, nearest
from p2pftl.folder import MODELS, SCENARIO, START
from p2pftl.imaging.cohort import Sample
from p2pftl.learning.specs import ModelSpec
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.observe import summary
from p2pftl.params import Vector
from p2pftl.scenario.load import source_of
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import Scenario
from p2pftl.scenario.source import MEAN, SourceTask

DRAWN = "phantom:"  # how samples begin that are drawn from the seed and the patient's key


@dataclass(frozen=True)
class Stage:
    """The source task of the plan `target`, itself planned."""

    target: Plan
    plan: Plan

    @classmethod
    def of(cls, target: Plan) -> Stage:
        """Plan it. Raises ScenarioError E120, E128, E136 and what `compile_plan` raises."""
        stage = cls(target, compile_plan(source_of(target.scenario)))
        stage._check()
        return stage

    @property
    def task(self) -> SourceTask:
        assert self.target.scenario.source is not None
        return self.target.scenario.source

    @property
    def scenario(self) -> Scenario:
        return (self.plan.apart or self.plan).scenario  # as it is written, pooled or not

    def facts(self) -> dict[str, Any]:
        """What a person should know of it before it is run: its predicted cost is that of `Plan.facts`."""
        data, predicted = self.plan.catalogue, self.plan.predicted()
        return {
            "name": self.scenario.name, "seed": self.scenario.seed, "rounds": self.scenario.rounds, "twins": len(self.plan.topology.names),
            "model": self.task.model, "head": self.task.head, "overlap": self.task.overlap, "synthetic": data.synthetic,
            "classes": list(data.classes), "images": len(data.samples), "bytes": predicted["bytes"],
            "virtual_seconds": predicted["virtual_seconds"],
        }  # fmt: skip

    def blamed(self, error: P2pftlError) -> P2pftlError:
        """`error` of the source's run, saying so."""
        return type(error)(error.code, f"source task {self.scenario.name}: {error.problem}", where=error.where, fix=error.fix)

    def started(self, folder: Path) -> Plan:
        """Return the target's plan, starting where the run of the source in `folder` ended: its weights are written there.

        Raises UsageError E619 if that run is not whole or of another scenario, ScenarioError E127 if its model lacks what the
        target needs, UsageError E510 when the weights cannot be written.
        """
        came = finished(folder, self.scenario)
        file = self._weights(folder)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:32]
        lead = str(came.get("metric") or "accuracy")
        found = {"digest": came["digest"], "content": digest, "metric": lead, "value": came["mean"].get(lead)}
        return self.target.starting(self._first(str(file.absolute())), self.facts() | found)

    def _first(self, weights: str) -> ModelSpec | UniversalSpec | MaskedSpec:
        network = self.target.scenario.network
        if isinstance(network, UniversalSpec | MaskedSpec):
            return replace(network, weights=weights)
        return replace(self.target.scenario.model, weights=weights, head=self.task.head)

    def _check(self) -> None:
        names = self.plan.topology.names
        if self.task.model != MEAN and self.task.model not in names:
            fix = nearest(self.task.model, (*names, MEAN))
            raise ScenarioError("E120", f"source.model: {self.task.model} is no twin of {self.scenario.name}", fix=fix)
        mine, other = self.target.catalogue.classes, self.plan.catalogue.classes
        if self.task.head and mine != other:
            problem = f"source.head: {self.scenario.name} tells apart {', '.join(other)}, this scenario {', '.join(mine)}"
            raise ScenarioError("E128", problem, fix="leave source.head out: the body alone is taken")
        shared = len(_studies(self.target, only_test=self.task.overlap) & _studies(self.plan, but_test=self.task.overlap))
        if shared and not self.task.overlap:
            problem = f"the source task {self.scenario.name} has {shared} studies of this scenario, so images it is tested on may be known"
            raise ScenarioError("E136", problem, fix="use other data, or `overlap: true`, which lets it see training studies alone")
        if shared:
            problem = f"the source task {self.scenario.name} trains on {shared} studies that this scenario is tested on"
            raise ScenarioError("E136", problem, fix="give both the same data, twins apart, and the same share `test`")

    def _weights(self, folder: Path) -> Path:
        """Write what the target takes of the source's model, under a name that says which; several runs may do so at once."""
        wanted = self._wanted()
        file = folder / START / f"{self.task.model}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}.safetensors"
        if file.is_file():
            return file
        found = _model(folder / MODELS, self.task.model)
        if missing := [name for name in wanted if name not in found]:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            problem = f"the model of the source task {self.scenario.name} lacks {', '.join(missing[:3])}{more}"
            raise ScenarioError("E127", problem, fix="give both the same backbone")
        from safetensors.numpy import save_file

        partial = file.with_name(f"{file.name}.tmp.{os.getpid()}")
        try:
            file.parent.mkdir(exist_ok=True)
            save_file({name: found[name] for name in wanted}, partial)
            partial.replace(file)
        except OSError as error:
            raise UsageError("E510", f"cannot be written (errno {error.errno})", where=str(file), fix="free some space") from error
        return file

    def _wanted(self) -> list[str]:
        """Names of the entries that the target starts from: its body, and its head if that is asked for."""
        if isinstance(self.target.scenario.network, UniversalSpec | MaskedSpec):  # an encoder, and what restores images if it is there
            return [name for name in self.plan.layout.names if not name.startswith("head.")]
        from p2pftl.learning.models import layout_of
        from p2pftl.learning.transfer import adapters_in

        layout = layout_of(self.target.scenario.model, len(self.target.catalogue.classes))
        fresh = set(adapters_in(layout)) | (set() if self.task.head else set(layout.of_groups(layout.depth - 1)))
        return [name for name in layout.names if name not in fresh]


def finished(folder: Path, scenario: Scenario) -> Mapping[str, Any]:
    """Return the summary of the run of `scenario` in `folder`. Raises UsageError E619 where there is none that is simply done."""
    again = "run it again, or leave source.folder out: then it is run first"
    try:
        text = (folder / SCENARIO).read_text(encoding="utf-8")
        found = json.loads((folder / summary.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError("E619", "holds no run of the source task that came to an end", where=str(folder), fix=again) from None
    if text != resolved(scenario):
        raise UsageError("E619", f"holds a run of another scenario than {scenario.name} with this seed", where=str(folder), fix=again)
    if not isinstance(found, dict) or found.get("status") != "done":
        raise UsageError("E619", "the run of the source task was not simply done", where=str(folder), fix=f"see its report; {again}")
    return found


def _model(folder: Path, model: str) -> Mapping[str, Vector]:
    """The final model of one twin, or the mean over the twins that were there at the end, in float64, of what all of them have alike.

    Raises UsageError E619.
    """
    from safetensors.numpy import load_file

    if model != MEAN:
        file = folder / f"{model}.safetensors"
        if not file.is_file():
            raise UsageError("E619", f"twin {model} was gone before the end", where=str(folder), fix="take source.model: mean")
        alone: dict[str, Vector] = load_file(file)
        return alone
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError("E619", "no twin of the source task left a model", where=str(folder))
    sums = {name: np.zeros(tensor.shape) for name, tensor in load_file(files[0]).items()}
    for file in files:
        found: dict[str, Vector] = load_file(file)
        sums = {name: total + found[name] for name, total in sums.items() if name in found and found[name].shape == total.shape}
    return {name: (total / len(files)).astype(np.float32) for name, total in sums.items()}


def _studies(plan: Plan, *, only_test: bool = False, but_test: bool = False) -> set[tuple[object, ...]]:
    """What tells a study from all others: file and place in it (an archive counts each part anew); where patients are drawn, the
    seed and the patient's key."""
    shards = list((plan.apart or plan).shards.values())
    samples: set[Sample] = {sample for shard in shards for sample in shard.test} if not but_test else set()
    if not only_test:
        samples.update(sample for shard in shards for sample in (*shard.train, *shard.validation))
    seed = plan.scenario.seed
    return {(seed, one.patient) if one.file.startswith(DRAWN) else one.place for one in samples}
