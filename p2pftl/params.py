"""A model's tensors as one flat vector, so that a merge is a few vector operations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
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
    group, 0 at the input, the largest at the head. Integer buffers are not part of it: they stay local.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kinds: tuple[Kind, ...]
    groups: tuple[int, ...]

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
        """Hash of names and shapes: two models merge only if it is equal."""
        text = ";".join(f"{n}:{','.join(map(str, s))}" for n, s in zip(self.names, self.shapes, strict=True))
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


def length(ranges: Ranges) -> int:
    """Number of elements in `ranges`."""
    return sum(stop - start for start, stop in ranges)


def gather(vector: Vector, ranges: Ranges) -> Vector:
    """Copy the elements of `ranges` out of a full vector into one contiguous vector."""
    if not ranges:
        return np.empty(0, np.float32)
    return np.concatenate([vector[start:stop] for start, stop in ranges])


def scatter(vector: Vector, ranges: Ranges, part: Vector) -> Vector:
    """Return a copy of `vector` in which `ranges` hold `part` (the inverse of gather)."""
    whole = vector.copy()
    at = 0
    for start, stop in ranges:
        whole[start:stop] = part[at : at + stop - start]
        at += stop - start
    return whole


def weighted_sum(vectors: Sequence[Vector], weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Fold in the order given, in float64; round once afterwards."""
    total = np.zeros(vectors[0].shape, np.float64)
    for vector, weight in zip(vectors, weights, strict=True):
        total += weight * vector.astype(np.float64)
    return total
