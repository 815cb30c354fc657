"""What makes two variants unequal is found and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2pftl.compare.footing import Footing, differences, footing
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan

TEXT = """
name: four
seed: 4
rounds: 3
topology: {use: ring, twins: 4}
data: {use: phantom, patients: 60, split: {use: dirichlet, alpha: 0.7}}
"""


def at(folder: Path, *changes: str) -> Footing:
    file = folder / "four.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return footing(compile_plan(load(file, changes)))


@pytest.mark.parametrize(
    "changes",
    [
        ["partners=none"], ["cloud={use: fedavg, every: 1}"], ["topology.use=complete"], ["transfer={use: fedprox, mu: 0.1}"],
        ["links.loss=0.2"], ["aggregator=age_weighted"], ["fit.lr=0.2"], ["twins={ct-01: {speed: 0.1}}"],
    ],
)  # fmt: skip
def test_methods_that_differ_in_exchange_alone_stand_on_the_same_footing(tmp_path: Path, changes: Sequence[str]) -> None:
    assert differences(at(tmp_path, *changes), at(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["rounds=5"], ["does 5 rounds instead of 3"]),
        (["fit.epochs=2"], ["has fit.epochs 2, fit.batch 16 instead of fit.epochs 1, fit.batch 16"]),
        (["model.backbone=resnet18"], ["starts from other parameters"]),
        (["data.split.alpha=0.5"], ["learns from other studies"]),
        (["data.patients=64"], ["is tested on other images", "learns from other studies"]),
        (["twins={ct-01: {dose: 0.5}}"], ["is tested on other images", "learns from other studies"]),
        (["seed=5"], ["starts from other parameters", "is tested on other images", "learns from other studies"]),
    ],
)
def test_what_differs_is_named(tmp_path: Path, changes: Sequence[str], said: Sequence[str]) -> None:
    assert differences(at(tmp_path, *changes), at(tmp_path)) == list(said)


def test_a_weights_file_counts_by_its_content(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        save_file({"w": np.full(3, value, np.float32)}, tmp_path / f"{name}.safetensors")
    file = tmp_path / "four.yaml"
    file.write_text(TEXT, encoding="utf-8")
    plan = compile_plan(load(file))

    def start(name: str) -> str:
        model = replace(plan.scenario.model, weights=str(tmp_path / f"{name}.safetensors"))
        return footing(replace(plan, scenario=replace(plan.scenario, model=model))).start

    assert start("a") == start("b") != start("c")
    assert start("a") != footing(plan).start
