"""What a table of runs shows: intervals over seeds, paired tests, and a plain word (ALGORITHMS.md §13). Knows nothing of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from p2pftl.draw import draw

LEVEL = 0.95
ALPHA = 1 - LEVEL
DRAWS = 10_000
ALL_RESAMPLES = 6
"""Up to so many values every resample is looked at (6^6 = 46,656), above that DRAWS drawn ones."""
ALL_SIGNS = 16
"""Up to so many differences every pattern of signs is looked at, above that DRAWS drawn ones."""

Floats = npt.NDArray[np.float64]
Limits = tuple[float, float]
Word = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Paired:
    """One method against another on the same seeds.

    count: seeds that both have; mean: of the differences; interval: 95 %, Student's t, None below two; exact: two-sided p of the
    sign-flip test; t: two-sided p of the paired t test, None where all differences are equal.
    """

    count: int
    mean: float
    interval: Limits | None
    exact: float
    t: float | None


@dataclass(frozen=True)
class Verdict:
    """word: what may be claimed; sentence: the same with its reason."""

    word: Word
    sentence: str


@dataclass(frozen=True)
class Gap:
    """Share of the way from the lower to the upper bound: 0 is the lower one, 1 the upper one.

    share and interval (95 %, bootstrap over seeds) are None where `reason` says why there is none.
    """

    share: float | None
    interval: Limits | None = None
    reason: str = ""


def bootstrap(values: Sequence[float]) -> Limits | None:
    """95 % percentile interval of the mean (Efron 1979); None below two values. With 3 to 5 values it is known to be too narrow."""
    if len(values) < 2:
        return None
    return _quantiles(np.asarray(values, np.float64)[resamples(len(values))].mean(axis=1))


def gap_closed(method: Sequence[float], lower: Sequence[float], upper: Sequence[float]) -> Gap:
    """(method - lower) / (upper - lower) of the means over the same seeds.

    Resampled together; resamples whose bounds have changed places have no such share, and more than 2.5 % of them leave no interval.
    """
    count = len(method)
    if not count:
        return Gap(None, reason="no seed has all three")
    rows = np.array([method, lower, upper], np.float64)
    share = float(_share(rows.mean(axis=1)))
    if not math.isfinite(share):
        return Gap(None, reason="the upper bound is not above the lower one")
    if count < 2:
        return Gap(share, reason="one seed has no interval")
    shares = _share(rows[:, resamples(count)].mean(axis=2))
    known = shares[np.isfinite(shares)]
    if len(known) < (1 - ALPHA / 2) * len(shares):
        return Gap(share, reason="the bounds are too near each other for an interval")
    return Gap(share, _quantiles(known))


def paired(mine: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Compare values of the same seeds, in the same order. Raises ValueError without any."""
    if not len(mine):
        raise ValueError("nothing to compare")
    differences = np.asarray(mine, np.float64) - np.asarray(theirs, np.float64)
    return Paired(len(differences), float(differences.mean()), _t_interval(differences), sign_flip(differences), paired_t(differences))


def sign_flip(differences: Sequence[float] | Floats) -> float:
    """Two-sided p of a zero mean when every difference is as likely to have the other sign (Fisher 1935).

    Exact up to ALL_SIGNS differences; above, p = (1 + as extreme) / (1 + DRAWS) (Phipson and Smyth 2010).
    """
    found = np.asarray(differences, np.float64)
    sums = np.abs(_signs(len(found)) @ found)
    extreme = int(np.count_nonzero(sums >= abs(found.sum()) * (1 - 1e-12)))
    return extreme / len(sums) if len(found) <= ALL_SIGNS else (1 + extreme) / (1 + len(sums))


