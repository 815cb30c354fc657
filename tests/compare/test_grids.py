"""A sweep over several axes is shown as a grid: every point once, in its row and column, and a few curves in each drawing."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from p2pftl.compare.cells import Variant, grid
from p2pftl.compare.course import Course, Evaluation
from p2pftl.compare.grids import MANY, section
from p2pftl.compare.table import Results
from tests.compare.test_cells import TINY

AXES = ["data.split=iid,{use: dirichlet, alpha: 0.5}", "rounds,fit.epochs=[4,1],[2,2]", "topology.twins=3,4,5,6"]


def course(row: Variant, seed: int, value: float) -> Course:
    line = tuple(Evaluation(number, float(number), 1000 * number, value) for number in (1, 2, 3))
    return Course(row.name, seed, {"accuracy": value}, {"accuracy": line}, ("a", "b"), None, True, "done", 3, 8)


def swept(folder: Path, axes: list[str]) -> tuple[list[Variant], Results]:
    file = folder / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    rows = grid(file, (), axes)
    courses = [course(row, seed, 0.5 + at / 100 + seed / 1000) for at, row in enumerate(rows) for seed in (1, 3)]
    return rows, Results(rows, courses, rows[0].name)


def test_every_point_stands_in_its_row_and_column(tmp_path: Path) -> None:
    rows, results = swept(tmp_path, AXES)
    page = section(results, "accuracy", "accuracy")
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    cells = [[re.sub("<[^>]*>", "", cell) for cell in re.findall("<td.*?</td>", line)] for line in re.findall("<tr>.*?</tr>", table)]
    assert [line[:2] for line in cells] == [list(pair) for pair in product(["iid", "dirichlet, alpha 0.5"], ["4 and 1", "2 and 2"])]
    shown = [cell.split()[0] for line in cells for cell in line[2:]]
    assert shown == [f"{0.5 + at / 100 + 0.002:.3f}" for at in range(len(rows))]


def test_each_value_of_the_first_axis_has_a_drawing_of_its_own(tmp_path: Path) -> None:
    rows, results = swept(tmp_path, AXES)
    assert len(rows) > MANY
    page = section(results, "accuracy", "accuracy")
    assert page.count("<figure>") == 2
    assert page.count("rounds and fit.epochs 4 and 1, topology.twins 3") >= 3  # once in the key, once in each drawing


def test_one_axis_is_no_grid(tmp_path: Path) -> None:
    _, results = swept(tmp_path, AXES[:1])
    assert section(results, "accuracy", "accuracy") == ""
