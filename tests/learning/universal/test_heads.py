"""Twins whose classes differ, with one encoder and one layout."""

from __future__ import annotations

import numpy as np

from p2pftl.learning.classification import Classification
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import FedPer, Full, Transfer
from p2pftl.learning.universal.heads import PrivateHead
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.spec import EncoderSpec
from p2pftl.params import Vector
from tests.learning.universal.shapes import domain

prepare_torch()
SPEC = EncoderSpec(width=8)
MODEL = Universal(SPEC, 5, 1)
START = MODEL.take()
RECIPE = Recipe(optimizer="adam", lr=2e-3, batch=8, epochs=3)


def task(classes: int, transfer: Transfer | None = None, name: str = "ct-01") -> PrivateHead:
    one = domain(classes, classes)
    cohorts = {"train": one.train, "validation": one.test, "test": one.test}
    return PrivateHead(name, MODEL, START, cohorts, RECIPE, transfer or FedPer(), 7, classes)


def rows(vector: Vector) -> Vector:
    return MODEL.layout.tensors(vector)["head.weight"]


def test_twins_with_other_classes_have_one_layout_and_share_the_encoder_only() -> None:
    two, five = task(2), task(5)
    assert two.layout.digest == five.layout.digest
    shared = two.work(0, Scene()).shared
    assert shared == five.work(0, Scene()).shared
    assert two.layout.ranges(shared) == ((0, MODEL.encoder),)


def test_outputs_that_a_twin_has_no_class_for_stay_as_they_were() -> None:
    learnt = task(3).fit(START, 0, Scene(), None).vector
    assert np.array_equal(rows(learnt)[3:], rows(START)[3:])
    assert not np.array_equal(rows(learnt)[:3], rows(START)[:3])


def test_a_score_knows_a_twin_s_own_classes_only() -> None:
    found = task(3).score(START, "test", Scene(), 0)
    assert np.shape(found["confusion"]) == (3, 3)
    assert np.sum(found["confusion"]) == 24


def test_a_large_head_with_unused_outputs_learns_as_a_small_one() -> None:
    small = Universal(SPEC, 2, 1)
    one = domain(2, 2)
    cohorts = {"train": one.train, "validation": one.test, "test": one.test}
    tensors = MODEL.layout.tensors(START)
    begin = small.layout.vector({**tensors, "head.weight": tensors["head.weight"][:2], "head.bias": tensors["head.bias"][:2]})
    own = Classification("ct-01", small, begin, cohorts, RECIPE, Full(), 7, 2).fit(begin, 0, Scene(), None)
    mine = task(2, Full()).fit(START, 0, Scene(), None)
    assert abs(own.loss - mine.loss) < 1e-4
    assert np.allclose(own.vector[: small.encoder], mine.vector[: MODEL.encoder], atol=2e-3)


def test_the_model_counts_all_outputs_again_after_a_fit_and_a_score() -> None:
    one = task(2)
    one.score(one.fit(START, 0, Scene(), None).vector, "test", Scene(), 0)
    assert MODEL.outputs == MODEL.classes == 5


def test_heads_of_other_meaning_are_never_fitted_together() -> None:
    assert not task(2).together
    assert task(2).fit_together([]) == set()


def test_two_twins_in_turn_learn_what_each_learns_alone() -> None:
    alone = task(3).fit(START, 0, Scene(), None).vector
    task(5, name="ct-02").fit(START, 0, Scene(), None)
    assert task(3).fit(START, 0, Scene(), None).vector.tobytes() == alone.tobytes()
