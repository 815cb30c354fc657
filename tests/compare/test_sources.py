"""A source task is run once per seed for all variants of a comparison that name it, and counts as where they start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.compare.bounds import with_bounds, with_seed
from p2pftl.compare.cells import cells, grid, sources, variants
from p2pftl.compare.footing import differences, footing
from p2pftl.errors import UsageError
from p2pftl.scenario.plan import compile_plan
from tests.runs import written
from tests.test_two_stage import base, pair

VARIANTS = {
    "scratch": {"source": None},
    "twin": {"source": {"model": "ct-02"}},
    "other": {"source": {"scenario": "stage-2.yaml"}},
    "gossip": {"partners": "all"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written(tmp_path, {**base(tmp_path, "stage-1"), "name": "stage-2", "rounds": 3})
    return pair(tmp_path, variants=VARIANTS)


def test_variants_with_the_same_source_share_its_run_and_start_alike(file: Path, tmp_path: Path) -> None:
    found = cells(variants(file, ()), [4, 5], tmp_path / "out", with_seed)
    of = {(cell.variant, cell.seed): cell for cell in found}
    assert [(one.variant.rpartition("-")[0], one.seed) for one in sources(found)] == [
        ("source/stage-1", 4), ("source/stage-2", 4), ("source/stage-1", 5), ("source/stage-2", 5),
    ]  # fmt: skip
    first = of["base", 4].source
    assert first is not None
    assert of["scratch", 4].source is None
    assert {of[name, 4].scenario.source.folder for name in ("base", "twin", "gossip")} == {str(first.folder)}  # type: ignore[union-attr]
    assert first.scenario.models == "all"
    feet = {name: footing(compile_plan(of[name, 4].scenario)) for name in ("base", *VARIANTS)}
    assert differences(feet["gossip"], feet["base"]) == []
    for name in ("scratch", "twin", "other"):
        assert differences(feet[name], feet["base"]) == ["starts from other parameters"]


def test_bounds_start_from_the_source_as_well(file: Path, tmp_path: Path) -> None:
    rows = with_bounds([row for row in variants(file, ()) if row.name == "base"])
    assert len(sources(cells(rows, [4], tmp_path / "out", with_seed))) == 1


def test_a_source_that_is_done_elsewhere_is_not_run(file: Path, tmp_path: Path) -> None:
    row = variants(file, ())[0]
    assert row.scenario.source is not None
    done = replace(row, scenario=replace(row.scenario, source=replace(row.scenario.source, folder=str(tmp_path / "done"))))
    assert sources(cells([done], [4], tmp_path / "out", with_seed)) == []


def test_keys_that_change_together_are_one_axis(file: Path) -> None:
    found = grid(file, (), ["rounds,fit.batch=[10,1],[5,2]", "topology.twins=2,3"])
    assert [(one.scenario.rounds, one.scenario.fit.batch, one.name) for one in found] == [
        (10, 1, "rounds-10_batch-1_twins-2"), (10, 1, "rounds-10_batch-1_twins-3"),
        (5, 2, "rounds-5_batch-2_twins-2"), (5, 2, "rounds-5_batch-2_twins-3"),
    ]  # fmt: skip


@pytest.mark.parametrize("axis", ["rounds,fit.epochs=10,1", "rounds,fit.epochs=[10]", "rounds,fit.epochs=[10,1],[5]", "rounds,=[1,2]"])
def test_keys_that_change_together_need_lists_of_their_length(axis: str, file: Path) -> None:
    with pytest.raises(UsageError, match="E613"):
        grid(file, (), [axis])


def test_a_bad_source_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = pair(tmp_path, stage={"data": base(tmp_path, "target")["data"]}, variants={"gossip": {"partners": "all"}})
    result = CliRunner().invoke(app, ["compare", str(path), "--quiet", "--out", str(tmp_path / "out")])
    assert (result.exit_code, "E136" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_comparison_runs_the_source_first_and_once_and_goes_on_with_it(tmp_path: Path) -> None:
    path = pair(tmp_path, variants={"scratch": {"source": None}})
    order = ["compare", str(path), "--seeds", "4,", "--jobs", "2", "--out", str(tmp_path / "out")]
    first = CliRunner().invoke(app, order)
    assert (first.exit_code, first.stdout.splitlines()[0]) == (0, "3 runs, 2 at a time")
    assert "[1/3] source/stage-1-" in first.stdout
    told = {name: json.loads((tmp_path / "out" / name / "seed-4" / "summary.json").read_text()) for name in ("base", "scratch")}
    assert told["base"]["source"]["name"] == "stage-1"
    assert "source" not in told["scratch"]
    assert not list((tmp_path / "out").glob("*/seed-4/source"))
    again = CliRunner().invoke(app, order)
    assert again.stdout.splitlines()[0] == "2 runs, 2 of them done before, 1 at a time"


@pytest.mark.slow
def test_where_the_source_fails_its_cells_say_so_and_the_others_run(tmp_path: Path) -> None:
    path = pair(tmp_path, stage={"fit": {"lr": 100.0, "momentum": 0.99, "batch": 4, "steps": 20}}, variants={"scratch": {"source": None}})
    result = CliRunner().invoke(app, ["compare", str(path), "--seeds", "4,", "--jobs", "1", "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert "base seed 4 failed: E619" in result.stdout
    assert "not simply done" in result.stdout
