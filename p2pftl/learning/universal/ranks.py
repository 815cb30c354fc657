"""Two things compared over the same domains: Wilcoxon's signed ranks, exact. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ALL_SIGNS = 16


@dataclass(frozen=True)
class Compared:
    """Two encoders over domains. difference: mean of mine - theirs; p: two-sided, Wilcoxon's signed ranks, exact; n: domains."""

    difference: float
    p: float
    n: int


def compared(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Compared:
    """Compare two encoders over the same domains. Raises ValueError if the domains differ or are none.

    The smallest p that n domains can give is 2^(1-n): 0.0078 for 8, and never below 0.05 for fewer than 6.
    """
    if mine.keys() != theirs.keys() or not mine:
        raise ValueError("two encoders are compared over the same domains")
    differences = np.array([mine[name] - theirs[name] for name in mine])
    return Compared(float(differences.mean()), signed_ranks(differences), len(differences))


def signed_ranks(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test. Zeros are left out, ties share ranks, and all signs are tried up to 16 differences."""
    from scipy import stats  # here: it takes longer to import than most probes take

    rounded = np.round(differences, 12)  # accuracies that differ in the last bit are equal
    kept = rounded[rounded != 0]
    if not len(kept):
        return 1.0
    if len(kept) > ALL_SIGNS:
        return float(stats.wilcoxon(kept, method="asymptotic").pvalue)
    ranks = stats.rankdata(np.abs(kept))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(kept))))
    return float(np.mean(np.abs(signs @ ranks) >= abs(np.sign(kept) @ ranks) - 1e-9))
