"""A model as one flat vector: what is gathered is what is scattered, and only that."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.params import Layout, covers, gather, length, scatter, union, weighted_sum

KINDS = ("weight", "norm", "statistic")


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=3).map(tuple), max_size=8))
    names = tuple(f"layer{k}.weight" for k in range(len(shapes)))
    return Layout(
        names, tuple(shapes), tuple(draw(st.sampled_from(KINDS)) for _ in shapes), tuple(sorted(draw(st.integers(0, 3)) for _ in shapes))
    )


@st.composite
def chosen(draw: st.DrawFn) -> tuple[Layout, list[str]]:
    layout = draw(layouts())
    return layout, draw(st.permutations([name for name in layout.names if draw(st.booleans())]))


@given(layouts())
def test_spans_tile_the_vector(layout: Layout) -> None:
    at = 0
    for (start, stop), shape in zip(layout.spans, layout.shapes, strict=True):
        assert start == at
        assert stop - start == np.prod(shape, dtype=int)
        at = stop
    assert layout.size == at


@given(chosen())
def test_ranges_hold_the_named_elements_sorted_and_apart_whatever_the_order_of_names(case: tuple[Layout, list[str]]) -> None:
    layout, names = case
    ranges = layout.ranges(names)
    assert ranges == layout.ranges(sorted(names))
    inside = {element for start, stop in ranges for element in range(start, stop)}
    assert inside == {e for name, span in zip(layout.names, layout.spans, strict=True) if name in names for e in range(*span)}
    assert length(ranges) == len(inside)
    assert all(a < b < c < d for (a, b), (c, d) in itertools.pairwise(ranges))


@given(chosen(), st.integers(0, 2**32 - 1))
def test_scatter_undoes_gather_and_touches_nothing_else(case: tuple[Layout, list[str]], seed: int) -> None:
    layout, names = case
    ranges = layout.ranges(names)
    vector, part = (np.random.default_rng(seed + k).normal(size=n).astype(np.float32) for k, n in enumerate((layout.size, length(ranges))))
    before = vector.tobytes()
    whole = scatter(vector, ranges, part)
    assert gather(whole, ranges).tobytes() == part.tobytes()
    assert scatter(whole, ranges, gather(vector, ranges)).tobytes() == vector.tobytes() == before
    if not covers(ranges, layout.size):
        taken = gather(vector, ranges)
        taken += 1
        assert vector.tobytes() == before


def test_all_of_a_vector_is_not_copied() -> None:
    vector, other = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert gather(vector, ((0, 3),)) is vector
    assert scatter(vector, ((0, 3),), other) is other


@given(st.lists(st.sets(st.integers(0, 12)), max_size=3))
def test_a_union_holds_every_element_once(sets: list[set[int]]) -> None:
    united = union(*(tuple((element, element + 1) for element in sorted(elements)) for elements in sets))
    assert [element for start, stop in united for element in range(start, stop)] == sorted(set().union(*sets))
    assert all(stop < later for (_, stop), (later, _) in itertools.pairwise(united))


@given(layouts(), st.integers(0, 3), st.none() | st.integers(0, 3))
def test_groups_select_by_depth_up_to_the_head(layout: Layout, first: int, last: int | None) -> None:
    if not layout.names:
        return
    expected = [name for name, group in zip(layout.names, layout.groups, strict=True) if first <= group and (last is None or group <= last)]
    assert list(layout.of_groups(first, last)) == expected


def test_the_digest_tells_names_and_shapes_apart_but_not_kinds() -> None:
    one = Layout(("a", "b"), ((2, 3), (1,)), ("weight", "weight"), (0, 1))
    assert one.digest == Layout(("a", "b"), ((2, 3), (1,)), ("norm", "weight"), (0, 0)).digest
    others = [(("a", "c"), ((2, 3), (1,))), (("a", "b"), ((3, 2), (1,))), (("b", "a"), ((1,), (2, 3))), (("a", "b"), ((23,), (1,)))]
    assert len({one.digest, *(Layout(names, shapes, one.kinds, one.groups).digest for names, shapes in others)}) == 5


def test_a_weighted_sum_is_folded_in_float64_and_rounded_once() -> None:
    tiny = np.full(1, 2.0**-30, np.float32)
    total = weighted_sum([np.ones(1, np.float32), *[tiny] * 128], [1.0] * 129)
    assert total.dtype == np.float32
    assert total[0] == 1 + 2.0**-23
    assert weighted_sum([tiny, tiny], [2.0, -2.0])[0] == 0
    with pytest.raises(ValueError, match="zip"):
        weighted_sum([tiny], [1.0, 2.0])


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 70_001])
def test_a_weighted_sum_in_stretches_is_the_plain_formula_to_the_bit(size: int) -> None:
    own, *others = (np.random.default_rng(k).normal(size=size).astype(np.float32) for k in range(4))
    weights = [0.1, 0.3, 1 / 7]
    plain, around = np.zeros(size), own.astype(np.float64)
    for vector, weight in zip(others, weights, strict=True):
        plain += weight * vector.astype(np.float64)
        around += weight * (vector.astype(np.float64) - own)
    assert weighted_sum(others, weights).tobytes() == plain.astype(np.float32).tobytes()
    assert weighted_sum(others, weights, around=own).tobytes() == around.astype(np.float32).tobytes()
