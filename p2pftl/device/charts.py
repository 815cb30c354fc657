"""Control charts over daily phantoms: CUSUM on the water mean, EWMA on the logarithm of the noise (SCANNER_TWIN.md section 5).

The limits of a single day (5 HU, 20 % of the noise) miss a drift for weeks and a 20 % loss of output for ever; charts do not.
Definitions: Montgomery, Introduction to Statistical Quality Control (tabular CUSUM; EWMA with its steady-state limits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from p2pftl.device.protocol import Reading


@dataclass(frozen=True)
class ChartPolicy:
    """slack, threshold: k and h of the CUSUM in days' standard deviations; mean_sd: of one day's mean, HU;
    weight, width: lambda and L of the EWMA; ln_sd: standard deviation of one day's ln sd; days: behind a baseline."""

    slack: Annotated[float, Ge(0)] = 0.5
    threshold: Annotated[float, Gt(0)] = 6.0
    mean_sd: Annotated[float, Gt(0)] = 0.6
    weight: Annotated[float, Interval(gt=0, le=1)] = 0.2
    width: Annotated[float, Gt(0)] = 3.3
    ln_sd: Annotated[float, Gt(0)] = 0.035
    days: Annotated[int, Ge(2)] = 20

    @property
    def ewma_limit(self) -> float:
        """The steady-state limit of the EWMA of ln(sd / baseline)."""
        return self.width * self.ln_sd * math.sqrt(self.weight / (2 - self.weight))


@dataclass(frozen=True)
class Baseline:
    """Mean HU and noise HU (geometric mean) of a scanner's phantoms when it was new or newly serviced; n: days behind them."""

    mean: float = 0.0
    sd: float = 0.0
    n: int = 0

    def learn(self, reading: Reading) -> Baseline:
        """Return the baseline with one more day in it."""
        n = self.n + 1
        log_sd = (math.log(self.sd) * self.n if self.n else 0.0) + math.log(reading.sd)
        return Baseline((self.mean * self.n + reading.mean) / n, math.exp(log_sd / n), n)


@dataclass(frozen=True)
class Charts:
    """up, dn: CUSUM of the mean; ewma: of ln(sd / baseline)."""

    up: float = 0.0
    dn: float = 0.0
    ewma: float = 0.0

    def update(self, reading: Reading, baseline: Baseline, policy: ChartPolicy = ChartPolicy()) -> Charts:
        """Return the charts after one more day."""
        z = (reading.mean - baseline.mean) / policy.mean_sd
        noise = math.log(reading.sd / baseline.sd)
        return Charts(
            up=max(0.0, self.up + z - policy.slack),
            dn=max(0.0, self.dn - z - policy.slack),
            ewma=(1 - policy.weight) * self.ewma + policy.weight * noise,
        )

    def alarms(self, policy: ChartPolicy = ChartPolicy()) -> tuple[str, ...]:
        """Which charts are out of control."""
        found = {
            "HU above baseline": self.up > policy.threshold,
            "HU below baseline": self.dn > policy.threshold,
            "more noise": self.ewma > policy.ewma_limit,
            "less noise": self.ewma < -policy.ewma_limit,
        }
        return tuple(name for name, out in found.items() if out)

    def calmed(self, alarms: tuple[str, ...]) -> Charts:
        """Return the charts with those in `alarms` begun anew, after a repeat phantom did not confirm them."""
        mean = any(name.startswith("HU") for name in alarms)
        noise = any(name.endswith("noise") for name in alarms)
        return replace(self, up=0.0 if mean else self.up, dn=0.0 if mean else self.dn, ewma=0.0 if noise else self.ewma)
