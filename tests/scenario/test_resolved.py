"""What the run folder keeps is the same scenario."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from p2pftl.errors import ScenarioError
from p2pftl.scenario.load import load
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import Scenario
from tests.scenario.conftest import Write

RICH = {
    "topology": "{use: clusters, hospitals: 4, clusters: 2, bridges: 2}",
    "model": "{backbone: squeezenet1_1, weights: IMAGENET1K_V1}",
    "fit": "{optimizer: adam, lr: 1e-5, steps: 7, reset_optimizer: false}",
    "transfer": "{use: fedprox, mu: 0.1}",
    "aggregator": "age_weighted",
    "codec": "half",
    "partners": "{use: random, k: 2}",
    "pace": "{use: asynchronous, bound: 3}",
    "cloud": "{use: fedavg, every: 5, links: {latency: 1}}",
    "links": "{latency: 0.2, bandwidth: 5e7, jitter: 0.05, loss: 0.01}",
    "twins": "{ct-03: {vendor: GE, kernel: bone, speed: 0.4}}",
    "incidents": "[{kind: outage, twin: cloud, at: 1, until: 2}, {kind: partition, groups: [[ct-01, ct-02], [ct-03]], at: 1},"
    " {kind: hu_drift, twin: ct-07, at: 3, rate: -0.5}, {kind: crash, twin: ct-01, at: 1e1},"
    " {kind: ring, twin: ct-02, day: 3, until_day: 4.5, hu: 2}, {kind: software_upgrade, twin: ct-02, day: 7, kernel: bone},"
    " {kind: case_mix_shift, twin: ct-02, at: 5, labels: {ggo: 0.9, '0': 0.1}}]",
    "device": "{day_s: 60, history: 30, measure: image, quarantine: false, protocol: {size: 256}, qa: {limits: {mean_hu: 4}, repeats: 2},"
    " workload: {exams: 5, kvp: [120]}, ageing: {repair_h: [1, 3]}, wear: {eta_s: 1e6}}",
    "arrivals": "{rate: 60, start: 0.25, keep: 2}",
    "evaluate": "{every: 2}",
    "control": "true",
    "previews": "false",
    "answers": "true",
    "twins_per_actor": "auto",
    "variants": "{a: {partners: none, name: 'no'}, b: {cloud: null}}",
    "seeds": "[1, 2, 3]",
}


def again(scenario: Scenario, folder: Path) -> Scenario:
    path = folder / "again.yaml"
    path.write_text(resolved(scenario))
    return load(path)


def test_a_rich_scenario_is_read_back_equal(write: Write, tmp_path: Path) -> None:
    scenario = load(write(**RICH))
    assert again(scenario, tmp_path) == scenario


def test_a_bare_scenario_is_read_back_equal_and_spells_everything_out(write: Write, tmp_path: Path) -> None:
    scenario = load(write())
    text = resolved(scenario)
    assert again(scenario, tmp_path) == scenario
    assert "use: metropolis" in text
    assert "deadline: 60.0" in text
    assert resolved(again(scenario, tmp_path)) == text


def test_a_chosen_seed_is_kept(write: Write, tmp_path: Path) -> None:
    scenario = load(write(seed=None))
    kept = again(scenario, tmp_path)
    assert (kept, kept.seed, kept.seed_chosen) == (scenario, scenario.seed, False)


def test_paths_still_hold_in_another_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    scenario = load(write(model="{weights: w.safetensors}", data="{use: images, path: ct, manifest: ct/m.csv}"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert again(scenario, elsewhere) == scenario


@pytest.mark.parametrize("name", ["no", "010", "1e5", "1.0", "null", "0x1f", "1-2"])
def test_names_that_look_like_something_else_survive(write: Write, tmp_path: Path, name: str) -> None:
    scenario = load(write(name=f"'{name}'"))
    assert again(scenario, tmp_path).name == name


def test_a_scenario_travels_by_pickle(write: Write) -> None:
    scenario = load(write(**RICH))
    assert pickle.loads(pickle.dumps(scenario)) == scenario


def test_a_policy_nobody_registered_cannot_be_written(write: Write) -> None:
    with pytest.raises(ScenarioError, match=r"E126 .*not registered for codec"):
        resolved(replace(load(write()), codec=object()))
