"""A dosimeter without a chamber: the tube's output from measured against expected noise.

output = (expected / measured)^2 where quantum noise rules. Historical noise of daily QC follows a tube's output within a few
per cent (Stauduhar and Jones 2014, doi 10.14319/ijcto.0202.17); one day's noise scatters by 3 %, its output by 6 %, so
at least seven days are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

DAYS = 7
DAY_SCATTER = 0.035  # of ln sd


@dataclass(frozen=True)
class Output:
    """value: relative to the day the expectation was set; sd: its standard error; days: behind it."""

    value: float
    sd: float
    days: int


def output(measured: Sequence[float], expected: Sequence[float], *, day_scatter: float = DAY_SCATTER) -> Output | None:
    """Return the tube's output over the last days, None with fewer than seven. measured, expected: noise of each day, HU, oldest first."""
    pairs = [(seen, hoped) for seen, hoped in zip(measured, expected, strict=True) if seen > 0 and hoped > 0][-DAYS:]
    if len(pairs) < DAYS:
        return None
    ratio = sum(math.log(hoped / seen) for seen, hoped in pairs) / len(pairs)
    value = math.exp(2 * ratio)
    return Output(value, 2 * value * day_scatter / math.sqrt(len(pairs)), len(pairs))


def residual(measured: float, expected: float) -> float:
    """Noise beyond the model's, per cent: where it is large the model and the device part (reconstruction, AEC, a fault)."""
    return 100 * (measured / expected - 1)
