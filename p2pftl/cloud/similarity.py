"""How alike updates are, and the two halves that are least alike. No matrix library: its sums differ with the number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from p2pftl.params import Layout, Vector

Linkage = Literal["complete", "single"]
Matrix = npt.NDArray[np.float64]


def learnt_elements(layout: Layout) -> npt.NDArray[np.bool_]:
    """Which elements of the model are learnt, not counted: all but the statistics of normalisation."""
    learnt = np.ones(layout.size, bool)
    for kind, (start, stop) in zip(layout.kinds, layout.spans, strict=True):
        learnt[start:stop] = kind != "statistic"
    return learnt


def norm(vector: Vector) -> float:
    """Euclidean norm, summed in float64."""
    return float(np.sqrt(np.square(vector, dtype=np.float64).sum()))


def dot(one: Vector, other: Vector) -> float:
    """Inner product, summed in float64."""
    return float(np.multiply(one, other, dtype=np.float64).sum())


def unit(vector: Vector) -> Vector:
    """The vector at length 1; 0 stays 0."""
    size = norm(vector)
    return vector / np.float32(size) if size > 0 else vector


def cosines(vectors: Sequence[Vector]) -> Matrix:
    """Cosine similarity of each two of n vectors, [n, n]; 0 with a vector of length 0."""
    units = [unit(vector) for vector in vectors]
    found = np.eye(len(units))
    for row, one in enumerate(units):
        for column in range(row):
            found[row, column] = found[column, row] = dot(one, units[column])
    return found


def halves(similarity: Matrix, linkage: Linkage) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cut n >= 2 members into two: those most alike are joined until two groups are left. The first holds member 0.

    single: groups are as alike as their most alike members, which gives exactly the bipartition whose largest cross-similarity is
    smallest (Sattler 2020, eq. 26); complete: as their least alike ones, as the authors' code does. Ties: lowest numbers first.
    """
    among, blank = similarity.copy(), -np.inf
    np.fill_diagonal(among, blank)
    groups: dict[int, tuple[int, ...]] = {member: (member,) for member in range(len(among))}
    merge = np.maximum if linkage == "single" else np.minimum
    while len(groups) > 2:
        one, other = sorted(divmod(int(among.argmax()), len(among)))
        groups[one] += groups.pop(other)
        joined = merge(among[one], among[other])
        among[one], among[:, one] = joined, joined
        among[other], among[:, other] = blank, blank
        among[one, one] = blank
    first, second = sorted(tuple(sorted(group)) for group in groups.values())
    return first, second
