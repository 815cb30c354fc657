"""The state of the hardware behind an image, as numbers; what it does to pixels is in artefacts.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Le

from p2pftl.errors import ScenarioError

RING_AT_50_MM = {"soft": 0.67, "standard": 1.03, "bone": 1.96, "lung": 1.96}  # HU for one channel 0.1 % off, full turn
INNERMOST_MM = 3.0  # the 1/sqrt(r) law has no meaning nearer to the centre


@dataclass(frozen=True)
class Condition:
    """State of the hardware behind an image; the default is a scanner without fault.

    output: photons per mA s relative to new; gain: relative, on HU + 1000; offset: HU; cupping: HU at the centre below the rim;
    ring: HU, standard deviation at 50 mm from the centre; channels: how many are off, 0 for all; pattern: which ones (a seed).
    """

    output: Annotated[float, Gt(0), Le(2)] = 1.0
    gain: Annotated[float, Interval(ge=-0.5, le=0.5)] = 0.0
    offset: Annotated[float, Interval(ge=-500, le=500)] = 0.0
    cupping: Annotated[float, Interval(ge=-200, le=200)] = 0.0
    ring: Annotated[float, Ge(0), Le(500)] = 0.0
    channels: Annotated[int, Ge(0)] = 0
    pattern: int = 0

    @property
    def sound(self) -> bool:
        """Whether images look as from a scanner without fault (output apart, which acts through the photons)."""
        return not (self.gain or self.offset or self.cupping or self.ring)


SOUND = Condition()


def check_condition(condition: Condition) -> None:
    """Raise ScenarioError E118 for a condition the model cannot have."""
    values = {"output": condition.output, "gain": condition.gain, "offset": condition.offset}
    values |= {"cupping": condition.cupping, "ring": condition.ring}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ScenarioError("E118", f"{name} = {value:g}", fix="allowed: a finite number")
    if not 0 < condition.output <= 2:
        raise ScenarioError("E118", f"output = {condition.output:g}: no tube gives that", fix="allowed: above 0, at most 2")
    if condition.ring < 0 or condition.channels < 0:
        raise ScenarioError("E118", "a ring needs an amplitude and a number of channels of at least 0")


def ring_peak(eps: float, kernel: str, r_mm: float) -> float:
    """Peak of the ring, HU, that one channel with relative gain error `eps` leaves at radius `r_mm`, full turn."""
    return RING_AT_50_MM[kernel] * (eps / 0.001) * math.sqrt(50 / max(r_mm, INNERMOST_MM))
