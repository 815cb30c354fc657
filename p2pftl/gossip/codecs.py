"""Codecs: a vector of float32 as payload bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pftl.errors import FrameRefused
from p2pftl.params import Vector


@dataclass(frozen=True)
class Dense:
    """Every element as little-endian float32: exact, 4 bytes each."""

    def encode(self, vector: Vector) -> npt.NDArray[np.uint8]:
        return _bytes(vector, "<f4")

    def decode(self, payload: memoryview, size: int) -> Vector:
        return _elements(payload, size, "<f4").astype(np.float32, copy=False)


@dataclass(frozen=True)
class Half:
    """Every element as little-endian float16: 2 bytes each, relative error at most 2^-11.

    Magnitudes above 65504, the largest float16, are sent as 65504.
    """

    def encode(self, vector: Vector) -> npt.NDArray[np.uint8]:
        return _bytes(np.clip(vector, -65504.0, 65504.0), "<f2")

    def decode(self, payload: memoryview, size: int) -> Vector:
        return _elements(payload, size, "<f2").astype(np.float32)


def _bytes(vector: Vector, dtype: str) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(vector, dtype=dtype).view(np.uint8)


def _elements(payload: memoryview, size: int, dtype: str) -> npt.NDArray[np.floating]:
    expected = size * np.dtype(dtype).itemsize
    if payload.nbytes != expected:
        raise FrameRefused("E414", f"payload of {payload.nbytes} bytes where {expected} are due")
    return np.frombuffer(payload, dtype)
