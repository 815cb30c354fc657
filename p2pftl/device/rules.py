"""How a simulated scanner lives: patients, ageing, quality assurance, its tube and its calendar. All assumptions, all settable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, Len

from p2pftl.device.protocol import Protocol
from p2pftl.device.qa import QaPolicy
from p2pftl.device.tube import DAY, Wear
from p2pftl.errors import ScenarioError

Range = tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]]


@dataclass(frozen=True)
class Workload:
    """Patients of a day.

    exams: Poisson mean; ma: tube current mA, mean and sd; seconds: beam-on time, mean and sd; kvp: tube voltages to choose from.
    """

    exams: Annotated[float, Ge(0)] = 40.0
    ma: Range = (220.0, 50.0)
    seconds: Range = (7.0, 2.0)
    kvp: Annotated[tuple[Annotated[float, Interval(ge=70, le=140)], ...], Len(1, 100)] = (100.0, 120.0, 120.0, 140.0)

    def mean_damage(self, wear: Wear) -> float:
        """Damage of a mean day, equivalent seconds, with a cool anode."""
        watts = [kv * self.ma[0] for kv in self.kvp]
        spread = 1 + 0.5 * wear.exponent * (wear.exponent - 1) * (self.ma[1] / self.ma[0]) ** 2  # second order in the current
        return float(self.exams * self.seconds[0] * spread * sum((power / wear.power_W) ** wear.exponent for power in watts) / len(watts))


@dataclass(frozen=True)
class Ageing:
    """What changes without an incident.

    day_hu: day-to-day sd of the water mean, HU; walk_hu: growth of its error per square root of a day, HU; ring_hu: of rings;
    air_days: days between routine air calibrations; service_days: from quarantine to the engineer; repair_h: hours that a
    repair takes, from and to; tube_h: that a new tube takes.
    """

    day_hu: Annotated[float, Ge(0)] = 0.6
    walk_hu: Annotated[float, Ge(0)] = 0.01
    ring_hu: Annotated[float, Ge(0)] = 0.02
    air_days: Annotated[int, Gt(0)] = 7
    service_days: Annotated[int, Ge(0)] = 1
    repair_h: Range = (2.0, 8.0)
    tube_h: Range = (24.0, 72.0)

    def __post_init__(self) -> None:
        """Raises ScenarioError E118 for hours that end before they begin."""
        for name in ("repair_h", "tube_h"):
            low, high = getattr(self, name)
            if low > high:
                raise ScenarioError("E118", f"{name} from {low:g} to {high:g}", fix="the smaller one first")


@dataclass(frozen=True)
class Rules:
    """How a simulated device lives.

    day_s: virtual seconds per device day; measure: phantoms as pixels, or drawn (see sampled.py); history: device days lived
    before virtual time 0, so day d begins at (d - history) * day_s.
    """

    day_s: Annotated[float, Gt(0)] = DAY
    measure: Literal["sampled", "image"] = "sampled"
    protocol: Protocol = field(default_factory=Protocol)
    policy: QaPolicy = field(default_factory=QaPolicy)
    workload: Workload = field(default_factory=Workload)
    ageing: Ageing = field(default_factory=Ageing)
    wear: Wear = field(default_factory=Wear)
    history: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        """Raises ScenarioError E118 for a phantom that does not fit into its image, or regions that do not fit into the phantom."""
        plan = self.protocol
        if not plan.diameter_mm < plan.fov_mm:
            raise ScenarioError("E118", f"a phantom of {plan.diameter_mm:g} mm in an image of {plan.fov_mm:g} mm", fix="make fov_mm larger")
        if plan.edge_mm + math.sqrt(plan.roi_mm2 / math.pi) > plan.diameter_mm / 2:
            raise ScenarioError("E118", "the outer regions do not lie in the phantom", fix="make edge_mm or roi_mm2 smaller")
