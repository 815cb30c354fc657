"""A model held as what departed from a common start is that model, and holds no more than it must."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.params import Layout, gather, length, scatter
from p2pftl.state import EMPTY, Departure, TwinState, origin

LAYOUT = Layout(("a", "b", "none", "c"), ((2, 2), (3,), (0,), (5,)), ("weight",) * 4, (0, 0, 1, 1))
START = np.arange(LAYOUT.size, dtype=np.float32)
names = st.sets(st.sampled_from(LAYOUT.names))


@given(st.lists(st.tuples(st.booleans(), names, st.floats(-5, 5, width=32)), max_size=5))
def test_a_departure_is_the_vector_given_and_holds_only_tensors_that_ever_differed(
    steps: list[tuple[bool, set[str], float]],
) -> None:
    model, vector, touched = Departure(START), START, set()
    for puts, chosen, by in steps:
        ranges = LAYOUT.ranges(chosen)
        part = gather(vector, ranges) + np.float32(by)
        changed = scatter(vector, ranges, part)
        model = model.put(ranges, part) if puts else model.moved(changed, LAYOUT)
        touched |= {name for name, (a, b) in zip(LAYOUT.names, LAYOUT.spans, strict=True)
                    if name in chosen and (puts or (changed[a:b] != START[a:b]).any())}  # fmt: skip
        vector = changed
        assert model.vector.tobytes() == vector.tobytes()
        assert length(model.ranges) == len(model.part) == length(LAYOUT.ranges(touched))
    assert START.tolist() == list(range(LAYOUT.size))


def test_what_was_never_touched_is_the_start_itself_and_a_model_touched_everywhere_is_its_part() -> None:
    assert Departure(START).vector is START
    moved = Departure(START).moved(START + 1, LAYOUT)
    assert moved.vector is moved.part


def test_a_sign_of_zero_is_a_difference() -> None:
    zeros = np.zeros(LAYOUT.size, np.float32)
    assert Departure(zeros).moved(-zeros, LAYOUT).vector.tobytes() == (-zeros).tobytes()


@pytest.mark.parametrize("other", [(START + 1, LAYOUT), (START, Layout(("x",), ((12,),), ("weight",), (0,)))])
def test_the_origin_tells_other_starts_and_other_layouts(other: tuple[np.ndarray, Layout]) -> None:
    assert origin(START, LAYOUT) == origin(START.copy(), LAYOUT) != origin(*other)


def test_a_saved_state_keeps_the_memory_of_the_mirror_and_none_where_there_is_none() -> None:
    kept = {"t": -math.inf, "told": ["active", 1.0, "pass"], "accuracy": None, "adapting": False, "head": "0f", "left": -1}
    for mirror in (kept, None):
        state = TwinState(1, 0, "o", 0, (), EMPTY, (), 0.0, 1.0, {}, None, None, {}, mirror)
        assert TwinState.unpacked(state.packed()).mirror == (None if mirror is None else {**kept, "told": ("active", 1.0, "pass")})
