"""The universal model as a user meets it: stage 0, private heads, a cloud that fuses encoders, a domain left out, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from p2pftl.agenda import Parcel
from p2pftl.cli import app
from p2pftl.cloud.universal import UniversalFusion
from p2pftl.errors import P2pftlError
from p2pftl.gossip.frames import HEADER_CAP
from p2pftl.params import Vector
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.world.topology import CLOUD
from tests.learning.universal.shapes import stripes
from tests.toys import Wire

NAMES = ("four", "three", "two")
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write stripes in two, three and four directions, and a scenario over them."""
    for place, (name, classes) in enumerate({"two": 2, "three": 3, "four": 4, "cloud": 2}.items()):
        cohort = stripes(24 if name == "cloud" else 40, classes, size=32, seed=place)
        labels = cohort.labels if name != "cloud" else np.arange(24) % 2
        np.savez(tmp_path / f"{name}.npz", train_images=cohort.pixels, train_labels=labels)

    def written(name: str = "encoders", **changes: Any) -> Path:
        held = {one: {"use": "npz", "path": str(tmp_path / f"{one}.npz"), "size": 32} for one in ("two", "three", "four", "cloud")}
        content = {
            "name": name, "seed": 1, "rounds": 2, "topology": {"use": "complete", "names": list(NAMES)},
            "data": {"use": "domains", "size": 32, "test": 0.3, "domains": {one: held[one] for one in NAMES}},
            "universal": {"width": 8}, "transfer": "fedper", "partners": "none",
            "fit": {"optimizer": "adam", "lr": 2e-3, "batch": 8, "epochs": 1},
            "cloud": {"use": "universal", "steps": 3, "batch": 8, "images": held["cloud"]},
        }  # fmt: skip
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return written


def ran(file: Path, *more: str) -> dict[str, Any]:
    out = file.parent / "out" / "-".join([file.stem, *(one.replace("/", "_") for one in more if "=" in one)])
    result = CliRunner().invoke(app, ["run", str(file), "--executor", "local", "--out", str(out), "-q", *more])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    assert found["status"] == "done"
    return found


def tapped(file: Path, *changes: str) -> tuple[Any, list[Parcel], dict[str, Vector]]:
    plan = compile_plan(load(file, changes)).prepared(lambda done, of: None)
    swarm = Wire()
    first = swarm.start(plan.recruiter(None), plan.packing(1).crews, Vault(file.parent / "state"))
    for _ in Conductor(plan.world, swarm, first):
        pass
    return plan, swarm.frames, {name: swarm.vector(name) for name in plan.topology.names}


def test_stage_by_stage_from_masked_images_to_a_universal_encoder(make: Make) -> None:
    make("stage-0", universal=None, cloud=None, transfer=None, partners=None, masked={"width": 8})
    found = ran(make(source={"scenario": "stage-0.yaml", "overlap": True}))
    assert found["metric"] == "probe"
    assert set(found["twins"]) == set(NAMES)
    for name, classes in (("two", 2), ("three", 3), ("four", 4)):
        test = found["twins"][name]["test"]
        assert len(test["confusion"]) == len(test["confusion"][0]) == classes
        assert all(0 <= test[key] <= 1 for key in ("probe", "probe_start", "accuracy", "balanced_accuracy"))
    out = next((make().parent / "out").iterdir())
    first = json.loads((out / "source" / "summary.json").read_text())
    assert first["metric"] == "gain"
    assert all("confusion" not in twin["test"] and "probe" in twin["test"] for twin in first["twins"].values())
    report = (out / "report.html").read_text()
    assert "Each twin on its own test images and classes" in report
    assert "all 3 twins together" not in report
    kept = load_file(out / "models" / "two.safetensors")
    assert not any(name.startswith("decoder") for name in kept)


def test_what_travels_is_the_encoder_and_nothing_of_heads_or_images(make: Make) -> None:
    plan, frames, vectors = tapped(make())
    encoder = plan.layout.ranges(plan.layout.of_groups(plan.layout.depth - 1))[0][0]
    assert {frame.sender for frame in frames} == {CLOUD, *NAMES}
    assert all(frame.payload is not None and frame.payload.nbytes == 4 * encoder for frame in frames)
    assert all(len(frame.head) < HEADER_CAP for frame in frames)
    heads = {name: vector[encoder:].tobytes() for name, vector in vectors.items()}
    assert len(set(heads.values())) == len(NAMES)
    assert not any(head in bytes(frame.payload) for frame in frames for head in heads.values())  # type: ignore[arg-type]
    recruiter = plan.recruiter(None)
    pixels = [recruiter.source.read(shard.train[:1]).pixels[0] for shard in plan.shards.values()]
    wanted = [form for one in pixels for form in (one[8:16].tobytes(), (one[8:16].astype(np.float32) / 255).tobytes())]
    assert not any(form in bytes(frame.payload) + frame.head for frame in frames for form in wanted)  # type: ignore[arg-type]