def paired_t(differences: Sequence[float] | Floats) -> float | None:
    """Two-sided p of a zero mean of normal differences; None for fewer than two, or if all are equal."""
    from scipy.special import stdtr

    found = np.asarray(differences, np.float64)
    if len(found) < 2 or np.ptp(found) <= 1e-12 * np.abs(found).max(initial=0.0):
        return 1.0 if len(found) > 1 and not found.any() else None
    statistic = abs(found.mean()) / (found.std(ddof=1) / math.sqrt(len(found)))
    return float(2 * stdtr(len(found) - 1, -statistic))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Adjust p values of one family so that one false claim among them has at most the level (Holm 1979); None stays None."""
    known = sorted((p, at) for at, p in enumerate(chances) if p is not None)
    adjusted: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        adjusted[at] = highest
    return adjusted


def least_p(count: int) -> float:
    """The smallest p that the sign-flip test can give for `count` differences."""
    return 2.0 ** (1 - count) if count <= ALL_SIGNS else 1 / (1 + DRAWS)


def seeds_needed(rows: int) -> int:
    """So many seeds it takes at least until the sign-flip test of `rows` rows can fall below the level after Holm's correction."""
    return next(count for count in range(1, 64) if rows * least_p(count) < ALPHA)


def verdict(found: Paired, exact: float, t: float | None, rows: int, *, higher_is_better: bool = True) -> Verdict:
    """Say what may be claimed of `found`, one of `rows` rows; exact, t: its p values after Holm's correction.

    Only the exact test decides: where it cannot, for want of seeds, the t test is told and nothing is claimed.
    """
    up = (found.mean > 0) == higher_is_better
    if exact < ALPHA:
        return Verdict("better" if up else "worse", f"{'better' if up else 'worse'} (exact p {_p(exact)})")
    if rows * least_p(found.count) < ALPHA:
        return Verdict("undecided", f"undecided: the exact p is {_p(exact)}")
    if not found.mean and (t is None or t == 1.0):
        return Verdict("undecided", f"undecided: equal on {_seeds(found.count)}")
    what = f"undecided: {_seeds(found.count)} cannot show it"
    if found.count < 2:
        return Verdict("undecided", what)
    row = "a row" if rows == 1 else f"{rows} rows"
    what += f" ({seeds_needed(rows)} needed for {row})"
    if t is not None and t < ALPHA:
        return Verdict("undecided", f"{what}; if differences are normal it is {'better' if up else 'worse'} (t test p {_p(t)})")
    return Verdict("undecided", what)


@lru_cache
def resamples(count: int) -> npt.NDArray[np.int64]:
    """[B, count] positions, drawn with replacement: all of them up to ALL_RESAMPLES, the same DRAWS ones for a larger count."""
    if count <= ALL_RESAMPLES:
        return np.indices((count,) * count).reshape(count, -1).T.astype(np.int64)
    return draw(0, "bootstrap", count).integers(count, size=(DRAWS, count))


def _signs(count: int) -> Floats:
    if count <= ALL_SIGNS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        patterns = draw(0, "signs", count).integers(2, size=(DRAWS, count))
    return np.asarray(1.0 - 2.0 * patterns, np.float64)


def limits(means: Floats) -> Limits:
    """95 % percentile interval of resampled means; resamples in which there is none (NaN) are left out."""
    return _quantiles(means[~np.isnan(means)])


def _quantiles(means: Floats) -> Limits:
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2], method="inverted_cdf")  # few values: a distribution with steps
    return float(low), float(high)


def _share(rows: Floats) -> Floats:
    """rows: method, lower, upper; nan where upper is not above lower."""
    method, lower, upper = rows
    way = np.where(upper - lower > 1e-12, upper - lower, np.nan)
    return np.asarray((method - lower) / way, np.float64)


def _t_interval(differences: Floats) -> Limits | None:
    from scipy.special import stdtrit

    count = len(differences)
    if count < 2:
        return None
    half = float(stdtrit(count - 1, 1 - ALPHA / 2)) * float(differences.std(ddof=1)) / math.sqrt(count)
    centre = float(differences.mean())
    return centre - half, centre + half


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _seeds(count: int) -> str:
    return f"{count} seeds" if count != 1 else "1 seed"
