"""What an encoder knows, measured; and what two encoders differ by."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from p2pftl.draw import draw
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.probe import compared, leave_one_out, pooled, probe, ridge_scores, signed_ranks
from p2pftl.learning.universal.spec import EncoderSpec
from tests.learning.universal.shapes import domain, stripes

prepare_torch()
SPEC = EncoderSpec(width=8)
DECODER, HEAD = Universal(SPEC, 0, 1), Universal(SPEC, 3, 1)


def test_features_are_those_that_a_head_sees_whatever_the_end_is() -> None:
    encoder, cohort = HEAD.take()[: HEAD.encoder], stripes(10)
    assert pooled(HEAD, encoder, cohort).shape == (10, 64)
    assert np.array_equal(pooled(HEAD, encoder, cohort), pooled(DECODER, encoder, cohort))


def test_a_probe_finds_the_direction_of_stripes_and_nothing_in_labels_without_meaning() -> None:
    encoder = HEAD.take()[: HEAD.encoder]
    assert probe(HEAD, encoder, domain(2, 1)) > 0.9
    assert probe(HEAD, encoder, domain(4, 1, train=48)) > 0.6


def test_the_probe_is_ridge_regression() -> None:
    rng = draw(1, "ridge")
    train, test = rng.normal(2, 3, (40, 5)), rng.normal(2, 3, (9, 5))
    labels = np.arange(40) % 2
    x = np.c_[(train - train.mean(0)) / train.std(0), np.ones(40)]
    shrunk = np.diag([0.5] * 5 + [0.0])
    known = np.linalg.solve(x.T @ x + shrunk, x.T @ np.eye(2)[labels])
    asked = np.c_[(test - train.mean(0)) / train.std(0), np.ones(9)]
    assert np.allclose(ridge_scores(train, labels, test, 2, ridge=0.5), asked @ known)


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    rng = draw(2, "ridge")
    train, labels = rng.normal(0, 1, (30, 3)), np.repeat([0, 1], [24, 6])
    twice = np.concatenate((train, *[train[24:]] * 3))
    again = np.concatenate((labels, [1] * 18))
    ours, theirs = (ridge_scores(x, y, train, 2, ridge=1e-9) for x, y in ((train, labels), (twice, again)))
    assert np.allclose(ours, theirs)


def test_a_domain_is_left_out_of_what_is_learnt_for_it() -> None:
    seen = []
    found = leave_one_out({"a": 1, "b": 2, "c": 3}, lambda rest: seen.append(dict(rest)) or np.array([sum(rest.values())], np.float32))  # type: ignore[func-returns-value]
    assert {name: float(vector[0]) for name, vector in found.items()} == {"a": 5, "b": 4, "c": 3}
    assert seen == [{"b": 2, "c": 3}, {"a": 1, "c": 3}, {"a": 1, "b": 2}]


@pytest.mark.parametrize("n", [1, 5, 8, 12])
def test_the_paired_test_is_wilcoxon_s_exact_one(n: int) -> None:
    differences = draw(n, "differences").normal(0.3, 1, n)
    assert signed_ranks(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


def test_ties_share_ranks_and_equal_domains_say_nothing() -> None:
    assert signed_ranks(np.array([0.1, 0.1, 0.1, 0.0])) == pytest.approx(0.25)
    assert signed_ranks(np.zeros(4)) == 1.0
    assert signed_ranks(np.full(20, 0.5)) < 1e-3


def test_eight_domains_that_all_gain_reach_the_smallest_p_that_eight_can() -> None:
    mine = {str(k): 0.6 + 0.01 * k for k in range(8)}
    found = compared(mine, dict.fromkeys(mine, 0.5))
    assert found.p == 2**-7
    assert (found.n, found.difference) == (8, pytest.approx(0.135))
    with pytest.raises(ValueError, match="same domains"):
        compared(mine, {"0": 0.5})
