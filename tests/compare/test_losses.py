"""What is lost against a reference, as a share of what another loses, and when that may be called at most half."""

from __future__ import annotations

import numpy as np
import pytest

from p2pftl.compare.losses import Ratio, loss, ratio
from p2pftl.compare.resampling import over_seeds
from p2pftl.draw import draw

NAMES = ("guarded", "unguarded")


def told(first: float, second: float, noise: float, seeds: int = 6, calm: float = 0.9) -> Ratio:
    """Losses of that much on the mean, with that much noise from seed to seed."""
    rng = draw(8, "losses", f"{first} {second} {noise}")
    parts = rng.normal(0.0, noise, (2, seeds))
    parts -= parts.mean(axis=1, keepdims=True)
    values = [[calm] * seeds, *([calm - lost + one for one in part] for lost, part in zip((first, second), parts, strict=True))]
    return ratio(NAMES, values, over_seeds(values))


def test_a_loss_is_reference_minus_variant_with_its_interval() -> None:
    values = [[0.9, 0.8, 0.85], [0.8, 0.75, 0.7]]
    found = loss("guarded", values, over_seeds(values))
    assert found.value == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.05, 0.15))
    assert loss("guarded", [[0.9], [0.8]], None).interval is None


@pytest.mark.parametrize(
    ("first", "second", "noise", "word", "share"),
    [
        (0.02, 0.10, 0.005, "at most half", 0.2),
        (-0.02, 0.10, 0.005, "at most half", -0.2),
        (0.09, 0.10, 0.005, "more than half", 0.9),
        (0.05, 0.10, 0.02, "undecided", 0.5),
    ],
)
def test_the_interval_decides(first: float, second: float, noise: float, word: str, share: float) -> None:
    found = told(first, second, noise)
    assert (found.word, found.share) == (word, pytest.approx(share))
    assert found.interval is not None
    assert found.interval[0] < share < found.interval[1]


def test_a_ratio_of_constant_losses_has_a_point_for_an_interval() -> None:
    found = told(0.025, 0.1, 0.0)
    assert found.interval == pytest.approx((0.25, 0.25))


def test_the_sentence_says_it_all() -> None:
    assert told(0.025, 0.1, 0.0).sentence("accuracy", "calm") == (
        "On accuracy, guarded loses 0.025 against calm, unguarded 0.100: 25 % of it (95 % interval 25 to 25 %). Is that at most half? Yes."
    )
    assert told(0.09, 0.1, 0.005).sentence("f1", "calm").endswith("Is that at most half? No.")
    assert told(0.05, 0.1, 0.02).sentence("f1", "calm").endswith("Is that at most half? Undecided: the interval allows both.")


def test_where_nothing_is_lost_no_share_is_told() -> None:
    found = told(0.02, -0.01, 0.005)
    assert (found.share, found.interval, found.word, found.reason) == (None, None, "undecided", "unguarded loses nothing")
    doubtful = told(0.01, 0.02, 0.1)
    assert (doubtful.interval, doubtful.word) == (None, "undecided")
    assert "not shown that unguarded loses anything" in doubtful.reason


def test_one_seed_without_patients_decides_nothing() -> None:
    found = ratio(NAMES, [[0.9], [0.89], [0.7]], None)
    assert (found.share, found.word) == (pytest.approx(0.05), "undecided")


def test_a_claim_of_at_most_half_is_seldom_wrong_where_the_share_is_just_above() -> None:
    rng, wrong = draw(5, "claims"), 0
    for _ in range(150):
        values = [np.full(8, 0.9), 0.9 - rng.normal(0.055, 0.02, 8), 0.9 - rng.normal(0.1, 0.02, 8)]
        wrong += ratio(NAMES, values, over_seeds(values)).word == "at most half"  # type: ignore[arg-type]
    assert wrong <= 9
