"""A model's tensors as one flat vector, so that a merge is a few vector operations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Ranges = tuple[tuple[int, int], ...]
Kind = Literal["weight", "norm", "statistic"]


@dataclass(frozen=True)
class Layout:
    """Where each float tensor of a model lies in its flat vector, from input to head.

    names: state-dict keys; shapes: their shapes; kinds: "weight", "norm" (affine parameter of a
    normalisation module) or "statistic" (its running mean or variance); groups: depth of the layer
    group, 0 at the input, the largest at the head; channels_last: a convolution's weight [O, I, H, W] lies in the vector
    as O, H, W, I, as the kernels for channels-last images want it. Integer buffers are not part of it: they stay local.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[Kind, ...]
    groups: tuple[int, ...]
    channels_last: bool = False

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Half-open [start, stop) of each tensor in the flat vector."""
        spans, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            spans.append((start, stop))
            start = stop
        return tuple(spans)

    @property
    def size(self) -> int:
        """Number of float32 elements."""
        return self.spans[-1][1] if self.spans else 0

    @property
    def depth(self) -> int:
        """Number of layer groups."""
        return max(self.groups) + 1

    @cached_property
    def digest(self) -> str:
        """Hash of names, shapes and the order of elements: two models merge only if it is equal."""
        text = ";".join(f"{n}:{','.join(map(str, s))}" for n, s in zip(self.names, self.shapes, strict=True))
        text += ";channels last" if self.channels_last else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ranges(self, names: Iterable[str]) -> Ranges:
        """Return the merged, sorted element ranges that `names` occupy."""
        wanted = frozenset(names)
        joined: list[tuple[int, int]] = []
        for name, (start, stop) in zip(self.names, self.spans, strict=True):
            if name not in wanted or start == stop:
                continue
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], stop)
            else:
                joined.append((start, stop))
        return tuple(joined)

    def of_groups(self, first: int, last: int | None = None) -> tuple[str, ...]:
        """Names whose group lies in first..last (inclusive; to the head if `last` is None)."""
        stop = self.depth - 1 if last is None else last
        return tuple(n for n, g in zip(self.names, self.groups, strict=True) if first <= g <= stop)

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Axes of a tensor of this shape in the order in which they lie in the vector, slowest first."""
        return (0, 2, 3, 1) if self.channels_last and len(shape) == 4 else tuple(range(len(shape)))

    def tensors(self, vector: Vector) -> dict[str, Vector]:
        """Return the vector's tensors by name, with the shapes and the element order that everybody else expects."""
        named = {}
        for name, shape, (start, stop) in zip(self.names, self.shapes, self.spans, strict=True):
            axes = self.axes(shape)
            lying = vector[start:stop].reshape([shape[axis] for axis in axes])
            named[name] = np.ascontiguousarray(lying.transpose(np.argsort(axes).tolist()))
        return named

    def vector(self, tensors: Mapping[str, Vector]) -> Vector:
        """Return the vector that holds `tensors` (the inverse of tensors)."""
        vector = np.empty(self.size, np.float32)
        for name, shape, (start, stop) in zip(self.names, self.shapes, self.spans, strict=True):
            vector[start:stop] = tensors[name].reshape(shape).transpose(self.axes(shape)).ravel()
        return vector


def length(ranges: Ranges) -> int:
    """Number of elements in `ranges`."""
    return sum(stop - start for start, stop in ranges)


def gather(vector: Vector, ranges: Ranges) -> Vector:
    """Return the elements of `ranges` as one contiguous vector: the vector itself if that is all of it, else a copy."""
    if covers(ranges, len(vector)):
        return vector
    if not ranges:
        return np.empty(0, np.float32)
    return np.concatenate([vector[start:stop] for start, stop in ranges])


def scatter(vector: Vector, ranges: Ranges, part: Vector) -> Vector:
    """Return `vector` with `part` in `ranges` (the inverse of gather): `part` itself if that is all of it, else a copy."""
    if covers(ranges, len(vector)):
        return part
    whole = vector.copy()
    at = 0
    for start, stop in ranges:
        whole[start:stop] = part[at : at + stop - start]
        at += stop - start
    return whole


def covers(ranges: Ranges, size: int) -> bool:
    """Whether `ranges` are all of a vector of `size` elements."""
    return ranges == ((0, size),)


def union(*some: Ranges) -> Ranges:
    """Merged, sorted ranges of all elements that any of `some` holds."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(pair for ranges in some for pair in ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return tuple(joined)


def weighted_sum(vectors: Sequence[Vector], weights: Sequence[float], around: Vector | None = None) -> Vector:
    """Return around + sum_k weights_k (vectors_k - around), the plain sum without `around`.

    Folded in the order given, in float64, rounded once; a stretch of elements at a time, so that each vector is read
    once and nothing of its size is made but the result.
    """
    result = np.empty(len(vectors[0] if around is None else around), np.float32)
    room = np.empty((3, min(len(result), _STRETCH)), np.float64)
    for start in range(0, len(result), _STRETCH):
        rows = slice(start, start + _STRETCH)
        centre = None if around is None else around[rows]
        np.copyto(result[rows], _fold([vector[rows] for vector in vectors], weights, centre, room[:, : len(result) - start]), "same_kind")
    return result


_STRETCH = 16_384  # elements: three float64 rows of them stay in a core's own cache


def _fold(
    vectors: Sequence[Vector], weights: Sequence[float], around: Vector | None, room: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    total: npt.NDArray[np.float64] = room[0]
    term, centre = room[1], room[2]
    np.copyto(centre, 0.0 if around is None else around)
    np.copyto(total, centre)
    for vector, weight in zip(vectors, weights, strict=True):
        np.copyto(term, vector)
        if around is not None:
            np.subtract(term, centre, out=term)
        np.multiply(term, weight, out=term)
        np.add(total, term, out=total)
    return total
