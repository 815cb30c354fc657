"""Single answers: joined with whose images they are, judged by image and by patient, and drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2pftl import events as fact  # pytest takes a `Tested` in reach for a class of tests
from p2pftl.compare.answers import MEASURES, Answers, Judged, answers, measured
from p2pftl.compare.course import PATIENTS, Chosen, Course, course
from p2pftl.compare.resampling import ROUNDS, Resampling, over_seeds, weights
from p2pftl.compare.statistics import limits, resamples
from p2pftl.draw import draw
from p2pftl.events import MOST_TESTED, Event, RunPlanned, Scored, tellable
from p2pftl.learning.score import answered, measure
from p2pftl.observe.summary import Summary
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import compile_plan

RNG = draw(21, "answers")


def told(chances: Sequence[Sequence[float]], twin: str = "a") -> fact.Tested:
    """Of a model with these probabilities."""
    return fact.Tested(t=1.0, twin=twin, round=0, **answered(torch.log(torch.tensor(chances))))


def joined(chances: Sequence[Sequence[float]], patients: Sequence[int], truth: Sequence[int]) -> Answers:
    classes = len(chances[0])
    one = told(chances)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (truth, list(one.classes)), 1)
    found = answers({"test_patients": list(patients), "test_labels": list(truth)}, classes, {"a": one}, {"a": confusion.tolist()})
    assert found is not None
    return found


def judged(right: np.ndarray, patients: np.ndarray) -> Judged:
    """One twin, two classes in turn by patient; right [K]: whether each is taken for what it is."""
    truth = patients % 2
    return Judged(patients, truth, np.where(right, truth, 1 - truth)[None], int(patients.max()) + 1, 2)


def cell(seed: int, right: np.ndarray, patients: np.ndarray, test: bytes = b"", variant: str = "base") -> Course:
    images = judged(right, patients)
    single = Answers(images, images, 0, test or f"{seed}".encode())
    return Course(variant, seed, {}, {}, (), (), True, "done", 1, len(right), single)


# ------------------------------------------------------------------ answers and measures


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_measures_are_those_that_the_score_gives(classes: int) -> None:
    for _ in range(5):
        truth = RNG.integers(0, classes - (classes > 2), 30)
        logits = torch.from_numpy(RNG.normal(size=(30, classes)))
        expected, found = measure(logits, torch.from_numpy(truth)), answered(logits)
        said = np.frombuffer(found["classes"], np.uint8).astype(np.int64)
        mine = Judged(np.arange(30) // 2, truth, said[None], 15, classes).measures()
        assert {name: mine[name][0] for name in MEASURES} == pytest.approx({name: dict(expected)[name] for name in MEASURES}, abs=1e-6)


def test_probabilities_are_kept_to_a_255th_and_broken_ones_are_zero() -> None:
    chances = RNG.dirichlet([1, 1, 1], 40)
    found = answered(torch.log(torch.from_numpy(chances)))
    assert np.abs(np.frombuffer(found["chances"], np.uint8).reshape(40, 3) / 255 - chances).max() <= 0.5 / 255 + 1e-9
    assert set(answered(torch.full((2, 2), float("nan")))["chances"]) == {0}


def test_weights_count_a_patient_so_many_times() -> None:
    patients, truth, said = (RNG.integers(0, high, 24) for high in (6, 3, 3))
    one = Judged(patients, truth, np.array([said, truth]), 6, 3)
    times = np.array([[2, 0, 1, 3, 0, 1]], float)
    rows = np.repeat(np.arange(24), times[0][patients].astype(int))
    again = Judged(patients[rows], truth[rows], np.array([said[rows], truth[rows]]), 6, 3)
    assert one.measures(times)["accuracy"] == pytest.approx(again.measures()["accuracy"])
    if set(truth[rows]) == set(truth):
        assert one.measures(times)["f1"] == pytest.approx(again.measures()["f1"])


def test_a_class_that_a_resample_lacks_is_left_out_and_one_never_tested_counts_as_zero() -> None:
    counts = np.array([[[4.0, 0, 0], [0, 0, 0], [0, 0, 0]]])
    found = measured(counts, np.array([True, True, False]))
    assert (found["balanced_accuracy"][0], found["recall"][0], found["precision"][0], found["f1"][0]) == (1.0, 0.5, 0.5, 0.5)
    assert np.isnan(measured(np.zeros((1, 2, 2)), np.array([True, True]))["accuracy"]).all()


def test_a_patient_is_what_its_images_say_on_the_mean() -> None:
    chances = [[0.45, 0.55], [0.45, 0.55], [0.95, 0.05], [0.2, 0.8]]  # two of three images of patient 0 say 1, the mean says 0
    found = joined(chances, [0, 0, 0, 1], [0, 0, 0, 1])
    assert found.persons.said.tolist() == [[0, 1]]
    assert found.images.measures()["accuracy"][0] == pytest.approx(0.5)
    assert found.persons.measures()["accuracy"][0] == 1.0
    assert found.slices
    assert not joined(chances, [0, 1, 2, 3], [0, 0, 0, 1]).slices


def test_a_patient_with_images_of_several_classes_is_left_out() -> None:
    found = joined([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], [0, 0, 1], [0, 1, 1])
    assert (found.several, found.persons.truth.tolist(), found.persons.of.tolist()) == (1, [1], [1])


def test_one_image_a_patient_makes_both_levels_the_same_however_near_the_chances() -> None:
    chances = RNG.dirichlet([90, 90, 90], 200)
    found = joined(chances.tolist(), range(200), RNG.integers(0, 3, 200).tolist())
    assert (found.persons.said == found.images.said).all()


def test_answers_that_do_not_fit_the_scores_are_none() -> None:
    data: dict[str, Any] = {"test_patients": [0, 1], "test_labels": [0, 1]}
    one = told([[0.9, 0.1], [0.1, 0.9]])
    fits = [[1, 0], [0, 1]]
    assert answers(data, 2, {"a": one}, {"a": fits}) is not None
    assert answers({}, 2, {"a": one}, {"a": fits}) is None  # an older run
    assert answers(data, 2, {}, {"a": fits}) is None  # a twin that left
    assert answers(data, 2, {"a": one}, {"a": [[0, 1], [0, 1]]}) is None  # of another model
    assert answers(data, 2, {"a": replace(one, classes=b"\0")}, {"a": fits}) is None
    assert answers(data, 2, {"a": one}, {}) is None


def test_a_run_too_large_tells_no_answers() -> None:
    one: Any = answered(torch.zeros(1000, 2))
    assert tellable(one, 1000)
    assert not tellable(one, MOST_TESTED // 3000 + 1)


def test_a_course_counts_the_chosen_twins_only() -> None:
    chances = {"ct-01": [[0.9, 0.1]] * 4, "ct-02": [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]}
    facts = {"data": {"test_patients": [0, 0, 1, 1], "test_labels": [0, 0, 1, 1], "test": 4}}
    events: list[Event] = [RunPlanned(t=0.0, name="n", seed=1, rounds=1, classes=("x", "y"), synthetic=True, facts=facts)]
    for name, rows in chances.items():
        metrics = measure(torch.log(torch.tensor(rows)), torch.tensor([0, 0, 1, 1]))
        events += [Scored(t=1.0, twin=name, round=0, split="test", metrics=metrics), told(rows, name)]
    whole = Summary()
    for event in events:
        whole(event)
    document = whole.document(digest="", executor="local", wall_seconds=0.0)
    everybody = course("base", 1, document, events)
    assert (everybody.values["accuracy"], everybody.values["patient_accuracy"], everybody.twins) == (0.75, 0.75, 2)
    for chosen in (Chosen(("ct-01",), but=True), Chosen(("ct-02",))):
        one = course("base", 1, document, events, chosen)
        assert (one.values["accuracy"], one.values["worst_accuracy"], one.values["patient_f1"], one.twins) == (1.0, 1.0, 1.0, 1)
        assert one.evaluations["accuracy"][-1].value == 1.0
        assert one.answers is not None
        assert len(one.answers.images.said) == 1
    old = course("base", 1, document, [event for event in events if not isinstance(event, fact.Tested)])
    assert old.answers is None
    assert {old.values[metric] for metric in PATIENTS} == {None}


def test_choosing_twins_is_said_in_words() -> None:
    assert [str(Chosen()), str(Chosen(("a", "b"))), str(Chosen(("a",), but=True))] == ["all twins", "a, b", "all twins but a"]
    assert "pool" in Chosen(("a",))


def test_the_plan_tells_whose_the_images_are_by_numbers_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("rounds: 2\nseed: 1\ntopology: {use: ring, twins: 4}\ndata: {use: phantom, patients: 40}\n", encoding="utf-8")
    plan = compile_plan(load(file))
    test, data = next(iter(plan.shards.values())).test, plan.facts()["data"]
    assert data["test_labels"] == [sample.label for sample in test]
    assert [a == b for a, b in pairwise(data["test_patients"])] == [a.patient == b.patient for a, b in pairwise(test)]
    assert list(dict.fromkeys(data["test_patients"])) == list(range(len({sample.patient for sample in test})))
    assert plan.pooled().facts()["data"]["test_patients"] == data["test_patients"]


# ------------------------------------------------------------------ drawing again


def test_the_interval_over_one_seed_is_the_plain_bootstrap_over_patients() -> None:
    right = RNG.random(60) < 0.7
    drawn = Resampling([one := cell(1, right, np.arange(60))]).means("accuracy", [[one]])
    assert drawn is not None
    low, high = limits(drawn[0])
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 60)
    assert (low, high) == pytest.approx((right.mean() - half, right.mean() + half), abs=0.03)


def test_images_of_a_patient_are_drawn_together() -> None:
    right = np.repeat(RNG.random(20) < 0.6, 5)
    together, apart = (
        limits(found[0])
        for patients in (np.repeat(np.arange(20), 5), np.arange(100))
        if (found := Resampling([one := cell(1, right, patients)]).means("accuracy", [[one]])) is not None
    )
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_a_difference_is_taken_on_the_same_patients() -> None:
    right = RNG.random(40) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:4]] = True
    cells = [[cell(seed, which, np.arange(40), variant=name) for seed in (1, 2)] for name, which in (("a", right), ("b", better))]
    drawn = Resampling([one for row in cells for one in row]).means("accuracy", cells)
    assert drawn is not None
    assert ((drawn[1] - drawn[0]) >= 0).all()
    assert limits(drawn[1] - drawn[0])[1] < 0.2 < np.diff(limits(drawn[0]))[0]


def test_patients_common_to_all_seeds_are_drawn_once_and_seeds_do_not_make_them_more() -> None:
    right = RNG.random(50) < 0.7
    widths = []
    for tests in ([b"same"] * 6, [f"{seed}".encode() for seed in range(6)]):
        cells = [cell(seed, right, np.arange(50), test) for seed, test in enumerate(tests)]
        found = Resampling(cells).means("accuracy", [cells])
        assert found is not None
        widths.append(np.diff(limits(found[0]))[0])
    assert widths[0] > 2 * widths[1]


def test_patients_cannot_be_drawn_where_answers_lack_or_images_differ() -> None:
    one, two = cell(1, np.ones(8, bool), np.arange(8), b"x"), cell(1, np.ones(8, bool), np.arange(8), b"y", "other")
    both = Resampling([one, two])
    assert both.means("accuracy", [[one], [two]]) is None
    assert both.means("accuracy", [[one], [replace(two, answers=None)]]) is None
    assert both.means("auroc", [[one]]) is None
    assert both.means("accuracy", [[]]) is None
    assert both.means("accuracy", [[one]]).tolist() == [[1.0] * ROUNDS]  # type: ignore[union-attr]


def test_seeds_alone_are_drawn_as_before() -> None:
    found = over_seeds([[0.1, 0.2, 0.6]])
    assert found is not None
    assert found.shape == (1, len(resamples(3)))
    assert found.mean() == pytest.approx(0.3)
    assert over_seeds([[0.1]]) is None
    assert over_seeds([[]]) is None


def test_draws_are_the_same_again_and_keep_the_number_of_patients() -> None:
    assert (weights(7, 1).sum(1) == 7).all()
    assert (weights(7, 1) != weights(7, 2)).any()


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Seeds with levels of their own, patients within: 8 seeds of 40, true accuracy 0.7; percentile intervals are a little short."""
    rng, inside = draw(4, "coverage"), 0
    for _ in range(60):
        levels = np.clip(rng.normal(0.7, 0.08, 8), 0, 1)
        cells = [cell(seed, rng.random(40) < level, np.arange(40)) for seed, level in enumerate(levels)]
        found = Resampling(cells).means("accuracy", [cells])
        assert found is not None
        low, high = limits(found[0])
        inside += low <= 0.7 <= high
    assert inside >= 51
