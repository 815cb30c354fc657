"""Differences over the twins: one value per twin, whatever the number of seeds, and an exact test."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from p2pftl.compare import units
from p2pftl.compare.cells import Variant
from p2pftl.compare.course import COSTS, FAMILIES, Course
from p2pftl.compare.page import NAMES, About, page
from p2pftl.compare.table import Results
from p2pftl.observe.lead import PROBED
from p2pftl.scenario.load import load
from p2pftl.scenario.schema import Scenario

TWINS = [f"d{k}" for k in range(8)]
LEVELS = {"base": 0.70, "near": 0.70, "far": 0.50}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    held = ", ".join(f"{name}: {{use: phantom, patients: 8}}" for name in TWINS)
    text = f"rounds: 1\nseed: 1\ntopology: {{use: ring, names: [{', '.join(TWINS)}]}}\ndata: {{use: domains, domains: {{{held}}}}}\n"
    path = tmp_path_factory.mktemp("units") / "x.yaml"
    path.write_text(f"{text}universal: {{}}\ntransfer: fedper\n", encoding="utf-8")
    return path


def made(variant: str, seed: int, probes: Mapping[str, float]) -> Course:
    values = dict.fromkeys((*FAMILIES["probe"], *COSTS), float(np.mean(list(probes.values()))))
    each = {twin: {"probe": value, "probe_start": 0.5, "accuracy": value} for twin, value in probes.items()}
    return Course(variant, seed, values, {}, (), [], True, "done", len(probes), 8, None, PROBED, each)


def probes(variant: str, seed: int) -> dict[str, float]:
    """Level of the variant; each twin and seed a little otherwise, `near` above and below in turn."""
    shift = 0.01 if variant == "near" else 0.0
    return {twin: LEVELS[variant] + shift * (-1) ** k * (k + 1) + 0.002 * k + 0.01 * seed for k, twin in enumerate(TWINS)}


def results(file: Path, seeds: tuple[int, ...] = (1, 2)) -> Results:
    scenario: Scenario = load(file)
    rows = [Variant(name, scenario) for name in LEVELS]
    return Results(rows, [made(name, seed, probes(name, seed)) for name in LEVELS for seed in seeds], "base")


def test_a_twin_counts_once_whatever_the_number_of_seeds(file: Path) -> None:
    few, many = units.over_twins(results(file, (1,)), "probe"), units.over_twins(results(file, (1, 2, 3, 4)), "probe")
    assert [len(row.pairs) for row in few] == [len(row.pairs) for row in many] == [8, 8]
    assert [row.p for row in few] == [row.p for row in many]


def test_the_test_is_wilcoxons_over_the_twins_with_holm_over_the_rows(file: Path) -> None:
    found = {row.variant: row for row in units.over_twins(results(file), "probe")}
    differences = [mine - theirs for mine, theirs in found["near"].pairs.values()]
    assert found["near"].p == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert found["far"].p == pytest.approx(2 / 2**8)
    assert found["far"].holm == pytest.approx(2 * 2 / 2**8)
    assert (found["far"].word, found["near"].word) == ("worse", "undecided")
    assert found["far"].difference == pytest.approx(-0.2)


def test_page_terminal_and_csv_tell_the_same(file: Path) -> None:
    found = results(file)
    html = page(found, About("x", "comparison", "probe", None, {}, {}, "p2pftl compare x.yaml --unit twins", "twins"))
    assert "Over the twins" in html
    assert "Wilcoxon" in html
    assert "Over the twins" not in page(found, About("x", "comparison", "probe", None, {}, {}, ""))
    assert "<h2>Confusion</h2>" not in html  # classes of their own are not added up
    lines = list(csv.DictReader(io.StringIO(units.text(found))))
    far = [line for line in lines if (line["metric"], line["variant"]) == ("probe", "far")]
    assert {line["twin"] for line in far} == set(TWINS)
    assert {line["verdict"] for line in far} == {"worse"}
    assert any("far  -0.200  worse" in line for line in units.said(found))
    assert units.section(found, NAMES).count("the baseline") == len({line["metric"] for line in lines})


def test_left_out_in_turn_compares_the_end_with_the_start_over_the_domains(file: Path) -> None:
    rows, courses = [], []
    for k, name in enumerate(TWINS):
        rows.append(Variant(f"left_out-{name}", load(file, [f"data.left_out={name}"])))
        courses.append(made(rows[-1].name, 1, {name: 0.6 + 0.01 * k}))
    found = units.left_out(Results(rows, courses, rows[0].name))
    assert found is not None
    assert set(found.pairs) == set(TWINS)
    assert found.p == pytest.approx(2 / 2**8)
    assert found.word == "better"
    assert units.left_out(Results(rows[:1], courses[:1], rows[0].name)) is None
