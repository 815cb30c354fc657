"""The statistics of a comparison against scipy, against answers known by hand, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from p2pftl.compare.statistics import (
    ALL_SIGNS,
    Paired,
    bootstrap,
    gap_closed,
    holm,
    least_p,
    paired,
    paired_t,
    resamples,
    seeds_needed,
    sign_flip,
    verdict,
)
from p2pftl.draw import draw

SAMPLES = [draw(3, "sample", count).normal(0.3, 1.0, count) for count in (2, 3, 4, 5, 7, 10)]


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_sign_flip_is_scipys_exact_permutation_test(sample: np.ndarray) -> None:
    expected = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(sample) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_paired_t_and_its_interval_are_scipys(sample: np.ndarray) -> None:
    found, expected = paired(sample, np.zeros(len(sample))), stats.ttest_1samp(sample, 0.0)
    assert found.t == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert (found.count, found.mean) == (len(sample), pytest.approx(sample.mean()))


@pytest.mark.parametrize("sample", SAMPLES, ids=len)
def test_bootstrap_agrees_with_scipys(sample: np.ndarray) -> None:
    expected = stats.bootstrap(
        (sample,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap(sample) == pytest.approx(tuple(expected), abs=0.04 * np.ptp(sample))


def test_few_values_are_resampled_in_every_way() -> None:
    assert sorted(map(tuple, resamples(2))) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({tuple(row) for row in resamples(4)}) == 4**4
    assert bootstrap([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert bootstrap([0.4]) is None


def test_many_differences_draw_signs_and_never_give_zero() -> None:
    sample = draw(5, "many").normal(0.4, 1.0, ALL_SIGNS + 1)
    exact = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip(sample) == pytest.approx(exact, abs=0.01)
    assert 0 < sign_flip(np.ones(40)) < 0.001


def test_the_sign_flip_test_keeps_its_level() -> None:
    rng = draw(11, "level")
    chances = [sign_flip(rng.standard_t(2, 8)) for _ in range(400)]
    assert np.mean(np.array(chances) < 0.05) < 0.085


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 9])
def test_the_least_p_is_that_of_differences_with_one_sign(count: int) -> None:
    assert sign_flip(np.arange(1.0, count + 1)) == least_p(count)


def test_five_seeds_cannot_show_anything_and_six_can() -> None:
    assert least_p(5) == 0.0625
    assert [seeds_needed(rows) for rows in (1, 2, 3, 6)] == [6, 7, 7, 8]


def test_holm_is_the_example_of_the_textbook_and_leaves_what_is_unknown() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.04, None, 0.01]) == [pytest.approx(0.04), None, pytest.approx(0.02)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_never_below_nor_beyond_bonferroni_and_keeps_the_order() -> None:
    chances = list(draw(2, "holm").random(9) * 0.02)
    adjusted = holm(chances)
    assert all(p <= q <= min(1.0, 9 * p) for p, q in zip(chances, adjusted, strict=True) if q is not None)
    assert np.all(np.diff(np.array(adjusted, float)[np.argsort(chances)]) >= 0)


def test_equal_differences_have_no_t() -> None:
    assert paired_t([0.1, 0.1, 0.1]) is None
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.3]) is None
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="nothing"):
        paired([], [])


def test_gap_closed_of_known_bounds() -> None:
    lower, upper = [0.5, 0.6, 0.55], [0.9, 1.0, 0.95]
    half = [0.7, 0.8, 0.75]
    found = gap_closed(half, lower, upper)
    assert (found.share, found.interval) == (pytest.approx(0.5), pytest.approx((0.5, 0.5)))
    assert gap_closed(lower, lower, upper).share == pytest.approx(0.0)
    assert gap_closed(upper, lower, upper).share == pytest.approx(1.0)


def test_without_a_gap_there_is_no_share_of_it() -> None:
    assert gap_closed([0.7], [0.8], [0.8]) == gap_closed([0.1], [0.8], [0.7])
    assert "not above" in gap_closed([0.7], [0.8], [0.8]).reason
    near = gap_closed([0.7, 0.7, 0.7], [0.5, 0.6, 0.7], [0.7, 0.6, 0.6])
    assert near.share is not None
    assert near.interval is None
    assert "too near" in near.reason
    assert gap_closed([], [], []).share is None
    assert gap_closed([0.7], [0.5], [0.9]).interval is None


def test_a_verdict_claims_nothing_that_the_seeds_cannot_show() -> None:
    sure = paired([0.9, 0.91, 0.92], [0.5, 0.5, 0.52])
    found = verdict(sure, sure.exact, sure.t, 1)
    assert found.word == "undecided"
    assert found.sentence.startswith("undecided: 3 seeds cannot show it (6 needed for a row)")
    assert "t test" in found.sentence
    assert verdict(paired([0.9], [0.1]), 1.0, None, 1).sentence == "undecided: 1 seed cannot show it"


def test_a_verdict_says_better_or_worse_when_the_exact_test_does() -> None:
    mine, theirs = np.linspace(0.8, 0.9, 8), np.linspace(0.7, 0.8, 8)
    up, down = paired(mine, theirs), paired(theirs, mine)
    assert verdict(up, up.exact, up.t, 1).word == "better"
    assert verdict(down, down.exact, down.t, 1).word == "worse"
    assert verdict(up, up.exact, up.t, 1, higher_is_better=False).word == "worse"
    mixed = paired([1.0, 0.0] * 4, [0.0, 1.0] * 4)
    assert verdict(mixed, mixed.exact, mixed.t, 2).sentence == "undecided: the exact p is 1.000"


def test_equal_results_are_said_to_be_equal() -> None:
    same = Paired(3, 0.0, (0.0, 0.0), 1.0, 1.0)
    assert verdict(same, 1.0, 1.0, 1).sentence == "undecided: equal on 3 seeds"
