"""A scanner as a scenario describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval, Le


@dataclass(frozen=True)
class Scanner:
    """Configuration of one CT scanner.

    vendor: shape of its DICOM headers; kernel: reconstruction kernel group; kvp: tube voltage, kV;
    mas: tube load per rotation, mA s, at dose 1; dose: factor on mas; slice_mm: slice thickness, mm;
    hu_offset: calibration error, HU; speed: compute speed relative to the nominal twin (2 = twice as fast).
    """

    vendor: Literal["SIEMENS", "GE", "PHILIPS", "TOSHIBA"] = "SIEMENS"
    kernel: Literal["soft", "standard", "lung", "bone"] = "standard"
    kvp: Annotated[float, Interval(ge=70, le=140)] = 120.0
    mas: Annotated[float, Gt(0), Le(1000)] = 100.0
    dose: Annotated[float, Gt(0), Le(10)] = 1.0
    slice_mm: Annotated[float, Interval(ge=0.5, le=10)] = 1.5
    hu_offset: Annotated[float, Interval(ge=-200, le=200)] = 0.0
    speed: Annotated[float, Gt(0), Le(1000)] = 1.0
