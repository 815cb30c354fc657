"""Every registered aggregator: order changes no bit, nothing leaves the hull of what was given; each then equals its publication."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.gossip.aggregators import AgeWeighted, PushSum, WeightedMean
from p2pftl.gossip.seams import Aggregator, Copy, Heard
from p2pftl.params import Vector
from p2pftl.policies import find, registered

calm = settings(deadline=None, max_examples=60)
SIZE = 4
REGISTERED = [find("aggregator", name)() for name in sorted(registered("aggregator"))]
every = pytest.mark.parametrize("policy", REGISTERED, ids=lambda policy: type(policy).__name__)
vectors = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=SIZE, max_size=SIZE).map(
    lambda values: np.array(values, np.float32)
)


@st.composite
def copies(draw: st.DrawFn) -> Copy:
    age = draw(st.sampled_from([0.0, 1.0, 7.0, 1e9]))
    return Copy(draw(vectors), age, draw(st.sampled_from([1.0, 0.25, 3.0, 1e-9])))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Copy, list[Heard]]:
    """An own copy and what was heard, with weights that leave the twin a share; one sender may be heard of several rounds."""
    keys = draw(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.sampled_from([0.0, 0.5, 2.0])), unique=True, max_size=8)
    )
    weights = [draw(st.floats(0, 1)) / (len(keys) + 1) for _ in keys]
    heard = [
        Heard(sender, round, draw(copies()), weight, draw(st.integers(1, 99)), staleness)
        for (sender, round, staleness), weight in zip(keys, weights, strict=True)
    ]
    return draw(copies()), heard


def heard(*others: Copy, weight: float = 0.25) -> list[Heard]:
    return [Heard(f"t{i}", 0, copy, weight, 10, 0.0) for i, copy in enumerate(others)]


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


@every
@calm
@given(scene=scenes(), data=st.data())
def test_the_order_of_what_was_heard_changes_no_bit(policy: Aggregator, scene: tuple[Copy, list[Heard]], data: st.DataObject) -> None:
    own, updates = scene
    shuffled = data.draw(st.permutations(updates))
    (first, weights), (second, again) = policy.merge(own, updates), policy.merge(own, shuffled)
    assert first.vector.tobytes() == second.vector.tobytes()
    assert (first.age, first.mass, weights) == (second.age, second.mass, again)
    assert list(weights) == list(again) == sorted({update.sender for update in updates})


@every
@calm
@given(scene=scenes())
def test_a_merge_stays_within_what_was_given_and_changes_none_of_it(policy: Aggregator, scene: tuple[Copy, list[Heard]]) -> None:
    own, updates = scene
    given_ = [own.vector, *(update.copy.vector for update in updates)]
    before = [values.copy() for values in given_]
    merged, weights = policy.merge(own, updates)
    assert all((now == then).all() for now, then in zip(given_, before, strict=True))
    assert merged.vector.dtype == np.float32
    slack = 1e-6 * np.abs(np.stack(given_)).max()
    assert (merged.vector >= np.min(given_, axis=0) - slack).all()
    assert (merged.vector <= np.max(given_, axis=0) + slack).all()
    assert all(0 <= weight <= 1 for weight in weights.values())


@every
@calm
@given(own=copies())
def test_nothing_heard_is_no_change(policy: Aggregator, own: Copy) -> None:
    merged, weights = policy.merge(own, [])
    assert (merged.vector == own.vector).all()
    assert (merged.age, merged.mass, weights) == (own.age, own.mass, {})


@every
def test_the_largest_finite_numbers_stay_finite(policy: Aggregator) -> None:
    largest = Copy(np.full(SIZE, np.finfo(np.float32).max), 3.0, 2.0)
    merged, _ = policy.merge(largest, heard(*[largest] * 6, weight=1 / 7))
    assert np.isfinite(merged.vector).all()


@every
@calm
@given(own=copies(), fanout=st.integers(1, 9), data=st.data())
def test_sharing_creates_and_loses_no_mass(policy: Aggregator, own: Copy, fanout: int, data: st.DataObject) -> None:
    failed = data.draw(st.integers(0, fanout))
    sent, kept = policy.share(own, fanout, failed)
    assert sent.vector.tobytes() == kept.vector.tobytes() == own.vector.tobytes()
    if policy.whole:
        assert kept.mass + (fanout - failed) * sent.mass == pytest.approx(own.mass, rel=1e-12)
    else:
        assert (sent, kept) == (own, own)


@calm
@given(scene=scenes())
def test_weighted_mean_is_one_row_of_w_x(scene: tuple[Copy, list[Heard]]) -> None:
    own, updates = scene
    merged, weights = WeightedMean().merge(own, [replace(update, sender=f"s{i}") for i, update in enumerate(updates)])
    row = np.array([1 - math.fsum(weights.values()), *(update.weight for update in updates)])
    models = np.stack([own.vector, *(update.copy.vector for update in updates)]).astype(np.float64)
    assert np.allclose(merged.vector, row @ models, rtol=1e-6, atol=1e-6 * np.abs(models).max())


@pytest.mark.parametrize(
    ("mine", "theirs", "share", "age"),
    [(3.0, 1.0, 0.25, 3.0), (2.0, 2.0, 0.5, 2.0), (0.0, 4.0, 1.0, 4.0), (5.0, 0.0, 0.0, 5.0), (0.0, 0.0, 0.5, 0.0)],
)
def test_age_weighted_equals_the_published_pairwise_rule(mine: float, theirs: float, share: float, age: float) -> None:
    """Ormandi 2013: x <- (t_a a + t_b b) / (t_a + t_b), t <- max; an age of 0 weighs nothing, two of them are averaged."""
    merged, weights = AgeWeighted().merge(Copy(vector(1, -2), mine), heard(Copy(vector(5, 6), theirs)))
    assert np.allclose(merged.vector, (1 - share) * vector(1, -2) + share * vector(5, 6))
    assert weights == {"t0": pytest.approx(share)}
    assert merged.age == age


def test_push_sum_sums_masses_and_products() -> None:
    """x = w z and w are summed, z = x / w (Assran 2019, algorithm 1)."""
    own, others = Copy(vector(2.0, 4.0), mass=0.5), [Copy(vector(8.0, 0.0), mass=0.25), Copy(vector(-1.0, 1.0), mass=1.25)]
    merged, weights = PushSum().merge(own, heard(*others))
    x = 0.5 * vector(2, 4) + 0.25 * vector(8, 0) + 1.25 * vector(-1, 1)
    assert merged.mass == 2.0
    assert np.allclose(merged.vector, x / 2.0)
    assert weights == {"t0": 0.125, "t1": 0.625}


def test_push_sum_weighs_a_sender_heard_twice_by_both() -> None:
    twice = [Heard("a", round, Copy(vector(1.0), mass=0.5), 0.0, 1, 0.0) for round in (1, 2)]
    _, weights = PushSum().merge(Copy(vector(0.0), mass=1.0), twice)
    assert weights == {"a": 0.5}


@calm
@given(st.integers(1, 400), st.integers(1, 8))
def test_push_sum_keeps_the_model_of_a_twin_that_only_sends(rounds: int, fanout: int) -> None:
    """Its weight becomes tiny; what it stands for must not (as w z it would underflow float32 after some eighty rounds)."""
    policy: Sequence[Copy] = [Copy(vector(1.25, -3.5))]
    for _ in range(rounds):
        policy = [PushSum().merge(PushSum().share(policy[0], fanout, 0)[1], [])[0]]
    assert policy[0].vector.tobytes() == vector(1.25, -3.5).tobytes()
    merged, _ = PushSum().merge(policy[0], heard(Copy(vector(7.0, 7.0), mass=0.5)))
    assert np.isfinite(merged.vector).all()
