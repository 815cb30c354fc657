"""How a device's daily phantom is scanned, and what one image of it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from p2pftl.errors import ScenarioError
from p2pftl.imaging.condition import RING_AT_50_MM
from p2pftl.imaging.scanner import Scanner

MAS = 10_000.0  # a scanner's largest, times its largest dose


@dataclass(frozen=True)
class Protocol:
    """How the phantom is scanned every day.

    kvp: tube voltage, kV; mas: tube load per rotation, mA s; slice_mm: slice thickness; kernel: reconstruction kernel; size: pixels
    a side; fov_mm: side of the image; diameter_mm: of the water; roi_mm2: area of a region; edge_mm: distance of the outer four
    from the centre.
    """

    kvp: Annotated[float, Interval(ge=70, le=140)] = 120.0
    mas: Annotated[float, Interval(gt=0, le=MAS)] = 200.0
    slice_mm: Annotated[float, Interval(ge=0.5, le=10)] = 5.0
    kernel: Literal["soft", "standard", "lung", "bone"] = "standard"
    size: Annotated[int, Interval(ge=64, le=1024)] = 512
    fov_mm: Annotated[float, Interval(ge=220, le=700)] = 250.0
    diameter_mm: Annotated[float, Interval(ge=120, le=600)] = 200.0
    roi_mm2: Annotated[float, Interval(gt=0, le=10_000)] = 400.0
    edge_mm: Annotated[float, Interval(gt=0, le=300)] = 70.0

    def __post_init__(self) -> None:
        """Raises ScenarioError E118 for a protocol the model does not have."""
        sound = 70 <= self.kvp <= 140 and 0 < self.mas <= MAS and 0.5 <= self.slice_mm <= 10 and self.kernel in RING_AT_50_MM
        if not sound:
            fix = f"70..140 kV, up to {MAS:g} mA s, 0.5..10 mm, a known kernel"
            raise ScenarioError("E118", "a phantom protocol the model does not have", fix=fix)

    @classmethod
    def of(cls, scanner: Scanner) -> Protocol:
        """Return the phantom's protocol with the clinical settings of `scanner`."""
        return cls(kvp=scanner.kvp, mas=scanner.mas * scanner.dose, slice_mm=scanner.slice_mm, kernel=scanner.kernel)

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
