"""Draws belong to their names: the same everywhere, different for different names, and nobody's draw shifts another's."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.draw import draw, number

parts = st.text(max_size=6) | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False)
keys = st.lists(parts, max_size=4)


def identity(key: list[str | int | float]) -> list[tuple[type, str]]:
    return [(type(part), repr(part)) for part in key]


@given(seed=st.integers(-(2**63), 2**63), first=keys, second=keys)
def test_equal_names_give_equal_numbers_and_others_do_not(seed: int, first: list[str], second: list[str]) -> None:
    assert (number(seed, *first) == number(seed, *second)) == (identity(first) == identity(second))
    assert number(seed, *first) != number(seed + 1, *first)


@pytest.mark.parametrize(("one", "other"), [(("ab", "c"), ("a", "bc")), (("1",), (1,)), ((1,), (1.0,)), (("a",), ("a", "")), ((), ("",))])
def test_names_are_not_glued_together(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert number(1, *one) != number(1, *other)


@given(st.integers(0, 2**40), st.sampled_from([8, 32, 63, 64, 128]))
def test_a_number_has_its_bits(seed: int, bits: int) -> None:
    assert 0 <= number(seed, "x", bits=bits) < 2**bits


def test_all_63_bits_are_used() -> None:
    seen = np.bitwise_or.reduce([number(1, k) for k in range(100)])
    assert int(seen) == 2**63 - 1


def test_a_draw_does_not_depend_on_what_was_drawn_before() -> None:
    alone = draw(7, "link", "ct-01", "ct-02", 3).random(5)
    draw(7, "link", "ct-01", "ct-09", 3).random(1000)
    assert (draw(7, "link", "ct-01", "ct-02", 3).random(5) == alone).all()


def test_draws_are_uniform_and_independent_of_their_neighbours() -> None:
    values = np.array([draw(1, "link", "a", "b", round, 1).random() for round in range(4000)])
    assert abs(values.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.06


def test_another_process_draws_the_same() -> None:
    program = "from p2pftl.draw import draw; print(draw(7, 'x', 3, 0.5).integers(10**15))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) == draw(7, "x", 3, 0.5).integers(10**15)
