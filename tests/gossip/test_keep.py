"""Aggregators that do not average with the own model."""

from __future__ import annotations

import numpy as np
import pytest

from p2pftl.gossip.keep import Adopt, KeepOwn
from p2pftl.gossip.seams import Copy, Heard

OWN = Copy(np.zeros(3, np.float32), age=2.0)


def heard(sender: str, value: float, weight: float, age: float = 5.0) -> Heard:
    return Heard(sender, 0, Copy(np.full(3, value, np.float32), age), weight, 10, 0.0)


def test_keep_own_changes_nothing_and_says_that_nobody_had_influence() -> None:
    merged, weights = KeepOwn().merge(OWN, [heard("b", 4, 0.5), heard("a", 1, 0.2)])
    assert merged is OWN
    assert weights == {"a": 0.0, "b": 0.0}


def test_adopt_is_what_came_and_the_own_model_without() -> None:
    assert Adopt().merge(OWN, []) == (OWN, {})
    merged, weights = Adopt().merge(OWN, [heard("b", 4, 0.25)])
    assert (merged.vector == 4).all()
    assert (merged.age, weights) == (5.0, {"b": 1.0})


def test_adopt_averages_several_by_weight_whatever_their_order() -> None:
    some = [heard("b", 4, 0.3), heard("a", 1, 0.1), heard("c", -2, 0.2, age=9.0)]
    (one, weights), (other, _) = Adopt().merge(OWN, some), Adopt().merge(OWN, some[::-1])
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.vector[0] == pytest.approx((4 * 0.3 + 0.1 - 2 * 0.2) / 0.6)
    assert sum(weights.values()) == pytest.approx(1)
    assert one.age == 9.0
