"""Courses, tables and the page, of runs that were never trained."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest

from p2pftl.compare.answers import Answers, Judged
from p2pftl.compare.cells import Variant
from p2pftl.compare.course import COSTS, PATIENTS, RESULTS, Chosen, Course, Evaluation, course
from p2pftl.compare.drawing import bundle, curves, stroke
from p2pftl.compare.page import About, page
from p2pftl.compare.table import Results, headline, summed, targets, tidy
from p2pftl.draw import draw
from p2pftl.errors import UsageError
from p2pftl.events import Fitted, RoundDone, Scored
from p2pftl.observe.summary import Summary
from p2pftl.scenario.load import load
from p2pftl.scenario.schema import Scenario
from tests.observe.staged import staged
from tests.observe.test_report import sound

SEEDS = range(1, 9)
LEVELS = {"base": 0.8, "fedavg": 0.7, "local": 0.6, "pooled": 0.9}


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    file = tmp_path_factory.mktemp("table") / "x.yaml"
    file.write_text("rounds: 2\nseed: 1\ntopology: {use: ring, twins: 2}\ndata: {use: phantom}\n", encoding="utf-8")
    return load(file)


def made(variant: str, seed: int, level: float, *, rounds: int = 4, bytes: float = 1e6) -> Course:
    """A run whose accuracy climbs to `level`, a little better with every seed."""
    values = dict.fromkeys(RESULTS, level + 0.01 * seed) | {"bytes_sent": 4 * bytes, "virtual_seconds": 40.0, "visits": 1000.0}
    line = [Evaluation(k, 10.0 * k, bytes * k, level + 0.01 * seed - 0.1 * (rounds - k)) for k in range(1, rounds + 1)]
    return Course(variant, seed, values, {"accuracy": line}, ("clear", "ggo"), ((9, 1), (2, 8)), True, "done", 2, 20)


def results(scenario: Scenario, chosen: Sequence[int] = SEEDS, bounds: bool = True) -> Results:
    bound = {"local": "lower", "pooled": "upper"} if bounds else {}
    rows = [Variant(name, scenario, f"about {name}", bound.get(name, "")) for name in LEVELS]  # type: ignore[arg-type]
    cells = [made(name, seed, level, bytes=0 if name in bound else 1e6) for name, level in LEVELS.items() for seed in chosen]
    return Results(rows, cells, "base")


ABOUT = About("night <shift>", "comparison", "accuracy", 0.74, {"fedavg": ["does 3 rounds instead of 4"]}, {}, "p2pftl compare x.yaml")


# ------------------------------------------------------------------ a course


def test_a_course_is_the_fold_of_a_runs_events_and_summary() -> None:
    events = staged(twins=4, rounds=6)
    whole = Summary()
    for event in events:
        whole(event)
    document = whole.document(digest="", executor="local", wall_seconds=0.0)
    found = course("base", 3, document, events)
    assert (found.variant, found.seed, found.twins, found.synthetic) == ("base", 3, 4, True)
    assert found.values["accuracy"] == document["mean"]["accuracy"]
    assert found.values["worst_accuracy"] == document["twins"][document["worst"]]["test"]["accuracy"]
    assert found.values["visits"] == sum(event.samples for event in events if isinstance(event, Fitted))
    line = found.evaluations["accuracy"]
    assert [one.round for one in line] == sorted({one.round for one in line})
    assert [one.t for one in line] == sorted(one.t for one in line)
    assert [one.bytes for one in line] == sorted(one.bytes for one in line)
    last = {event.twin: event for event in events if isinstance(event, Scored) and event.split == "test"}
    assert line[-1].value == pytest.approx(sum(event.metrics["accuracy"] for event in last.values()) / 4)
    assert line[-1].t <= max(event.t for event in events if isinstance(event, RoundDone))
    cells = [cell for twin in document["twins"].values() for row in twin["test"]["confusion"] for cell in row]
    assert sum(map(sum, found.confusion)) == sum(cells)


def test_a_target_is_reached_when_it_is_held_and_not_by_one_lucky_evaluation() -> None:
    line = [Evaluation(k, float(k), 0.0, value) for k, value in enumerate([0.1, 0.8, 0.3, 0.8, 0.9, 0.95], 1)]
    found = replace(made("base", 1, 0.5), evaluations={"accuracy": line})
    assert found.reached("accuracy", 0.8) == line[3]
    assert found.reached("accuracy", 0.9) == line[4]
    assert found.reached("accuracy", 0.95) is None  # the last one alone
    assert found.reached("f1", 0.1) is None
    assert found.best("accuracy") == 0.95


# ------------------------------------------------------------------ the table


def test_differences_are_paired_by_seed_and_the_interval_of_means_is_not(scenario: Scenario) -> None:
    table = {row.variant: row for row in results(scenario).tables["accuracy"]}
    fedavg = table["fedavg"].against
    assert fedavg is not None
    assert fedavg.mean == pytest.approx(-0.1)
    assert fedavg.interval == pytest.approx((-0.1, -0.1))
    limits = table["base"].interval
    assert limits is not None
    assert limits[1] - limits[0] > 0.01
    assert table["base"].against is None


def test_with_eight_seeds_of_one_sign_three_rows_are_decided(scenario: Scenario) -> None:
    table = {row.variant: row for row in results(scenario).tables["accuracy"]}
    assert [table[name].verdict.word for name in ("fedavg", "local", "pooled")] == ["worse", "worse", "better"]  # type: ignore[union-attr]
    assert table["pooled"].exact == pytest.approx(3 * 2 / 2**8)


def test_with_five_seeds_nothing_is_claimed(scenario: Scenario) -> None:
    for row in results(scenario, range(1, 6)).tables["accuracy"]:
        assert row.verdict is None or row.verdict.sentence.startswith("undecided: 5 seeds cannot show it (7 needed for 3 rows)")


def test_less_of_a_cost_is_better(scenario: Scenario) -> None:
    table = {row.variant: row for row in results(scenario).tables["bytes_sent"]}
    assert table["local"].verdict is not None
    assert table["local"].verdict.word == "better"


def test_the_gap_is_that_between_the_bounds(scenario: Scenario) -> None:
    found = results(scenario)
    assert {name: gap.share for name, gap in found.gaps().items()} == {"base": pytest.approx(2 / 3), "fedavg": pytest.approx(1 / 3)}
    assert headline(found, found.gaps())[0].startswith("base closes 67 % of the gap")
    assert results(scenario, bounds=False).gaps() == {}


def test_a_missing_run_leaves_its_seed_out_of_the_pairs_only(scenario: Scenario) -> None:
    whole = results(scenario)
    rest = [one for one in whole.courses if (one.variant, one.seed) != ("fedavg", 8)]
    table = {row.variant: row for row in Results(whole.variants, rest, "base").tables["accuracy"]}
    assert len(table["base"].values) == 8
    assert table["fedavg"].against is not None
    assert table["fedavg"].against.count == 7


def test_arrivals_count_who_did_not_arrive(scenario: Scenario) -> None:
    found = {(one.variant, one.what): one for one in results(scenario).arrivals("accuracy", 0.74)}
    base, local = found["base", "0.74"], found["local", "0.74"]
    assert (base.reached, base.runs, base.rounds) == (5, 8, 3)
    assert base.seconds == 30.0
    assert (local.reached, local.rounds, local.cap) == (0, None, 4)
    assert len(found) == 8


def test_images_seen_are_told_as_a_share(scenario: Scenario) -> None:
    assert set(results(scenario).visits().values()) == {1.0}


def test_csv_is_tidy_and_complete(scenario: Scenario) -> None:
    found = results(scenario)
    rows = list(csv.DictReader(io.StringIO(tidy(found))))
    assert len(rows) == 4 * 8 * len((*RESULTS, *COSTS))
    assert [row["value"] for row in rows if row["variant"] == "base" and row["metric"] == "f1" and row["seed"] == "2"] == ["0.82"]
    lines = {(row["metric"], row["variant"]): row for row in csv.DictReader(io.StringIO(summed(found)))}
    pooled = lines["accuracy", "pooled"]
    assert (pooled["seeds"], pooled["verdict"], pooled["baseline"], pooled["p_exact"]) == ("8", "better", "base", "0.0078125")
    assert lines["accuracy", "base"]["gap_closed"].startswith("0.666")
    assert lines["accuracy", "base"]["difference"] == ""


@pytest.mark.parametrize(("text", "expected"), [(None, ("accuracy", None)), ("f1=0.9", ("f1", 0.9)), ("auroc", ("auroc", None))])
def test_targets_are_read(text: str | None, expected: tuple[str, float | None]) -> None:
    assert targets(text) == expected


@pytest.mark.parametrize("text", ["acc=0.9", "accuracy=x", "accuracy=90", "accuracy=nan", "=0.9"])
def test_targets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="E613"):
        targets(text)


# ------------------------------------------------------------------ the page


def test_the_page_is_sound_and_says_what_matters(scenario: Scenario) -> None:
    text = sound(page(results(scenario), ABOUT))
    assert "night &lt;shift&gt;" in text
    for said in (
        "synthetic data", "base closes 67 % of the gap", "worse (exact p", "does 3 rounds instead of 4", "5 of 8", "not in 4",
        "nothing here is a claim about real ones", "p2pftl compare x.yaml",
    ):  # fmt: skip
        assert said in text, said
    assert text.count('class="chart-title"') == 4
    assert len(re.findall(r'aria-label="matrix"', text)) == 4


def test_the_page_stands_with_one_seed_without_bounds_and_with_failures(scenario: Scenario) -> None:
    text = sound(page(results(scenario, [1], bounds=False), replace(ABOUT, target=None, failed={"base seed 2": "E304 <too few>"})))
    assert "one seed" in text
    assert "1 seed cannot show it" in text
    assert "E304 &lt;too few&gt;" in text
    assert "cannot be told apart" in text


def answered(variant: str, seed: int, share: float) -> Course:
    """A run whose one twin is right on a share of 24 patients with two images each."""
    patients = np.repeat(np.arange(24), 2)
    right = draw(seed, variant).random(24) < share
    images = Judged(patients, patients % 2, np.where(right[patients], patients % 2, 1 - patients % 2)[None], 24, 2)
    persons = Judged(np.arange(24), np.arange(24) % 2, np.where(right, np.arange(24) % 2, 1 - np.arange(24) % 2)[None], 24, 2)
    values = {**dict.fromkeys((*RESULTS, *PATIENTS), float(right.mean())), **dict.fromkeys(COSTS, 1.0)}
    return replace(made(variant, seed, share), values=values, answers=Answers(images, persons, 0, b"%d" % seed))


def test_patients_and_chosen_twins_and_losses_are_on_the_page_and_in_the_table(scenario: Scenario) -> None:
    rows = [Variant(name, scenario) for name in ("base", "unguarded", "calm")]
    cells = [answered(row.name, seed, share) for row, share in zip(rows, (0.95, 0.5, 1.0), strict=True) for seed in SEEDS]
    found = Results(rows, cells, "base", Chosen(("ct-01",), but=True), "calm")
    table = {row.variant: row for row in found.tables["patient_accuracy"]}
    against = table["unguarded"]
    assert against.persons
    assert against.against is not None
    assert against.apart is not None
    assert against.apart[0] < against.against.mean < against.apart[1] < 0
    assert against.interval is not None
    assert against.interval[0] < fmean(against.values) < against.interval[1]
    text = sound(page(found, ABOUT))
    for said in (
        "all twins but ct-01", "Accuracy by patient (all twins but ct-01)", "Loss against calm", "Is that at most half? Yes.",
        "over the seeds and, within each, the test patients",
    ):  # fmt: skip
        assert said in text, said
    lines = {(row["metric"], row["variant"]): row for row in csv.DictReader(io.StringIO(summed(found)))}
    assert lines["f1", "base"]["resampled"] == "seeds and patients"
    assert lines["auroc", "base"]["resampled"] == "seeds"
    assert lines["f1", "unguarded"]["reference"] == "calm"
    assert float(lines["f1", "unguarded"]["loss_low"]) > 0
    assert lines["f1", "calm"]["loss"] == ""


def test_undefined_metrics_leave_a_page(scenario: Scenario) -> None:
    whole = results(scenario)
    bare = [replace(one, values={**one.values, "auroc": None}, evaluations={"accuracy": ()}) for one in whole.courses]
    assert "Undefined for every run" in sound(page(Results(whole.variants, bare, "base"), ABOUT))


def test_a_bundle_holds_the_last_value_of_every_seed() -> None:
    one, two = made("base", 1, 0.5), made("base", 2, 0.5)
    later = replace(two, evaluations={"accuracy": [replace(at, t=at.t + 5) for at in two.evaluations["accuracy"]]})
    points = bundle("base", [one, later], "accuracy", lambda at: at.t).points
    assert [point[0] for point in points] == [15, 20, 25, 30, 35, 40, 45]
    assert points[0][2:] == pytest.approx((0.21, 0.22))
    assert points[-1][2:] == pytest.approx((0.51, 0.52))
    assert bundle("base", [], "accuracy", lambda at: at.t).points == ()


def test_who_sends_nothing_is_a_level_line_at_its_end() -> None:
    silent = bundle("local", [made("local", 1, 0.6, bytes=0)], "accuracy", lambda at: at.bytes)
    assert [point[:2] for point in silent.points] == [(0.0, pytest.approx(0.61))]
    assert "local" in curves("Test accuracy", "megabytes", [(0, silent)])


def test_many_variants_look_different() -> None:
    assert len({stroke(index) for index in range(18)}) == 18
