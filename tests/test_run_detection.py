"""A detector under gossip: one tiny run from scenario to report, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.errors import P2pftlError
from p2pftl.imaging.previews import FOUND, THERE
from p2pftl.scenario.load import load

SCENARIO = """
name: finding
seed: 1
rounds: 1
topology: {use: ring, twins: 2}
data: {use: phantom_boxes, task: nodule, patients: 8, slices: 1, size: 64, test: 0.3, validation: 0.3}
detector: {channels: 8, hidden: 16, proposals: 16, sampled: 8}
fit: {optimizer: adam, lr: 0.001, batch: 2}
device: {}
"""
Run = Callable[[str], Path]


@pytest.fixture
def run(tmp_path: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("P2PFTL_CACHE", str(phantoms))

    def finished(name: str) -> Path:
        file = tmp_path / "finding.yaml"
        file.write_text(SCENARIO)
        result = CliRunner().invoke(app, ["run", str(file), "--executor", "local", "--out", str(tmp_path / name), "-q"])
        assert result.exit_code == 0, result.output
        assert "mean synthetic test mAP@0.5 0." in result.output
        return tmp_path / name

    return finished


def test_a_detector_learns_under_gossip_the_same_each_time_and_its_report_shows_what_it_found(run: Run) -> None:
    first = run("first")
    found = json.loads((first / "summary.json").read_text())
    assert (found["status"], found["metric"]) == ("done", "map_50")
    assert found["bytes_sent"] > 0
    for twin in found["twins"].values():
        assert all(0 <= twin["test"][key] <= 1 for key in ("map", "map_50", "map_70", "map_strict", "recall", "accuracy"))
        assert "loss" not in twin["test"]
        assert twin["device"]["lifecycle"] == "active"
    assert found["mean"]["map_50"] is not None
    page = (first / "report.html").read_text()
    assert "mean test mAP@0.5" in page
    assert "to find nodule" in page
    assert "Scanner and detector, side by side" in page
    for name in ("ct-01", "ct-02"):
        assert found["twins"][name]["device"]["flag"] is None
        line = page.partition("Scanner and detector, side by side")[2].partition(f">{name}</a>")[2].partition("</tr>")[0]
        assert "SIEMENS" in line
        assert f"{found['twins'][name]['test']['map_50']:.3f}" in line
        assert "none" in line
    assert "validation mAP@0.5" in page.lower() or "Too few rounds" in page
    for name in ("ct-01", "ct-02"):
        colours = {tuple(pixel) for pixel in np.asarray(Image.open(first / "previews" / f"{name}.png")).reshape(-1, 3).tolist()}
        assert THERE in colours
        assert FOUND not in colours
        assert (first / "previews" / f"{name}-found.png").is_file()
    again = json.loads((run("again") / "summary.json").read_text())
    assert again["digest"] == found["digest"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("detector=null", "phantom_boxes has boxes, and nothing looks for them"),
        ("data={use: phantom}", "it learns from boxes, and data: phantom has none"),
        ("arrivals={}", "nobody draws boxes"),
        ("features={spill: true}", "what a detector's layers made"),
        ("compute={together: true}", "one by one"),
        ("compute={precision: bf16}", "32 bits"),
        ("compute={device: cuda}", "on the processor"),
        ("model={adapters: 8}", "a backbone of its own"),
        ("model={backbone: resnet18}", "a backbone of its own"),
        ("knowledge={use: mutual}", "teaches classifiers"),
        ("cloud={use: ifca}", "the losses of classifiers"),
        ("fit={views: 2}", "moved anew"),
    ],
)
def test_what_is_built_for_classifiers_is_refused_beside_a_detector(change: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "finding.yaml"
    file.write_text(SCENARIO)
    with pytest.raises(P2pftlError) as caught:
        load(file, (change,))
    assert caught.value.code == "E128"
    assert problem in caught.value.problem


def test_weights_of_a_detector_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    file = tmp_path / "finding.yaml"
    file.write_text(SCENARIO)
    with pytest.raises(P2pftlError) as caught:
        load(file, ("detector.weights=resnet.pt",))
    assert caught.value.code == "E127"


def test_features_that_are_switched_off_are_no_contradiction(tmp_path: Path) -> None:
    file = tmp_path / "finding.yaml"
    file.write_text(SCENARIO)
    assert load(file, ("features={cache: false}",)).detector is not None
