"""Codecs: a vector of float32 as payload bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Interval, Le

from p2pftl.errors import FrameRefused
from p2pftl.gossip.seams import Part
from p2pftl.params import Vector

_HIGHEST = np.float32(3.4e38)
"""A step of 1/127 of it, taken 127 times, is still a float32."""

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dense:
    """Every element as little-endian float32: exact, 4 bytes each."""

    partial: ClassVar[bool] = False

    def encode(self, vector: Vector, told: Vector | None = None) -> Bytes:
        return _bytes(vector, "<f4")

    def decode(self, payload: memoryview, size: int) -> Part:
        return Part(_elements(payload, size, "<f4").astype(np.float32, copy=False))


@dataclass(frozen=True)
class Half:
    """Every element as little-endian float16: 2 bytes each, relative error at most 2^-11.

    Magnitudes above 65504, the largest float16, are sent as 65504.
    """

    partial: ClassVar[bool] = False

    def encode(self, vector: Vector, told: Vector | None = None) -> Bytes:
        return _bytes(np.clip(vector, -65504.0, 65504.0), "<f2")

    def decode(self, payload: memoryview, size: int) -> Part:
        return Part(_elements(payload, size, "<f2").astype(np.float32))


@dataclass(frozen=True)
class Int8:
    """Each `block` elements as one float32 scale and signed bytes, to the nearest step (Dettmers et al. 2022): 1 + 4/block bytes each.

    The scale of a block is its largest magnitude / 127, so no element is off by more than that magnitude / 254 (and rounding in
    float32); blocks that hold nothing above 2^-119 are sent as zeros. A scale that is not finite makes its block so (E415).
    """

    block: Annotated[int, Interval(ge=1, le=1_000_000)] = 256
    partial: ClassVar[bool] = False

    def encode(self, vector: Vector, told: Vector | None = None) -> Bytes:
        blocks = self._blocks(vector)
        peaks = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
        np.minimum(peaks, _HIGHEST, out=peaks, where=peaks < np.inf)
        scales = peaks / np.float32(127)
        scales[scales < np.finfo(np.float32).tiny] = 0.0
        with np.errstate(invalid="ignore"):  # a value that is not finite is told by its scale
            np.divide(blocks, np.where(scales > 0, scales, np.float32(1))[:, None], out=blocks)
            codes = np.rint(blocks, out=blocks).clip(-127, 127, out=blocks).astype(np.int8)
        return np.concatenate([_bytes(scales, "<f4"), codes.reshape(-1)[: len(vector)].view(np.uint8)])

    def decode(self, payload: memoryview, size: int) -> Part:
        blocks = math.ceil(size / self.block)
        _check_size(payload, 4 * blocks + size)
        scales = np.frombuffer(payload, "<f4", blocks).astype(np.float32)
        if (scales < 0).any():
            raise FrameRefused("E414", "a scale below zero")
        with np.errstate(invalid="ignore", over="ignore"):
            values = self._blocks(np.frombuffer(payload, np.int8, size, 4 * blocks))
            np.multiply(values, scales[:, None], out=values)
        return Part(values.reshape(-1)[:size])

    def _blocks(self, vector: npt.NDArray[np.float32 | np.int8]) -> npt.NDArray[np.float32]:
        """A copy, float32 [blocks, block], the last one filled up with zeros."""
        padded = np.zeros((math.ceil(len(vector) / self.block), self.block), np.float32)
        padded.reshape(-1)[: len(vector)] = vector
        return padded


@dataclass(frozen=True)
class TopK:
    """The `share` of elements that changed most since they were last told, exact: 4 to 5 bytes for each of them.

    Partial sharing (Dhasade et al. 2023) with error feedback (Stich et al. 2018): what a twin has told, in the beginning the model
    that all start from, is its memory; what it has not told yet adds up there until it is large enough to be sent. A receiver takes
    its own values for all that did not come. So every merged element stays between values that some twin has, and equal models stay
    equal; but where only one end of an edge sent an element, only the other end moves, and the mean over the twins is kept only for
    elements that both sent (for all of them if share = 1). Push-sum's mass belongs to whole vectors and cannot go with it (E128).

    Equal changes go by position, the first one first. A payload is the values, float32, then their positions: one bit per element,
    or the gaps between them as bytes (255: go on 255 and read on), whichever is shorter; its length tells which.
    """

    share: Annotated[float, Gt(0), Le(1)] = 0.1
    partial: ClassVar[bool] = True

    def encode(self, vector: Vector, told: Vector | None = None) -> Bytes:
        at = _largest(vector if told is None else _difference(vector, told), self.kept(len(vector)))
        marks = np.zeros(len(vector), np.bool_)
        marks[at] = True
        gaps, bits = _gaps(at), np.packbits(marks)
        return np.concatenate([_bytes(vector[at], "<f4"), gaps if len(gaps) < len(bits) else bits])

    def decode(self, payload: memoryview, size: int) -> Part:
        kept, bits = self.kept(size), math.ceil(size / 8)
        told = payload.nbytes - 4 * kept
        if not min(kept, bits) <= told <= bits:
            raise FrameRefused("E414", f"payload of {payload.nbytes} bytes where {4 * kept + min(kept, bits)} to {4 * kept + bits} are due")
        places = np.frombuffer(payload, np.uint8, told, 4 * kept)
        at = np.flatnonzero(np.unpackbits(places)) if told == bits else _reached(places)
        unfinished = 0 < told < bits and places[-1] == 255
        if len(at) != kept or (kept and at[-1] >= size) or unfinished:
            raise FrameRefused("E414", "positions that do not fit the model")
        return Part(np.frombuffer(payload, "<f4", kept).astype(np.float32, copy=False), at)

    def kept(self, size: int) -> int:
        """How many of `size` elements a payload holds."""
        return min(size, math.ceil(self.share * size))


def _difference(vector: Vector, told: Vector) -> Vector:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.subtract(vector, told)


def _largest(change: Vector, count: int) -> Positions:
    """Positions, ascending, of the `count` largest magnitudes; what is no number counts as larger than all, equals go by position."""
    size = np.abs(change)
    np.copyto(size, np.inf, where=np.isnan(size))
    if count == len(size):
        return np.arange(count)
    least = np.partition(size, len(size) - count)[len(size) - count]
    chosen = size > least
    equals = np.flatnonzero(size == least)
    chosen[equals[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


def _gaps(at: Positions) -> Bytes:
    """Elements left out before each position, as bytes: as often 255 as it fits, then the rest."""
    gaps = np.diff(at, prepend=-1) - 1
    ends = np.cumsum(gaps // 255 + 1)
    coded = np.full(ends[-1] if len(ends) else 0, 255, np.uint8)
    coded[ends - 1] = gaps % 255
    return coded


def _reached(coded: Bytes) -> Positions:
    """The inverse of _gaps; ascending whatever the bytes are."""
    ends = np.flatnonzero(coded < 255)
    positions: Positions = np.cumsum(coded, dtype=np.int64)[ends] + np.arange(len(ends))
    return positions


def _bytes(vector: npt.NDArray[np.float32], dtype: str) -> Bytes:
    return np.ascontiguousarray(vector, dtype=dtype).view(np.uint8)


def _elements(payload: memoryview, size: int, dtype: str) -> npt.NDArray[np.floating]:
    _check_size(payload, size * np.dtype(dtype).itemsize)
    return np.frombuffer(payload, dtype)


def _check_size(payload: memoryview, expected: int) -> None:
    if payload.nbytes != expected:
        raise FrameRefused("E414", f"payload of {payload.nbytes} bytes where {expected} are due")
