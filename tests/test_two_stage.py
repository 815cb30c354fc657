"""A source task is run first, and every twin starts from its model: `source:` from the scenario to the report."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from p2pftl.compare.cells import grid, variants
from p2pftl.draw import draw, number
from p2pftl.errors import P2pftlError, ScenarioError, UsageError
from p2pftl.learning.models import initial
from p2pftl.learning.specs import ModelSpec
from p2pftl.scenario.load import load, source_of
from p2pftl.scenario.plan import compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.source import Stage
from tests.runs import ROOT, Ran, Watched, finished, here, written
from tests.test_cli import plain
from tests.test_docs import commands, rows, section


def archive(path: Path, name: str, train: int = 24, test: int = 8, classes: int = 2) -> Path:
    labels = {part: np.arange(count) % classes for part, count in (("train", train), ("val", test), ("test", test))}
    arrays = {f"{part}_labels": label[:, None].astype(np.uint8) for part, label in labels.items()}
    for part, label in labels.items():
        noise = draw(1, name, part).integers(0, 80, (len(label), 28, 28))
        arrays[f"{part}_images"] = (noise + (120 // (classes - 1)) * label[:, None, None]).astype(np.uint8)
    np.savez(path, **arrays)
    return path


def base(folder: Path, name: str, **data: Any) -> dict[str, Any]:
    """A small scenario over an archive of its own."""
    if not (file := folder / f"{name}.npz").exists():
        archive(file, name)
    return {
        "name": name, "rounds": 2, "topology": {"use": "complete", "twins": 3}, "fit": {"lr": 0.05, "batch": 4, "steps": 2},
        "data": {"use": "npz", "path": str(file), "size": 28, **data},
    }  # fmt: skip


def pair(folder: Path, *, stage: dict[str, Any] | None = None, **target: Any) -> Path:
    """Write stage-1.yaml and target.yaml, which starts from it; return the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    written(folder, base(folder, "stage-1"), **(stage or {}))
    return written(folder, {**base(folder, "target"), "seed": 4, "source": {"scenario": "stage-1.yaml"}}, **target)


def refused(path: Path) -> P2pftlError:
    with pytest.raises(P2pftlError) as caught:
        Stage.of(compile_plan(load(path)))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def target(place: Path) -> Path:
    return pair(place)


@pytest.fixture(scope="module")
def ran(place: Path, target: Path) -> Ran:
    return here(target, out=place / "out")


# ---------------------------------------------------------------------- a run


def test_the_source_has_a_run_of_its_own_and_both_say_so(ran: Ran) -> None:
    assert (ran.code, ran.err) == (0, "")
    source = json.loads((ran.folder / "source" / "summary.json").read_text())
    told = ran.summary["source"]
    assert (source["status"], source["name"], source["seed"]) == ("done", "stage-1", number(4, "source"))
    assert (told["digest"], told["value"]) == (source["digest"], source["mean"]["accuracy"])
    assert f"source task: digest {source['digest']}" in ran.out
    assert "source task stage-1" in ran.out.splitlines()[0]
    assert 'href="source/report.html"' in ran.page
    assert "the mean of the models of stage-1" in ran.page
    assert f"scenario: {ran.folder.parent}/stage-1.yaml" in (ran.folder / "scenario.yaml").read_text()


def test_the_page_names_every_key_that_the_summary_has_of_a_source(ran: Ran) -> None:
    (row,) = (row for row in rows(section("docs/summary.md", "summary.json")) if row[0] == "`source`")
    assert set(re.findall(r"`(\w+)`", row[2])) == ran.summary["source"].keys()


def test_every_twin_starts_from_the_mean_body_of_the_source_and_a_new_head(ran: Ran, target: Path) -> None:
    models = [load_file(file) for file in sorted((ran.folder / "source" / "models").iterdir())]
    scenario = load(target)
    file = min((ran.folder / "source" / "start").glob("mean-*.safetensors"))
    layout = compile_plan(scenario).layout
    begun = layout.tensors(initial(ModelSpec(weights=str(file)), 2, scenario.seed))
    fresh = layout.tensors(initial(scenario.model, 2, scenario.seed))
    head = set(layout.of_groups(layout.depth - 1))
    for name in layout.names:
        mean = np.mean([model[name].astype(np.float64) for model in models], axis=0).astype(np.float32)
        np.testing.assert_array_equal(begun[name], fresh[name] if name in head else mean)
    assert len(models) == 3


def test_the_folder_can_be_run_again_and_gives_the_same(ran: Ran, place: Path) -> None:
    again = here(ran.folder / "scenario.yaml", out=place / "again")
    assert (again.digest, again.models) == (ran.digest, ran.models)


def test_a_source_that_is_done_is_not_run_again(ran: Ran, target: Path, place: Path) -> None:
    again = here(target, "--set", f"source.folder={ran.folder / 'source'}", out=place / "reused")
    assert (again.digest, again.models) == (ran.digest, ran.models)
    assert not (again.folder / "source").exists()


