"""Every registered codec gives back what it was given, within the error it states, and refuses any other number of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.errors import FrameRefused
from p2pftl.gossip.codecs import Dense, Half
from p2pftl.gossip.seams import Codec
from p2pftl.params import Vector
from p2pftl.policies import find, registered

calm = settings(deadline=None, max_examples=60)
REGISTERED = [find("codec", name)() for name in sorted(registered("codec"))]
every = pytest.mark.parametrize("codec", REGISTERED, ids=lambda codec: type(codec).__name__)
numbers = st.lists(st.floats(-60_000, 60_000, width=32), max_size=40).map(lambda values: np.array(values, np.float32))

BOUNDS = {"Dense": (0.0, 0.0), "Half": (2.0**-11, 2.0**-25)}
"""Relative and absolute error a codec may make; one of which nothing is known here must stay within a hundredth of the largest."""


def there_and_back(codec: Codec, values: Vector) -> Vector:
    return codec.decode(codec.encode(values).data, len(values))


@every
@calm
@given(values=numbers)
def test_a_round_trip_stays_within_the_stated_error(codec: Codec, values: Vector) -> None:
    back = there_and_back(codec, values)
    assert back.dtype == np.float32
    assert back.shape == values.shape
    relative, absolute = BOUNDS.get(type(codec).__name__, (0.0, 0.01 * float(np.abs(values).max(initial=0.0))))
    assert (np.abs(back.astype(np.float64) - values) <= relative * np.abs(values.astype(np.float64)) + absolute).all()


@every
@calm
@given(values=numbers)
def test_encoding_repeats_leaves_its_input_alone_and_gives_flat_bytes(codec: Codec, values: Vector) -> None:
    before = values.tobytes()
    payload = codec.encode(values)
    assert payload.dtype == np.uint8
    assert payload.ndim == 1
    assert payload.tobytes() == codec.encode(values).tobytes()
    assert values.tobytes() == before


@every
@calm
@given(size=st.integers(0, 30), wrong=st.integers(0, 200))
def test_any_other_number_of_bytes_is_refused(codec: Codec, size: int, wrong: int) -> None:
    payload = codec.encode(np.ones(size, np.float32))
    if wrong == payload.nbytes:
        return
    with pytest.raises(FrameRefused, match=f"payload of {wrong} bytes") as caught:
        codec.decode(memoryview(bytes(wrong)), size)
    assert caught.value.code == "E414"


@every
def test_every_other_element_of_a_larger_vector_can_be_encoded(codec: Codec) -> None:
    strided = np.arange(10, dtype=np.float32)[::2]
    assert there_and_back(codec, strided).tolist() == [0, 2, 4, 6, 8]


@calm
@given(st.lists(st.floats(width=32), max_size=40).map(lambda values: np.array(values, np.float32)))
def test_dense_is_exact_for_every_float32(values: Vector) -> None:
    assert there_and_back(Dense(), values).tobytes() == values.tobytes()


def test_half_sends_what_it_cannot_hold_as_its_largest_and_half_the_bytes() -> None:
    assert there_and_back(Half(), np.array([1e30, -70_000, 65_504], np.float32)).tolist() == [65_504, -65_504, 65_504]
    assert Half().encode(np.ones(7, np.float32)).nbytes * 2 == Dense().encode(np.ones(7, np.float32)).nbytes


@every
def test_not_a_number_does_not_become_one(codec: Codec) -> None:
    """Byzantine values must still be there to be refused (E415)."""
    assert np.isnan(there_and_back(codec, np.array([np.nan, 1.0], np.float32))[0])
