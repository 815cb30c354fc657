"""Detectors are compared by average precision, wherever classifiers are by accuracy."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from p2pftl.compare.bounds import with_bounds, with_seed
from p2pftl.compare.cells import Cell, Variant, variants
from p2pftl.compare.compare import Order, _written
from p2pftl.compare.course import COSTS, SOUGHT, Course, Evaluation, course
from p2pftl.compare.footing import footing, uneven
from p2pftl.compare.page import About, page
from p2pftl.compare.screen import Screen
from p2pftl.compare.table import Results, summed, targets
from p2pftl.errors import UsageError
from p2pftl.events import RunPlanned, Scored
from p2pftl.observe.lead import FOUND
from p2pftl.observe.summary import Summary
from p2pftl.scenario.plan import compile_plan
from tests.test_run_detection import SCENARIO

LEVELS = {"base": 0.6, "single": 0.5, "local": 0.3, "pooled": 0.7}
VARIANTS = "variants: {single: {detector: {stages: 1}}, wide: {detector: {hidden: 32}}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "finding.yaml"
    found.write_text(SCENARIO + VARIANTS, encoding="utf-8")
    return found


def made(variant: str, seed: int) -> Course:
    level = LEVELS[variant] + 0.01 * seed
    values = dict.fromkeys(SOUGHT, level) | {"accuracy": 0.5, "bytes_sent": 1e6, "virtual_seconds": 40.0, "visits": 1000.0}
    line = [Evaluation(k, 10.0 * k, 1e6 * k, level - 0.1 * (4 - k)) for k in range(1, 5)]
    return Course(variant, seed, values, {"map_50": line}, ("clear", "nodule"), ((9, 1), (2, 8)), True, "done", 2, 20, lead=FOUND)


@pytest.fixture
def results(file: Path) -> Results:
    scenario = variants(file, ())[0].scenario
    bounds = {"local": "lower", "pooled": "upper"}
    rows = [Variant(name, scenario, f"about {name}", bounds.get(name, "")) for name in LEVELS]  # type: ignore[arg-type]
    return Results(rows, [made(name, seed) for name in LEVELS for seed in range(1, 9)], "base", reference="pooled")


ABOUT = About("finding", "comparison", "map_50", 0.55, {}, {}, "p2pftl compare finding.yaml")


def test_tables_page_and_terminal_tell_average_precision(results: Results, tmp_path: Path) -> None:
    assert results.results == SOUGHT
    rows = list(csv.DictReader(io.StringIO(summed(results))))
    assert {row["metric"] for row in rows} == {*SOUGHT, *COSTS}
    single = next(row for row in rows if (row["metric"], row["variant"]) == ("worst_map_50", "single"))
    assert (float(single["difference"]), single["verdict"]) == (pytest.approx(-0.1), "worse")
    assert results.gaps()["base"].share == pytest.approx(0.75)
    text = page(results, ABOUT)
    for said in ("mAP@0.5 of the weakest twin", "mAP@0.7:0.95", "closes 75 %", "of whole images"):
        assert said in text
    assert "Test accuracy" not in text
    assert "AUROC" not in text
    lines = list(_written(results, ABOUT, tmp_path))
    assert lines[0].startswith("synthetic test mAP@0.5, 8 seeds")
    assert any(line.split()[:2] == ["base", "0.645"] for line in lines)
    assert any(line.startswith("On mAP@0.5, base loses") for line in lines)


def test_targets_are_those_of_what_is_compared() -> None:
    assert targets(None, FOUND) == ("map_50", None)
    assert targets("map_strict=0.2", FOUND) == ("map_strict", 0.2)
    assert targets("recall=0.5", FOUND) == ("recall", 0.5)
    for text, lead in (("f1=0.9", (FOUND,)), ("map_50=0.4", ()), ("worst_map_50", (FOUND,))):
        with pytest.raises(UsageError) as caught:
            targets(text, *lead)
        assert caught.value.code == "E613"


def test_a_course_has_the_weakest_twin_and_the_curves_of_a_detector() -> None:
    summary = Summary()
    facts = {"model": {"detector": "one"}, "twins": {}, "data": {"test": 20}}
    events = [RunPlanned(t=0.0, name="x", seed=1, rounds=2, classes=("clear", "nodule"), synthetic=True, facts=facts)]
    for round in range(2):
        for twin, least in (("ct-01", 0.2), ("ct-02", 0.4)):
            scores = dict.fromkeys(SOUGHT[:-1], least + 0.1 * round) | {"confusion": [[5, 5], [2, 8]]}
            events.append(Scored(t=1.0 + round, twin=twin, round=round, split="test", metrics=scores))  # type: ignore[arg-type]
    for event in events:
        summary(event)
    found = course("base", 1, summary.document(digest="", executor="local", wall_seconds=1.0), events)
    assert found.lead is FOUND
    assert (found.values["map_75"], found.values["worst_map_50"]) == (pytest.approx(0.4), pytest.approx(0.3))
    assert [one.value for one in found.evaluations["map_strict"]] == pytest.approx([0.3, 0.4])
    reached = found.reached("map_50", 0.3)
    assert reached is not None
    assert reached.t == 1.0
    assert [list(row) for row in found.confusion] == [[10, 10], [4, 16]]


def test_stages_stand_on_the_same_footing_and_another_width_does_not(file: Path, tmp_path: Path) -> None:
    rows = variants(file, ())
    found = [Cell(row.name, 1, row.scenario, "", tmp_path) for row in rows]
    apart = uneven(found, "base", {})
    assert apart["base"] == []
    assert apart["single"] == [
        "its detector: one stage, IoU 0.5, 16 proposals, 8 sampled; not cascade of 3 stages, IoU 0.5, 0.6, 0.7, 16 proposals, 8 sampled"
    ]
    assert apart["wide"] == ["starts from other parameters"]


def test_the_bounds_of_a_detector_hold_the_same_boxes(file: Path) -> None:
    rows = with_bounds(variants(file, ()))
    assert [row.name for row in rows][-2:] == ["local", "pooled"]
    plans = {row.name: compile_plan(with_seed(row, 1)) for row in rows if row.bound or row.name == "base"}
    mine = footing(plans["base"])
    assert {
        name: (footing(plan).test, footing(plan).studies) == (mine.test, mine.studies) for name, plan in plans.items()
    } == dict.fromkeys(plans, True)
    assert len(plans["pooled"].shards) == 1


def test_the_screen_names_what_it_shows(file: Path, tmp_path: Path) -> None:
    cell = Cell("base", 1, variants(file, ())[0].scenario, "", tmp_path)
    assert Screen([cell], 1, quiet=True).lead is FOUND
    assert Order(file).kind == "comparison"
