"""How a simulated scanner lives: patients, ageing, quality assurance, its tube and its calendar. All assumptions, all settable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from p2pftl.device.protocol import Protocol
from p2pftl.device.qa import QaPolicy
from p2pftl.device.tube import DAY, Wear


@dataclass(frozen=True)
class Workload:
    """Patients of a day: Poisson mean; tube current mA, mean and sd; beam-on time s, mean and sd; tube voltages to choose from."""

    exams: Annotated[float, Ge(0)] = 40.0
    ma: tuple[float, float] = (220.0, 50.0)
    seconds: tuple[float, float] = (7.0, 2.0)
    kvp: tuple[float, ...] = (100.0, 120.0, 120.0, 140.0)

    def mean_damage(self, wear: Wear) -> float:
        """Damage of a mean day, equivalent seconds, with a cool anode."""
        watts = [kv * self.ma[0] for kv in self.kvp]
        spread = 1 + 0.5 * wear.exponent * (wear.exponent - 1) * (self.ma[1] / self.ma[0]) ** 2  # second order in the current
        return float(self.exams * self.seconds[0] * spread * sum((power / wear.power_W) ** wear.exponent for power in watts) / len(watts))


@dataclass(frozen=True)
class Ageing:
    """What changes without an incident. day_hu: day-to-day sd of the water mean; walk_hu, ring_hu: growth per square root of a day, HU;
    air_days: days between routine air calibrations; service_days: from quarantine to the engineer; repair_h, tube_h: hours that
    a repair and a new tube take, from and to."""

    day_hu: Annotated[float, Ge(0)] = 0.6
    walk_hu: Annotated[float, Ge(0)] = 0.01
    ring_hu: Annotated[float, Ge(0)] = 0.02
    air_days: Annotated[int, Gt(0)] = 7
    service_days: Annotated[int, Ge(0)] = 1
    repair_h: tuple[float, float] = (2.0, 8.0)
    tube_h: tuple[float, float] = (24.0, 72.0)


@dataclass(frozen=True)
class Rules:
    """How a simulated device lives. day_s: virtual seconds per device day; measure: phantoms as pixels, or drawn (see sampled.py)."""

    day_s: Annotated[float, Gt(0)] = DAY
    measure: Literal["sampled", "image"] = "sampled"
    protocol: Protocol = field(default_factory=Protocol)
    policy: QaPolicy = field(default_factory=QaPolicy)
    workload: Workload = field(default_factory=Workload)
    ageing: Ageing = field(default_factory=Ageing)
    wear: Wear = field(default_factory=Wear)
