from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.score import answered, measure, score
from tests.learning.blobs import blobs

prepare_torch()


def logits(guesses: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(guesses), classes).float() * 4


def test_a_worked_example_by_hand() -> None:
    found = measure(logits([0, 0, 1, 1, 1, 1], 2), torch.tensor([0, 0, 0, 1, 1, 0]))
    assert found["confusion"] == [[2, 2], [0, 2]]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert found["precision"] == pytest.approx((1 + 2 / 4) / 2)
    assert found["recall"] == pytest.approx(0.75)
    assert found["f1"] == pytest.approx((2 * 2 / (4 + 2) + 2 * 2 / (2 + 4)) / 2)
    assert found["auroc"] == pytest.approx((4 * 1 + 4 * 0.5) / 8)  # four pairs in order, four ties
    wrong, right = np.log(1 + np.exp(4)), np.log(1 + np.exp(-4))
    assert found["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)


def test_classes_that_never_occur_count_as_zero_but_not_in_balanced_accuracy() -> None:
    found = measure(logits([0, 0, 1, 1], 4), torch.tensor([0, 0, 1, 1]))
    assert found["accuracy"] == found["balanced_accuracy"] == 1
    assert found["precision"] == found["recall"] == found["f1"] == 0.5
    assert found["auroc"] == 1  # over the two classes that occur


def test_the_area_is_missing_where_one_class_is_alone() -> None:
    assert measure(logits([0, 1], 2), torch.tensor([1, 1]))["auroc"] is None
    assert measure(logits([0, 1], 3), torch.tensor([2, 2]))["auroc"] is None


def test_nobody_to_score_leaves_everything_undefined() -> None:
    found = measure(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert found.pop("confusion") == [[0] * 3] * 3
    assert set(found.values()) == {None}


def test_scores_of_a_broken_model_are_missing_not_nan() -> None:
    found = measure(torch.full((4, 2), float("nan")), torch.tensor([0, 1, 0, 1]))
    assert found["loss"] is None
    assert found["auroc"] is None
    json.dumps(found, allow_nan=False)


@st.composite
def answers(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    classes, n = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    values = draw(st.lists(st.lists(st.integers(-3, 3), min_size=classes, max_size=classes), min_size=n, max_size=n))
    return torch.tensor(values, dtype=torch.float32), torch.tensor(labels)


@given(answers())
def test_every_metric_follows_its_definition(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    given_logits, labels = case
    found = measure(given_logits, labels)
    classes, guessed = given_logits.shape[1], given_logits.argmax(1)
    table = np.array([[int(((labels == t) & (guessed == p)).sum()) for p in range(classes)] for t in range(classes)])
    hits, true, said = np.diag(table).astype(float), table.sum(1), table.sum(0)
    recall = np.divide(hits, true, out=np.zeros(classes), where=true > 0)
    precision = np.divide(hits, said, out=np.zeros(classes), where=said > 0)
    assert found["confusion"] == table.tolist()
    assert found["accuracy"] == pytest.approx(hits.sum() / len(labels))
    assert found["recall"] == pytest.approx(recall.mean())
    assert found["balanced_accuracy"] == pytest.approx(recall[true > 0].mean())
    assert found["precision"] == pytest.approx(precision.mean())
    assert found["f1"] == pytest.approx(np.divide(2 * hits, true + said, out=np.zeros(classes), where=true + said > 0).mean())
    assert found["auroc"] == (None if len(labels.unique()) < 2 else pytest.approx(pairwise_area(given_logits, labels)))


def pairwise_area(given_logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Chance that a positive outranks a negative, ties counting half: AUROC by its meaning."""
    chances = torch.softmax(given_logits.double(), 1)
    areas = []
    for c in [1] if given_logits.shape[1] == 2 else labels.unique().tolist():
        gap = chances[labels == c, c][:, None] - chances[labels != c, c][None]
        areas.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    return sum(areas) / len(areas)


def test_a_cohort_scores_the_same_in_batches_of_any_size_and_the_model_is_not_changed() -> None:
    model, cohort = Model(ModelSpec(), 2, 3), blobs(10)
    vector = model.take()
    whole = score(model, vector, cohort, 2)
    parts = score(model, vector, cohort, 2, batch=3)
    assert np.array_equal(model.take(), vector)
    assert parts.pop("confusion") == whole.pop("confusion")
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 7])
def test_single_answers_are_those_of_the_confusion_matrix(classes: int) -> None:
    rng = np.random.default_rng(classes)
    truth, given = rng.integers(0, classes, 50), torch.from_numpy(rng.normal(size=(50, classes)))
    said = np.frombuffer(answered(given)["classes"], np.uint8)
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (truth, said), 1)
    assert measure(given, torch.from_numpy(truth))["confusion"] == matrix.tolist()
    sums = np.frombuffer(answered(given)["chances"], np.uint8).reshape(50, classes).sum(1, dtype=int)
    assert np.abs(sums - 255).max() <= classes / 2


def test_single_answers_are_told_when_asked_for_and_change_nothing_else() -> None:
    model, cohort = Model(ModelSpec(), 2, 3), blobs(12)
    vector = model.take()
    plain, told = (score(model, vector, cohort, 2, single=single) for single in (False, True))
    assert len(told["answers"]["classes"]) == 12
    assert len(told["answers"]["chances"]) == 24
    assert told == {**plain, "answers": told["answers"]}
