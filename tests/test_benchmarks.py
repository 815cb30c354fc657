"""The benchmarks measure what they say. Nothing here is timed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

import benchmarks
from benchmarks import compare, floor, table
from benchmarks.nets import build, shared_state
from benchmarks.watch import watch
from benchmarks.workload import LR, MODELS, Workload, scenario, write_noise
from p2pftl.cli import app
from p2pftl.draw import draw
from p2pftl.learning.models import Model, ModelSpec
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan

ROOT = Path(__file__).parents[1]
MACHINE = {"processor": "x", "cores": 2}
LIBRARIES = {"measure", "nets", "precisions", "results", "watch", "workload"}
COMMANDS = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - LIBRARIES)


def result(machine: dict[str, Any] = MACHINE, **figures: Any) -> dict[str, Any]:
    return {"name": "suite", "environment": machine, "rows": [{"bench": "rounds", "twins": 8, "who": "p2pftl", **figures}]}


def told(tmp_path: Path, old: dict[str, Any], new: dict[str, Any]) -> int:
    for name, content in (("old", old), ("new", new)):
        (tmp_path / name).write_text(json.dumps(content))
    sys.argv = ["compare", str(tmp_path / "old"), str(tmp_path / "new")]
    return compare.main()


@pytest.fixture(autouse=True)
def arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])


# ---------------------------------------------------------------------- compare


def test_compare_finds_a_planted_slowdown(tmp_path: Path) -> None:
    assert told(tmp_path, result(round_s=[1.0, 1.02, 0.98, 1.01, 0.99]), result(round_s=[1.3, 1.32, 1.28, 1.31, 1.29])) == 1


def test_compare_ignores_noise_that_is_as_wide_as_the_difference(tmp_path: Path) -> None:
    assert told(tmp_path, result(round_s=[1.0, 0.7, 1.4, 1.3, 0.8]), result(round_s=[1.2, 0.8, 1.5, 1.3, 0.9])) == 0


def test_compare_knows_of_which_figures_more_is_better(tmp_path: Path) -> None:
    assert told(tmp_path, result(actors_share=[0.95, 0.94, 0.96]), result(actors_share=[0.7, 0.71, 0.69])) == 1
    assert told(tmp_path, result(actors_share=[0.7, 0.71, 0.69]), result(actors_share=[0.95, 0.94, 0.96])) == 0


def test_compare_leaves_seconds_of_another_machine_alone_and_looks_at_ratios(tmp_path: Path) -> None:
    other = {"processor": "y", "cores": 64}
    assert told(tmp_path, result(round_s=1.0, x_floor=1.0), result(other, round_s=9.0, x_floor=1.01)) == 0
    assert told(tmp_path, result(round_s=1.0, x_floor=1.0), result(other, round_s=0.1, x_floor=1.5)) == 1


def test_compare_says_when_there_is_nothing_in_common(tmp_path: Path) -> None:
    assert told(tmp_path, result(round_s=1.0), result(round_s=1.0) | {"rows": []}) == 2


# ---------------------------------------------------------------------- the tables


def test_table_writes_what_it_has_and_leaves_other_tables_as_they_are() -> None:
    shares = [0.9, 0.92, 0.94]
    row = {"bench": "barrier", "pace": "asynchronous", "layout": "packed in 2", "model": "M1", "twins": 8, "actors_share": shares}
    page = "# P\n<!-- bench: barrier -->\nold\n<!-- /bench -->\nmiddle\n<!-- bench: scale -->\nkept\n<!-- /bench -->\n"
    filled = table.fill(page, [{"name": "suite", "rows": [row]}])
    assert "| asynchronous | packed in 2 | M1 | 8 | 92% |" in filled
    assert "old" not in filled
    assert "middle\n<!-- bench: scale -->\nkept\n<!-- /bench -->\n" in filled
    assert table.fill(filled, [{"name": "suite", "rows": [row]}]) == filled


def test_performance_page_has_a_place_for_every_table_and_no_other() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    places = {line.split()[2] for line in page.splitlines() if line.startswith("<!-- bench: ")}
    assert places == {"machine", *table.TABLES}
    table.fill(page, [])


# ---------------------------------------------------------------------- the workload


@pytest.mark.parametrize("name", MODELS)
def test_network_of_the_floor_has_the_tensors_of_ours_and_the_same_logits(name: str) -> None:
    net, ours = build(name).eval(), Model(ModelSpec(MODELS[name]), 2, 1)
    put(net, ours)
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(net(images), ours(images), rtol=1e-4, atol=1e-5)


def put(net: Any, ours: Model) -> None:
    """Give a plain network the values of ours."""
    theirs, values = shared_state(net), ours.module.state_dict()
    assert tuple(theirs) == ours.layout.names
    with torch.no_grad():
        for name, tensor in theirs.items():
            tensor.copy_(values[name])


def test_floor_and_p2pftl_do_the_same_arithmetic(tmp_path: Path) -> None:
    work = Workload("M1", twins=4, rounds=1, images=12, side=32, batch=4)
    archive, file = tmp_path / "noise.npz", tmp_path / "bench.yaml"
    write_noise(archive, work)
    file.write_text(yaml.safe_dump(scenario(work, archive)))
    plan = compile_plan(load(file))
    ran = CliRunner().invoke(app, ["run", str(file), "--executor", "local", "--out", str(tmp_path / "run"), "-q"])
    assert ran.exit_code == 0, ran.output
    names = plan.topology.names
    nets = [build("M1") for _ in names]
    shared = {name: torch.zeros(len(names), *tensor.shape) for name, tensor in shared_state(nets[0]).items()}
    whole = floor.read(archive, Workload("M1", 1, images=len(plan.catalogue.samples)), [0])[0][0]
    for twin, (name, net) in enumerate(zip(names, nets, strict=True)):
        put(net, Model(ModelSpec("compact"), 2, 1))
        rows = [sample.index for sample in plan.shards[name].train]
        assert len(rows) == work.images
        order = draw(1, "order", name, 0, 0).permutation(work.images)
        sgd = torch.optim.SGD(net.parameters(), lr=LR)
        floor.train(net, sgd, whole[0][rows], whole[1][rows], order, work.batch, "fp32")
        floor.give(net, shared, twin)
    for twin, (name, net) in enumerate(zip(names, nets, strict=True)):
        floor.take(net, shared, [twin, (twin - 1) % len(names), (twin + 1) % len(names)])
        kept = load_file(tmp_path / "run" / "models" / f"{name}.safetensors")
        for key, tensor in shared_state(net).items():
            np.testing.assert_allclose(tensor.numpy(), kept[key], rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")


# ---------------------------------------------------------------------- the tools


def test_watch_sees_output_file_memory_and_processor_time_of_a_grandchild(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    grown = f"b = bytearray(80 << 20); open({str(flag)!r}, 'w').close(); e = __import__('time').process_time\nwhile e() < 0.7: pass"
    program = f"import subprocess, sys; print('here'); subprocess.run([sys.executable, '-c', {grown!r}])"
    seen = watch([sys.executable, "-c", program], awaited=flag, memory=True, every=0.05)
    assert "here" in seen.output
    assert seen.started < seen.appeared < seen.ended
    assert seen.memory > 80e6
    assert 0.4 < seen.cpu(seen.started, seen.ended) < 2
    assert seen.cpu(seen.started, seen.ended, lambda title: "nobody" in title) == 0


def test_watch_raises_what_a_failing_command_said() -> None:
    with pytest.raises(RuntimeError, match="no such luck"):
        watch([sys.executable, "-c", "raise SystemExit('no such luck')"])


@pytest.mark.parametrize("name", COMMANDS)
def test_benchmark_tells_how_it_is_used(name: str) -> None:
    told = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage" in told.stdout
