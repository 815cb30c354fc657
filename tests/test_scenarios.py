"""Every shipped scenario is valid, and every one whose data are here compiles."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from p2pftl.errors import DataError, ScenarioError
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan

ROOT = Path(__file__).parents[1]
SCENARIOS = sorted((ROOT / "scenarios").rglob("*.yaml"))
FAR = {"E101", "E127", "E301"}


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_shipped_scenario_is_valid_and_compiles_into_a_plan(path: Path) -> None:
    try:
        plan = compile_plan(load(path))
    except (ScenarioError, DataError) as error:
        if path.stem.startswith("real-") and error.code in FAR:
            pytest.skip(f"{path.name} needs data that are not here ({error.code})")
        raise
    facts = plan.facts()
    assert math.isfinite(facts["predicted"]["virtual_seconds"])
    assert set(facts["twins"]) == set(plan.topology.names)
    for shard in plan.shards.values():
        train, validation, test = ({sample.patient for sample in part} for part in (shard.train, shard.validation, shard.test))
        assert not train & validation
        assert not (train | validation) & test


@pytest.mark.parametrize("variant", ["local", "fedavg"])
def test_the_night_shift_has_its_baselines(variant: str) -> None:
    scenario = load(ROOT / "scenarios" / "night-shift.yaml", variant=variant)
    assert scenario.name == f"night-shift-{variant}"
    assert (scenario.cloud is None) == (variant == "local")


def test_the_quickstart_is_the_run_the_readme_tells_of() -> None:
    plan = compile_plan(load(ROOT / "scenarios" / "quickstart.yaml"))
    kinds = {(row["kind"], row["twins"][0]) for row in plan.world.timeline()}
    assert len(plan.topology.names) == 8
    assert plan.scenario.control
    assert {("outage", "cloud"), ("outage", "ct-05"), ("slow_link", "ct-01")} <= kinds
