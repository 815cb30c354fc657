"""Every registered codec gives back what it was given, within the error it states, and refuses any other number of bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.errors import FrameRefused
from p2pftl.gossip.codecs import Dense, Half, Int8, TopK
from p2pftl.gossip.seams import Codec
from p2pftl.params import Vector
from p2pftl.policies import find, registered

calm = settings(deadline=None, max_examples=60)
REGISTERED = [find("codec", name)() for name in sorted(registered("codec"))]
every = pytest.mark.parametrize("codec", REGISTERED, ids=lambda codec: type(codec).__name__)
numbers = st.lists(st.floats(-60_000, 60_000, width=32), max_size=40).map(lambda values: np.array(values, np.float32))


def of_blocks(values: Vector) -> Vector:
    """What Int8 may be off by: 1/254 of the largest magnitude of an element's block, and rounding."""
    largest = [float(np.abs(values[at // 256 * 256 : at // 256 * 256 + 256]).max()) for at in range(len(values))]
    return np.array(largest) * (1 + 1e-5) / 254 + 2.0**-118


BOUNDS = {
    "Dense": lambda values: 0.0,
    "Half": lambda values: 2.0**-11 * np.abs(values) + 2.0**-25,
    "Int8": of_blocks,
    "TopK": lambda values: 0.0,
}
"""Error a codec may make; one of which nothing is known here must stay within a hundredth of the largest."""


def within(codec: Codec, came: Vector, values: Vector) -> bool:
    bound = BOUNDS.get(type(codec).__name__, lambda values: 0.01 * np.abs(values).max(initial=0.0))(values.astype(np.float64))
    return bool((np.abs(came.astype(np.float64) - values) <= bound).all())


def there_and_back(codec: Codec, values: Vector, told: Vector | None = None) -> Vector:
    """To a receiver that has what was told, zeros in the beginning."""
    return codec.decode(codec.encode(values, told).data, len(values)).onto(np.zeros(len(values), np.float32) if told is None else told)


@every
@calm
@given(values=numbers)
def test_what_comes_of_a_round_trip_is_within_the_stated_error(codec: Codec, values: Vector) -> None:
    part = codec.decode(codec.encode(values).data, len(values))
    assert part.values.dtype == np.float32
    assert (part.at is None) or codec.partial
    assert within(codec, part.values, values if part.at is None else values[part.at])
    assert part.onto(values).shape == values.shape


@every
@calm
@given(values=numbers, data=st.data())
def test_what_is_told_again_and_again_comes_whole(codec: Codec, values: Vector, data: st.DataObject) -> None:
    """Error feedback: what a partial codec left out adds up until it is sent."""
    told = np.zeros_like(values)
    for _ in range(10):
        told = there_and_back(codec, values, told)
    assert within(codec, told, values)


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
    with pytest.raises(FrameRefused) as caught:
        codec.decode(memoryview(bytes(wrong)), size)
    assert caught.value.code == "E414"


@every
@calm
@given(size=st.integers(0, 70), payload=st.binary(max_size=80))
def test_any_bytes_are_the_elements_of_a_vector_or_refused(codec: Codec, size: int, payload: bytes) -> None:
    try:
        part = codec.decode(memoryview(payload), size)
    except FrameRefused:
        return
    assert len(part.onto(np.zeros(size, np.float32))) == size
    if part.at is not None:
        assert len(part.at) == len(part.values)
        assert (np.diff(part.at) > 0).all()


@every
def test_every_other_element_of_a_larger_vector_can_be_encoded(codec: Codec) -> None:
    strided = np.arange(10, dtype=np.float32)[::2]
    assert codec.encode(strided).tobytes() == codec.encode(strided.copy()).tobytes()


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


# ---------------------------------------------------------------------- int8


def test_int8_takes_one_byte_an_element_and_one_scale_a_block() -> None:
    assert Int8(block=4).encode(np.ones(10, np.float32)).nbytes == 10 + 3 * 4


def test_int8_blocks_are_scaled_on_their_own_and_extremes_stay_finite() -> None:
    values = np.array([1000, -254, 0.5, 0.001, 3e-45, 0, np.finfo(np.float32).max, 1], np.float32)
    back = there_and_back(Int8(block=2), values)
    assert np.isfinite(back).all()
    assert np.abs(back - [1000, -254, 0.5, 0.001, 0, 0, 0, 0])[[0, 1, 2, 3, 4, 5, 7]].max() <= 1000 / 254
    assert back[2:4].tolist() == [pytest.approx(0.5), pytest.approx(0.001, abs=0.5 / 254)]
    assert back[6] == pytest.approx(3.4e38)


def test_an_int8_scale_below_zero_is_e414_and_one_that_is_not_finite_is_told() -> None:
    payload = Int8().encode(np.ones(3, np.float32))
    for scale, outcome in ((-1.0, None), (np.inf, False), (np.nan, False)):
        payload[:4] = np.array([scale], "<f4").view(np.uint8)
        if outcome is None:
            with pytest.raises(FrameRefused, match="E414"):
                Int8().decode(payload.data, 3)
        else:
            assert not np.isfinite(Int8().decode(payload.data, 3).values).any()


# ---------------------------------------------------------------------- top-k


@calm
@given(values=numbers, told=st.floats(-10, 10, width=32), share=st.floats(0.01, 1))
def test_top_k_sends_the_largest_changes_and_of_equals_the_first(values: Vector, told: float, share: float) -> None:
    before = np.full_like(values, told)
    part = TopK(share).decode(TopK(share).encode(values, before).data, len(values))
    change = np.abs(values - before)
    assert part.at is not None
    assert part.at.tolist() == sorted(sorted(range(len(values)), key=lambda at: (-change[at], at))[: TopK(share).kept(len(values))])
    assert part.values.tobytes() == values[part.at].tobytes()


@calm
@given(st.integers(1, 5000), st.floats(0.001, 1), st.integers(0, 2**32 - 1))
def test_top_k_positions_take_at_most_a_bit_an_element_and_about_a_byte_each(size: int, share: float, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    codec = TopK(share)
    payload, kept = codec.encode(values), codec.kept(size)
    assert payload.nbytes - 4 * kept <= min((size + 7) // 8, kept + size // 255)
    assert codec.decode(payload.data, size).onto(values).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    "positions",
    [
        b"\x00\x00\xff",
        b"\x00\x00\x00\x00",
        b"\x00\xff\xff\x00",
        b"\xff" * 40,
        b"\x00\x03\xff",
        bytes(62) + b"\x01\x80",
        bytes(63) + b"\x10",
    ],
)
def test_positions_too_many_too_few_beyond_the_model_or_cut_are_e414(positions: bytes) -> None:
    """Three of 500 elements: 63 bytes of bits, of which the last four bits are none."""
    with pytest.raises(FrameRefused, match="E414"):
        TopK(0.005).decode(memoryview(bytes(12) + positions), 500)
