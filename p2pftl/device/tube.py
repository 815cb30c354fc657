"""The X-ray tube: heat, damage, hazard, arcs, output and remaining life.

SCANNER_TWIN.md section 4: Newton cooling, a Weibull hazard over damage in equivalent seconds. All constants are
assumptions and fields of Wear; sources disagree on tube life by a factor of 2 to 4. Units: kV, mA, s, J; 1 HU = 0.71 J.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Interval

J_PER_HEAT_UNIT = 0.71
DAY = 86_400.0


@dataclass(frozen=True)
class Wear:
    """Constants of one tube type.

    cap_MHU, cool_MHU_min: heat capacity and largest cooling rate; power_W: reference power of the damage law and exponent its power;
    eta_s, beta: scale and shape of the Weibull life, equivalent seconds; arcs_per_s: arcs of a new tube, arcs_growth their exponent;
    loss: output lost at damage eta; limit: share of the capacity above which the scanner waits.
    """

    cap_MHU: Annotated[float, Gt(0)] = 8.0  # noqa: N815
    cool_MHU_min: Annotated[float, Gt(0)] = 1.0  # noqa: N815
    power_W: Annotated[float, Gt(0)] = 24e3  # noqa: N815
    exponent: Annotated[float, Ge(0)] = 1.5
    eta_s: Annotated[float, Gt(0)] = 5e5
    beta: Annotated[float, Gt(0)] = 3.0
    arcs_per_s: Annotated[float, Ge(0)] = 2e-5
    arcs_growth: Annotated[float, Ge(0)] = 5.0
    loss: Annotated[float, Interval(ge=0, lt=0.5)] = 0.08
    limit: Annotated[float, Interval(gt=0, le=1)] = 0.9

    @property
    def heat_max(self) -> float:
        """J."""
        return self.cap_MHU * 1e6 * J_PER_HEAT_UNIT

    @property
    def cooling(self) -> float:
        """Rate of Newton cooling, 1/s: at full heat it carries off the largest cooling rate."""
        return self.cool_MHU_min / self.cap_MHU / 60


@dataclass(frozen=True)
class Life:
    """Remaining life in device days: 10, 50 and 90 % of such tubes fail before."""

    p10: float
    p50: float
    p90: float


@dataclass(frozen=True)
class Tube:
    """One tube at time `t`: heat in the anode and what it has gone through since it was put in."""

    wear: Wear = Wear()
    t: float = 0.0
    heat_J: float = 0.0  # noqa: N815
    scan_s: float = 0.0
    mAs: float = 0.0  # noqa: N815
    energy_J: float = 0.0  # noqa: N815
    exposures: int = 0
    arcs: int = 0
    damage: float = 0.0

    @property
    def age(self) -> float:
        """Damage as a share of eta."""
        return self.damage / self.wear.eta_s

    @property
    def output(self) -> float:
        """Photons per mA s relative to a new tube."""
        return 1 - self.wear.loss * min(self.age, 1.5)

    def idle(self, until: float) -> Tube:
        """Cool until time `until`; a time that is past changes nothing (events may come late)."""
        if until <= self.t:
            return self
        return replace(self, t=until, heat_J=self.heat_J * math.exp(-self.wear.cooling * (until - self.t)))

    def wait(self, kvp: float, ma: float, seconds: float) -> float:
        """Seconds of cooling before this exposure may begin; infinite where no cooling suffices."""
        k, ceiling = self.wear.cooling, self.wear.limit * self.wear.heat_max
        if self._heated(kvp * ma, seconds) <= ceiling:
            return 0.0
        allowed = (ceiling - kvp * ma / k * -math.expm1(-k * seconds)) * math.exp(k * seconds)
        return math.log(self.heat_J / allowed) / k if allowed > 0 else math.inf

    def expose(self, kvp: float, ma: float, seconds: float) -> Tube:
        """Return the tube after a beam-on that begins now. Raises ValueError unless kV, mA and s are finite and not negative."""
        if not all(math.isfinite(value) and value >= 0 for value in (kvp, ma, seconds)):
            raise ValueError("an exposure needs kV, mA and s, finite and not negative")
        power = kvp * ma  # kV x mA = W
        heat = self._heated(power, seconds)
        return replace(
            self, t=self.t + seconds, heat_J=heat, scan_s=self.scan_s + seconds, mAs=self.mAs + ma * seconds,
            energy_J=self.energy_J + power * seconds, exposures=self.exposures + 1,
            damage=self.damage + harm(self.wear, power, seconds, heat),
        )  # fmt: skip

    def fails_within(self, damage: float) -> float:
        """Probability that a tube that lives now fails while it gathers `damage` more."""
        power: float = self.age**self.wear.beta
        return -math.expm1(power - ((self.damage + damage) / self.wear.eta_s) ** self.wear.beta)

    def hazard(self) -> float:
        """Failures per equivalent second."""
        return float(self.wear.beta / self.wear.eta_s * self.age ** (self.wear.beta - 1))

    def arc_rate(self) -> float:
        """Arcs per second of beam-on."""
        return self.wear.arcs_per_s * math.exp(self.wear.arcs_growth * min(self.age, 1.5))

    def remaining(self, per_day: float) -> Life:
        """Remaining life at a mean damage of `per_day` > 0 per device day, given that the tube lives now."""
        if not per_day > 0:
            raise ValueError("remaining life needs a load")
        return Life(*(self._remaining(share) / per_day for share in (0.1, 0.5, 0.9)))

    def _remaining(self, share: float) -> float:
        eta, beta = self.wear.eta_s, self.wear.beta
        return float(eta * (self.age**beta - math.log1p(-share)) ** (1 / beta) - self.damage)

    def _heated(self, power: float, seconds: float) -> float:
        k = self.wear.cooling
        return self.heat_J * math.exp(-k * seconds) + power / k * -math.expm1(-k * seconds)


def harm(wear: Wear, power: float, seconds: float, heat: float) -> float:
    """Damage of one exposure, equivalent seconds; `heat` at its end, J. A tube above half its heat wears faster."""
    return float(seconds * (power / wear.power_W) ** wear.exponent) * (1 + max(0.0, heat / wear.heat_max - 0.5))


def lifetime(wear: Wear, generator: np.random.Generator) -> float:
    """Draw once per tube: the damage at which it fails, equivalent seconds."""
    return float(wear.eta_s * generator.exponential() ** (1 / wear.beta))


@dataclass(frozen=True)
class Shift:
    """What a series of exposures did. peak: highest share of the heat capacity; waited: seconds of enforced cooling;
    refused: exposures that no cooling would have allowed."""

    tube: Tube
    peak: float = 0.0
    waited: float = 0.0
    refused: int = 0


def work(tube: Tube, starts: Sequence[float], kvp: Sequence[float], ma: Sequence[float], seconds: Sequence[float]) -> Shift:
    """Return the tube after exposures planned at `starts`, s, in order; each begins when the tube is free and cool enough.

    One loop over plain numbers, the same as idle, wait and expose one by one (a test compares): a day is 40 of them, a life 50,000.
    """
    wear, k, ceiling = tube.wear, tube.wear.cooling, tube.wear.limit * tube.wear.heat_max
    t, heat, damage, peak, waited = tube.t, tube.heat_J, tube.damage, tube.heat_J, 0.0
    scan_s, load, energy, done = tube.scan_s, tube.mAs, tube.energy_J, 0
    for start, kv, current, length in zip(starts, kvp, ma, seconds, strict=True):
        if start > t:
            heat *= math.exp(-k * (start - t))
            t = start
        power, fall = kv * current, math.exp(-k * length)
        added = power / k * (1 - fall)
        if heat * fall + added > ceiling:
            allowed = (ceiling - added) / fall
            if allowed <= 0:
                continue
            pause = math.log(heat / allowed) / k
            heat, t, waited = allowed, t + pause, waited + pause
        heat = heat * fall + added
        t, peak, done = t + length, max(peak, heat), done + 1
        scan_s, load, energy = scan_s + length, load + current * length, energy + power * length
        damage += harm(wear, power, length, heat)
    after = replace(
        tube, t=t, heat_J=heat, scan_s=scan_s, mAs=load, energy_J=energy, exposures=tube.exposures + done, damage=damage
    )  # fmt: skip
    return Shift(after, peak / wear.heat_max, waited, len(starts) - done)