def test_the_cloud_looks_at_no_label(make: Make, tmp_path: Path) -> None:
    file = make()
    found = [vector.tobytes() for vector in tapped(file)[2].values()]
    with np.load(tmp_path / "cloud.npz") as content:
        np.savez(tmp_path / "cloud.npz", train_images=content["train_images"], train_labels=content["train_labels"][::-1] * 1)
    assert [vector.tobytes() for vector in tapped(file)[2].values()] == found


def test_the_cloud_is_given_no_image_of_a_twin(make: Make, tmp_path: Path) -> None:
    file = make(cloud={"use": "universal", "images": {"use": "npz", "path": str(tmp_path / "two.npz"), "size": 32}})
    with pytest.raises(P2pftlError, match="a twin's"):
        compile_plan(load(file)).prepared(lambda done, of: None)


@pytest.mark.parametrize("changes", [(), ("cloud=null", "partners=all")])
def test_a_domain_that_is_left_out_is_told_the_encoder_and_tells_nothing(make: Make, tmp_path: Path, changes: tuple[str, ...]) -> None:
    file, out = make(), "data.left_out=three"
    plan, frames, vectors = tapped(file, out, *changes)
    assert all(frame.payload is not None and frame.payload.nbytes == 0 for frame in frames if frame.sender == "three")
    encoder = plan.layout.ranges(plan.layout.of_groups(plan.layout.depth - 1))[0][0]
    if not changes:
        assert np.array_equal(vectors["three"][:encoder], vectors["two"][:encoder])
    with np.load(tmp_path / "three.npz") as content:
        np.savez(tmp_path / "three.npz", train_images=255 - content["train_images"], train_labels=content["train_labels"])
    again = tapped(file, out, *changes)[2]
    assert {name: vector.tobytes() for name, vector in again.items()} == {name: vector.tobytes() for name, vector in vectors.items()}


def test_left_out_here_is_left_out_of_stage_0_too(make: Make) -> None:
    make("stage-0", universal=None, cloud=None, transfer=None, partners=None, masked={"width": 8}, pooled=True)
    found = ran(make(source={"scenario": "stage-0.yaml", "overlap": True}), "--set", "data.left_out=three")
    out = next((make().parent / "out").iterdir())
    assert "left_out: three" in (out / "source" / "scenario.yaml").read_text()
    test = found["twins"]["three"]["test"]
    assert test["accuracy"] is None
    assert 0 <= test["probe"] <= 1


def test_a_scenario_with_domains_is_written_out_and_read_back(make: Make, tmp_path: Path) -> None:
    scenario = load(make())
    again = tmp_path / "again.yaml"
    again.write_text(resolved(scenario))
    assert load(again) == scenario
    assert isinstance(scenario.cloud.coordinator, UniversalFusion) if scenario.cloud else False
    assert "samples" not in resolved(scenario)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"transfer": "full"}, "fedper"),
    ({"universal": None, "cloud": None}, "universal: {}"),
    ({"universal": None, "masked": {}, "transfer": None}, "universal"),
    ({"masked": {}}, "keep one"),
    ({"pooled": True}, "heads of all"),
    ({"model": {"backbone": "resnet18"}}, "leave `model` out"),
    ({"device": {}}, "leave it out"),
    ({"arrivals": {}}, "leave it out"),
    ({"knowledge": {"use": "mutual"}}, "leave it out"),
    ({"answers": True}, "leave it out"),
    ({"universal": {"width": 8, "weights": "nowhere.safetensors"}}, "no such file"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[next(iter(changes)) + str(at) for at, (changes, _) in enumerate(WRONG)])
def test_what_does_not_go_together_is_refused(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(P2pftlError) as caught:
        load(make(**changes))
    assert caught.value.code in ("E127", "E128")
    assert said in str(caught.value)


@pytest.mark.parametrize("changes", [("cloud=fedavg",), ("cloud=null", "partners=all", "aggregator=push_sum")])
def test_a_domain_is_left_out_only_where_that_can_be_done(make: Make, changes: tuple[str, ...]) -> None:
    with pytest.raises(P2pftlError, match="left out"):
        load(make(), ["data.left_out=two", *changes])
