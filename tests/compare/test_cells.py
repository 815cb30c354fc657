"""Which runs a comparison is made of, and which of them need not run again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2pftl.compare.bounds import with_seed
from p2pftl.compare.cells import Cell, cells, grid, seeds, variants
from p2pftl.errors import P2pftlError, ScenarioError, UsageError
from p2pftl.scenario.load import load

TINY = """
name: tiny
seed: 4
rounds: 3
topology: {use: complete, twins: 3}
data: {use: phantom, patients: 40, slices: 1}
control: true
variants:
  fedavg: {partners: none, cloud: {use: fedavg, every: 1}}
  more: {rounds: 5}
seeds: [1, 2]
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def test_the_plain_scenario_comes_first_and_is_called_base(tiny: Path) -> None:
    found = variants(tiny, ())
    assert [(one.name, one.scenario.name, one.scenario.rounds) for one in found] == [
        ("base", "tiny", 3), ("fedavg", "tiny-fedavg", 3), ("more", "tiny-more", 5),
    ]  # fmt: skip
    assert found[1].about == "partners: none, cloud: fedavg (every 1)"
    assert not any(one.scenario.control or one.scenario.variants or one.scenario.seeds for one in found)


def test_a_variant_called_base_takes_the_place_of_the_plain_scenario(tiny: Path) -> None:
    tiny.write_text(TINY.replace("  more:", "  base:"), encoding="utf-8")
    assert [(one.name, one.scenario.rounds) for one in variants(tiny, ())] == [("fedavg", 3), ("base", 5)]


def test_models_are_kept_only_if_asked_for(tiny: Path) -> None:
    assert {one.scenario.models for one in variants(tiny, ())} == {"none"}
    assert {one.scenario.models for one in variants(tiny, ["models=trained"])} == {"trained"}


def test_a_variant_that_cannot_name_a_folder_is_refused(tiny: Path) -> None:
    tiny.write_text(TINY.replace("  more:", '  "..":'), encoding="utf-8")
    with pytest.raises(ScenarioError, match="E125"):
        variants(tiny, ())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, [1, 2]), ("1", [1]), ("2", [1, 2]), ("4", [1, 2, 3, 4]), ("7,", [7]), ("9,3,5", [9, 3, 5])],
)
def test_seeds_are_counted_or_listed(tiny: Path, wanted: str | None, expected: list[int]) -> None:
    assert seeds(tiny, (), wanted) == expected


def test_without_seeds_there_are_three_from_the_scenarios_own(tiny: Path) -> None:
    tiny.write_text(TINY.replace("seeds: [1, 2]", ""), encoding="utf-8")
    assert seeds(tiny, (), None) == [4, 5, 6]
    tiny.write_text(TINY.replace("seeds: [1, 2]", "").replace("seed: 4", ""), encoding="utf-8")
    assert seeds(tiny, (), None) == [1, 2, 3]


@pytest.mark.parametrize("wanted", ["0", "x", "1,1", ",", "1,x", "1001", "-3"])
def test_seeds_that_are_none_are_refused(tiny: Path, wanted: str) -> None:
    with pytest.raises(UsageError, match="E613"):
        seeds(tiny, (), wanted)


def test_a_grid_has_a_variant_per_point(tiny: Path) -> None:
    found = grid(tiny, (), ["rounds=2,3", "data.split={use: dirichlet, alpha: 0.3},iid"])
    assert [one.name for one in found] == [
        "rounds-2_split-dirichlet-alpha-0.3", "rounds-2_split-iid", "rounds-3_split-dirichlet-alpha-0.3", "rounds-3_split-iid",
    ]  # fmt: skip
    assert [one.scenario.rounds for one in found] == [2, 2, 3, 3]
    assert found[2].scenario == replace(
        load(tiny, ["variants={}", "seeds=[]", "control=false", "models=none", "rounds=3", "data.split={use: dirichlet, alpha: 0.3}"]),
        name=f"tiny-{found[2].name}", seed_chosen=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("axes", "code"),
    [
        (["rounds"], "E613"), (["=1"], "E613"), (["rounds=1,,2"], "E613"), (["rounds=2,2"], "E613"),
        (["rouds=1,2"], "E109"), (["rounds=1,x"], "E1"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_refused(tiny: Path, axes: list[str], code: str) -> None:
    with pytest.raises(P2pftlError, match=code):
        grid(tiny, (), axes)


def all_of(tiny: Path, out: Path, chosen: tuple[int, ...] = (1, 2)) -> list[Cell]:
    return cells(variants(tiny, ()), chosen, out, with_seed)


def finish(cell: Cell, status: str = "done") -> None:
    cell.clear()
    (cell.folder / "scenario.yaml").write_text(cell.text, encoding="utf-8")
    (cell.folder / "summary.json").write_text(json.dumps({"status": status}), encoding="utf-8")


def test_cells_are_variants_times_seeds_and_lie_apart(tiny: Path, tmp_path: Path) -> None:
    found = all_of(tiny, tmp_path / "out")
    assert [(one.variant, one.seed) for one in found] == [(name, seed) for seed in (1, 2) for name in ("base", "fedavg", "more")]
    assert len({one.folder for one in found} | {one.file for one in found} | {one.log for one in found}) == 18
    assert load_back(found[1], tmp_path) == found[1].scenario


def load_back(cell: Cell, folder: Path) -> object:
    file = folder / "back.yaml"
    file.write_text(cell.text, encoding="utf-8")
    return load(file)


@pytest.mark.parametrize(("status", "again"), [("done", False), ("degraded", False), ("interrupted", True), ("failed", True)])
def test_only_a_run_that_came_to_its_end_is_not_run_again(tiny: Path, tmp_path: Path, status: str, again: bool) -> None:
    cell = all_of(tiny, tmp_path / "out")[0]
    assert cell.summary is None
    finish(cell, status)
    assert (cell.summary is None) is again


def test_a_run_of_another_scenario_is_run_again_and_more_seeds_are_no_other_scenario(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for cell in all_of(tiny, out):
        finish(cell)
    tiny.write_text(TINY.replace("[1, 2]", "[1, 2, 3]").replace("  more: {rounds: 5}", "  more: {rounds: 6}"), encoding="utf-8")
    left = [(cell.variant, cell.seed) for cell in all_of(tiny, out, (1, 2, 3)) if cell.summary is None]
    assert left == [("more", 1), ("more", 2), ("base", 3), ("fedavg", 3), ("more", 3)]


def test_clearing_a_cell_leaves_what_is_no_part_of_a_run(tiny: Path, tmp_path: Path) -> None:
    cell = all_of(tiny, tmp_path / "out")[0]
    finish(cell)
    (cell.folder / "notes.txt").write_text("mine")
    cell.clear()
    assert [entry.name for entry in cell.folder.iterdir()] == ["notes.txt"]
    assert cell.file.read_text(encoding="utf-8") == cell.text
