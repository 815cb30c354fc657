"""What-if in a run: the final model on slices scanned anew, and why not where that cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.device.life import Device
from p2pftl.device.show import SUFFIX
from p2pftl.errors import CheckpointError, P2pftlError, ScenarioError
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.models import Model
from p2pftl.learning.specs import ModelSpec
from p2pftl.observe.logbook import DeviceLogs
from p2pftl.rescan import rescan
from tests.observe.devices import lived

NOW = Scanner()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two twins with a model each: the first one of its seed, which was not trained."""
    folder = tmp_path_factory.mktemp("run")
    cache = tmp_path_factory.mktemp("cache")
    (folder / "scenario.yaml").write_text(
        "name: small\nrounds: 2\nseed: 3\ntopology: {use: ring, twins: 2}\ndevice: {day_s: 2}\n"
        f"data: {{use: phantom, patients: 12, slices: 1, validation: 0.5, cache: '{cache}'}}\n"
    )
    logs = DeviceLogs(folder / "twins")
    for event in lived("ct-01", [], 4.0):
        logs(event)
    model = Model(ModelSpec(), 2, 3)
    (folder / "models").mkdir()
    save_file(model.layout.tensors(model.take()), folder / "models" / "ct-01.safetensors")
    return folder


def test_the_same_protocol_gives_the_same_figures_and_another_one_other_images(run: Path) -> None:
    same = rescan(run, "ct-01", NOW, NOW)
    assert same.now == same.then
    assert same.images >= 2
    assert sum(map(sum, same.now["confusion"])) == same.images
    other = rescan(run, "ct-01", NOW, replace(NOW, dose=0.05, kernel="bone"))
    assert other.now == same.now
    assert other.then["loss"] != same.now["loss"]


def test_the_model_that_is_scored_is_the_one_that_was_kept(run: Path, tmp_path: Path) -> None:
    """A model whose head always answers class 1 has the share of class 1 as its accuracy, however the slices look."""
    (tmp_path / "scenario.yaml").write_text((run / "scenario.yaml").read_text())
    (tmp_path / "models").mkdir()
    model = Model(ModelSpec(), 2, 3)
    tensors = model.layout.tensors(model.take())
    head = [name for name, group in zip(model.layout.names, model.layout.groups, strict=True) if group == model.layout.depth - 1]
    for name in head:
        tensors[name] = np.zeros_like(tensors[name]) if tensors[name].ndim > 1 else np.array([-9.0, 9.0], np.float32)
    save_file({name: tensors[name] for name in head}, tmp_path / "models" / "ct-01.safetensors")
    found = rescan(tmp_path, "ct-01", NOW, replace(NOW, dose=0.1))
    for score in (found.now, found.then):
        assert score["accuracy"] == pytest.approx(sum(score["confusion"][1]) / found.images)
        assert [row[0] for row in score["confusion"]] == [0, 0]


def test_a_run_answers_with_its_models_metrics_and_touches_no_log(run: Path) -> None:
    log = run / "twins" / f"ct-01{SUFFIX}"
    before = log.read_bytes()
    result = CliRunner().invoke(app, ["twin", "whatif", str(run), "ct-01", "--dose", "0.25"])
    assert result.exit_code == 0, result.output
    assert re.search(r"final model, \d+ synthetic validation slices? scanned anew", result.stdout)
    assert re.search(r"^accuracy +[01]\.\d{3} +[01]\.\d{3} +[+-]0\.\d{3}$", result.stdout, flags=re.M)
    assert log.read_bytes() == before


def test_where_there_is_no_model_or_nothing_to_scan_it_says_why(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"E118.*no model of ct-02"):
        rescan(run, "ct-02", NOW, NOW)
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((32, 32), 10 * number, np.uint8)).save(tmp_path / "images" / label / f"{number}.png")
    (tmp_path / "scenario.yaml").write_text(
        "rounds: 1\nseed: 1\ntopology: {use: ring, twins: 2}\ndata: {use: images, path: images, size: 32}\n"
    )
    with pytest.raises(P2pftlError, match=r"E118.*images images were acquired already"):
        rescan(tmp_path, "ct-01", NOW, NOW)
    device = Device.new("ct-01", seed=1)
    device.live()
    (tmp_path / f"ct-01{SUFFIX}").write_bytes(device.log.lines())
    said = CliRunner().invoke(app, ["twin", "whatif", str(tmp_path), "ct-01", "--dose", "0.5"])
    assert said.exit_code == 0
    assert "model metrics: none, images images were acquired already" in said.stdout


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_model_that_is_none_is_refused(run: Path, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "scenario.yaml").write_text((run / "scenario.yaml").read_text())
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "ct-01.safetensors"
    if content is None:
        save_file({"somewhere.else": np.zeros(3, np.float32)}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match="E502"):
        rescan(tmp_path, "ct-01", NOW, NOW)
