"""How a device's daily phantom is scanned, and what one image of it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval, Le

from p2pftl.imaging.scanner import Scanner


@dataclass(frozen=True)
class Protocol:
    """How the phantom is scanned every day. diameter_mm: of the water; roi_mm2, edge_mm: area of a region, distance of the outer four."""

    kvp: Annotated[float, Interval(ge=70, le=140)] = 120.0
    mas: Annotated[float, Gt(0), Le(1000)] = 200.0
    slice_mm: Annotated[float, Interval(ge=0.5, le=10)] = 5.0
    kernel: Literal["soft", "standard", "lung", "bone"] = "standard"
    size: Annotated[int, Interval(ge=64, le=1024)] = 512
    fov_mm: Annotated[float, Interval(ge=220, le=700)] = 250.0
    diameter_mm: Annotated[float, Gt(0)] = 200.0
    roi_mm2: Annotated[float, Gt(0)] = 400.0
    edge_mm: Annotated[float, Gt(0)] = 70.0

    @property
    def pixel_mm(self) -> float:
        return self.fov_mm / self.size

    @property
    def scanner(self) -> Scanner:
        return Scanner(kernel=self.kernel, kvp=self.kvp, mas=self.mas, slice_mm=self.slice_mm)


@dataclass(frozen=True)
class Reading:
    """What one phantom image says. mean, sd: centre, HU; unif: largest difference of an outer region from it, HU; air: HU;
    ring: ripple of the radial profile, scaled to 50 mm, HU; mtf50, nps_f: 1/mm."""

    mean: float
    sd: float
    unif: float
    air: float
    ring: float
    mtf50: float
    nps_f: float