def test_an_earlier_run_is_written_over_with_its_source(ran: Ran, target: Path, place: Path) -> None:
    first = here(target, "--set", "source.model=ct-02", "--set", "source.head=true", out=place / "over")
    assert first.digest != ran.digest
    assert here(target, "--force", out=place / "over").digest == ran.digest


def test_with_its_head_a_twin_starts_as_that_twin_ended(target: Path, ran: Ran) -> None:
    changes = ["source.model=ct-02", "source.head=true", f"source.folder={ran.folder / 'source'}"]
    plan = Stage.of(compile_plan(load(target, changes))).started(ran.folder / "source")
    begun = plan.layout.tensors(initial(plan.scenario.model, 2, 4))
    for name, tensor in load_file(ran.folder / "source" / "models" / "ct-02.safetensors").items():
        np.testing.assert_array_equal(begun[name], tensor)


def test_the_plan_says_what_is_run_first(target: Path) -> None:
    from typer.testing import CliRunner

    from p2pftl.cli import app

    said = " ".join(plain(CliRunner().invoke(app, ["plan", str(target)]).stdout).split())
    assert "first the source task stage-1 (3 twins, 40 images of 0, 1, 2 rounds" in said
    assert "weights of the source task" in said


@pytest.mark.ray
def test_ray_gives_the_same_digest_in_both_stages(ran: Ran, target: Path, place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    temporary = Path(tmp_path_factory.mktemp("t"))
    other = finished(target, out=place / "ray", temporary=temporary)
    assert (other.code, other.digest, other.models) == (0, ran.digest, ran.models)
    assert other.summary["source"] == ran.summary["source"]


def test_a_source_that_is_not_simply_done_ends_the_run_with_its_code(place: Path) -> None:
    path = pair(place / "diverges", stage={"fit": {"lr": 100.0, "momentum": 0.99, "batch": 4, "steps": 20}})
    ended = here(path, out=place / "diverges" / "out")
    assert ended.code == 3
    assert "nothing starts from it: the source task was not simply done" in ended.out
    assert not (ended.folder / "events.msgpack").exists()
    assert json.loads((ended.folder / "source" / "summary.json").read_text())["status"] == "degraded"
    assert here(path, "--force", "--set", "source=null", out=ended.folder).code == 0
    assert not (ended.folder / "source").exists()


def test_ctrl_c_in_the_source_ends_all(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = pair(tmp_path, stage={"rounds": 5000})
    temporary = tmp_path_factory.mktemp("t")
    with Watched(path, "--executor", "local", out=tmp_path / "out", temporary=temporary) as run:
        run.until("round 2/5000")
        run.signal(signal.SIGINT)
        assert run.ended() == 128 + signal.SIGINT
        assert "nothing starts from it: the source task was not simply done" in run.said
    assert json.loads((tmp_path / "out" / "source" / "summary.json").read_text())["status"] == "interrupted"
    assert not (tmp_path / "out" / "events.msgpack").exists()


@pytest.mark.parametrize("command", [command for command in commands("docs/two-stage.md") if "quick.yaml" in command])
def test_the_commands_of_the_page_make_plans(command: str) -> None:
    words = shlex.split(command)
    file = ROOT / words[2]
    axes = [words[at + 1] for at, word in enumerate(words) if word == "--grid"]
    found = grid(file, (), axes) if axes else variants(file, ())
    assert len(found) == (24 if axes else 7)
    for row in found[:: max(1, len(found) // 6)]:
        plan = compile_plan(row.scenario)
        if row.scenario.source is not None:
            assert Stage.of(plan).scenario.seed != row.scenario.seed
    budgets = {row.scenario.rounds * row.scenario.fit.epochs for row in found if row.name != "scratch_long"}
    assert budgets == {10}


# ---------------------------------------------------------------------- seeds and studies


def test_the_seed_of_the_source_follows_from_the_targets_and_is_another(target: Path) -> None:
    seeds = {source_of(load(target, [f"seed={seed}"])).seed for seed in (4, 5)}
    assert seeds == {number(4, "source"), number(5, "source")}
    assert source_of(load(target, ["source.overlap=true"])).seed == 4


def test_phantom_patients_of_the_source_are_others(tmp_path: Path) -> None:
    data = {"use": "phantom", "patients": 16, "slices": 1}
    written(tmp_path, {**base(tmp_path, "stage-1"), "data": data})
    path = written(tmp_path, {**base(tmp_path, "target"), "data": data, "seed": 3, "source": {"scenario": "stage-1.yaml"}})
    stage = Stage.of(compile_plan(load(path)))
    assert stage.scenario.seed != stage.target.scenario.seed
    assert Stage.of(compile_plan(load(path, ["source.overlap=true"]))).scenario.seed == 3


def test_studies_in_both_are_refused_unless_only_training_studies_are_shared(tmp_path: Path) -> None:
    path = pair(tmp_path, stage={"data": base(tmp_path, "target")["data"]})
    error = refused(path)
    assert error.code == "E136"
    assert "stage-1 has 40 studies of this scenario" in error.problem
    Stage.of(compile_plan(load(path, ["source.overlap=true"])))


def test_a_source_that_trains_on_test_studies_is_refused_even_then(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "all" / label).mkdir(parents=True)
        for image in range(12):
            Image.fromarray(draw(image, label).integers(0, 255, (32, 32)).astype(np.uint8)).save(tmp_path / "all" / label / f"{image}.png")
    data = {"use": "images", "path": str(tmp_path / "all"), "size": 32}
    written(tmp_path, {**base(tmp_path, "stage-1"), "data": {**data, "test": 0.1}})
    text = {**base(tmp_path, "target"), "data": {**data, "test": 0.4}, "seed": 3}
    path = written(tmp_path, {**text, "source": {"scenario": "stage-1.yaml", "overlap": True}})
    error = refused(path)
    assert (error.code, "that this scenario is tested on" in error.problem) == ("E136", True)


# ---------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("stage", "target", "code", "says"),
    [
        ({"model": {"backbone": "resnet18"}}, {}, "E128", "stage-1 has the backbone resnet18, this scenario compact"),
        ({"source": {"scenario": "target.yaml"}}, {}, "E128", "stage-1 has a source task itself"),
        ({"source": {"scenario": "stage-1.yaml"}}, {}, "E128", "stage-1 has a source task itself"),
        ({}, {"model": {"weights": "x.safetensors"}}, "E127", "no such file"),
        ({}, {"source": {"scenario": "stag-1.yaml"}}, "E101", "source task"),
        ({}, {"source": {"scenario": "stage-1.yaml", "model": "ct-09"}}, "E120", "ct-09 is no twin of stage-1"),
        ({}, {"source": {"scenario": "stage-1.yaml", "modle": "mean"}}, "E109", "source.modle: unknown key"),
        ({"rounds": 0}, {}, "E118", "source task: rounds = 0"),
        ({}, {"model": {"head": True}, "source": None}, "E128", "there are no weights it could come from"),
    ],
)
def test_what_cannot_be_a_source_is_refused_with_the_reason(
    stage: dict[str, Any], target: dict[str, Any], code: str, says: str, tmp_path: Path
) -> None:
    error = refused(pair(tmp_path, stage=stage, **target))
    assert error.code.startswith(code)
    assert says in str(error)


def test_weights_beside_a_source_are_refused(tmp_path: Path, ran: Ran) -> None:
    file = min((ran.folder / "source" / "start").iterdir())
    error = refused(pair(tmp_path, model={"weights": str(file)}))
    assert (error.code, "the first weights come from the source task" in error.problem) == ("E128", True)


def test_a_head_is_taken_only_where_the_classes_are_the_same(tmp_path: Path) -> None:
    archive(tmp_path / "three.npz", "three", classes=3)
    data = {"use": "npz", "path": str(tmp_path / "three.npz"), "size": 28}
    error = refused(pair(tmp_path, stage={"data": data}, source={"scenario": "stage-1.yaml", "head": True}))
    assert isinstance(error, ScenarioError)
    assert "stage-1 tells apart 0, 1, 2, this scenario 0, 1" in error.problem


def test_a_folder_with_another_run_is_refused(target: Path, ran: Ran, tmp_path: Path) -> None:
    plan = compile_plan(load(target, ["seed=5", f"source.folder={ran.folder / 'source'}"]))
    with pytest.raises(UsageError, match=r"E619.*another scenario than stage-1 with this seed"):
        Stage.of(plan).started(ran.folder / "source")
    with pytest.raises(UsageError, match=r"E619.*holds no run of the source task"):
        Stage.of(plan).started(tmp_path)


def test_what_the_source_has_more_is_left_and_what_it_lacks_is_an_error(target: Path, ran: Ran, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    stage = Stage.of(compile_plan(load(target)))
    source = tmp_path / "source"
    (source / "models").mkdir(parents=True)
    for name in ("summary.json", "scenario.yaml"):
        (source / name).write_bytes((ran.folder / "source" / name).read_bytes())
    model = load_file(ran.folder / "source" / "models" / "ct-01.safetensors")
    save_file({**model, "decoder.weight": np.ones(3, np.float32)}, source / "models" / "ct-01.safetensors")
    assert "decoder.weight" not in load_file(str(stage.started(source).scenario.model.weights))
    for file in (source / "start").iterdir():
        file.unlink()
    lacks = min(model)
    save_file({name: tensor for name, tensor in model.items() if name != lacks}, source / "models" / "ct-01.safetensors")
    with pytest.raises(ScenarioError, match=rf"E127.*the model of the source task stage-1 lacks {lacks}"):
        stage.started(source)


def test_the_resolved_scenario_keeps_its_source(target: Path, tmp_path: Path) -> None:
    scenario = load(target)
    (tmp_path / "again.yaml").write_text(resolved(scenario), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == scenario
