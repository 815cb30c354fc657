"""What can happen to a scanner, or to its quality assurance, as a scenario writes it.

Each is written in virtual seconds (`at`, `until`) or in device days since the start of the run (`day`, `until_day`); `on`
turns days into seconds. What it does to the hardware is not known here: its one effect is a DeviceFault, and the device
behind the twin acts on it (SCANNER_TWIN.md section 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from annotated_types import Ge, Gt, Interval, Len

from p2pftl.errors import ScenarioError
from p2pftl.world.incidents import DeviceFault, Effect, Incident, Span, instant, period

Own = TypeVar("Own", bound="Moment")
Late = Annotated[float, Ge(0)] | None
Later = Annotated[float, Gt(0)] | None
Hours = Annotated[float, Interval(ge=0, le=10_000)]
Kernel = Literal["soft", "standard", "lung", "bone"]
TIMES = frozenset({"twin", "at", "day", "until", "until_day"})


@dataclass(frozen=True)
class Moment:
    """Happens to the scanner of `twin` at virtual second `at`, or on device day `day` after the start; it has no end."""

    kind: ClassVar[str] = ""
    twin: str
    at: Late = None
    day: Late = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raises ScenarioError E110 without a time, E128 for a mixture of seconds and days, E121 for an end before the beginning."""
        if self.at is None and self.day is None:
            raise ScenarioError("E110", f"{self.kind} has no time", fix="give `at`, virtual seconds, or `day`, device days")
        until, until_day = self._ends()
        seconds, days = (self.at, until), (self.day, until_day)
        if (self.at is None or any(time is not None for time in days)) and (self.day is None or any(time is not None for time in seconds)):
            fix = "use `at` and `until`, or `day` and `until_day`"
            raise ScenarioError("E128", f"{self.kind} has times in seconds and in device days", fix=fix)
        if self.day is not None and until_day is not None and until_day <= self.day:
            raise ScenarioError("E121", f"{self.kind} ends on day {until_day:g}, not after day {self.day:g}", fix="until_day must be later")

    def on(self: Own, day_s: float) -> Own:
        """Return the incident in virtual seconds. day_s: of a device day."""
        if self.day is None:
            return self
        _, until_day = self._ends()
        end: dict[str, Any] = {} if until_day is None else {"until": until_day * day_s, "until_day": None}
        return replace(self, at=self.day * day_s, day=None, **end)

    def text(self) -> str:
        return f"{self.story()} {self.when()}."

    def story(self) -> str:
        """Who and what, without the time."""
        raise NotImplementedError

    def when(self) -> str:
        if self.day is None:
            began, ended = self.spans()
            return period(began, ended) if isinstance(self, Lasting) else f"at {instant(began)}"
        _, until_day = self._ends()
        end = " on" if until_day is None else f" to {until_day:g}"
        return f"from device day {self.day:g}{end}" if isinstance(self, Lasting) else f"on device day {self.day:g}"

    def spans(self) -> Span:
        """Raises ValueError while the incident is in device days: see `on`."""
        if self.at is None:
            raise ValueError(f"{self.kind} is in device days")
        until, _ = self._ends()
        return self.at, self.at if not isinstance(self, Lasting) else math.inf if until is None else until

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        start, stop = self.spans()
        params = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in TIMES}
        return (DeviceFault(self.twin, self.kind, start, stop if isinstance(self, Lasting) else math.inf, params),)

    def _ends(self) -> tuple[float | None, float | None]:
        return None, None


@dataclass(frozen=True)
class Lasting(Moment):
    """Begins at virtual second `at` and ends at `until`, or on device days `day` and `until_day`; null: never ends by itself."""

    until: Later = None
    until_day: Later = field(default=None, kw_only=True)

    def _ends(self) -> tuple[float | None, float | None]:
        return self.until, self.until_day


def in_seconds(incidents: Sequence[Incident], day_s: float) -> tuple[Incident, ...]:
    """Return `incidents` with device days turned into virtual seconds. day_s: of a device day."""
    return tuple(incident.on(day_s) if isinstance(incident, Moment) else incident for incident in incidents)


# ---------------------------------------------------------------------- calibration and artefacts


@dataclass(frozen=True, kw_only=True)
class HuDrift(Lasting):
    """A scanner's calibration drifts. rate: HU per device day."""

    kind: ClassVar[str] = "hu_drift"
    rate: Annotated[float, Interval(ge=-1000, le=1000)] = 0.5

    def story(self) -> str:
        return f"The CT numbers of {self.twin} drift by {self.rate:+g} HU per day"


@dataclass(frozen=True, kw_only=True)
class HuStep(Lasting):
    """A scanner's CT numbers jump. hu: by so much."""

    kind: ClassVar[str] = "hu_step"
    hu: Annotated[float, Interval(ge=-500, le=500)]

    def story(self) -> str:
        return f"The CT numbers of {self.twin} are off by {self.hu:+g} HU"


@dataclass(frozen=True, kw_only=True)
class GainDrift(Lasting):
    """A scanner's gain drifts: water moves, air does not. rate: relative, per device day."""

    kind: ClassVar[str] = "gain_drift"
    rate: Annotated[float, Interval(ge=-0.1, le=0.1)]

    def story(self) -> str:
        return f"The gain of {self.twin} drifts by {100 * self.rate:+g} % per day"


@dataclass(frozen=True, kw_only=True)
class Ring(Lasting):
    """Detector channels are off and leave rings. hu: their standard deviation at 50 mm, or eps: the relative gain error of the
    channels; channels: how many are off, 0 for all."""

    kind: ClassVar[str] = "ring"
    hu: Annotated[float, Interval(ge=0, le=500)] = 0.0
    eps: Annotated[float, Interval(ge=0, le=0.2)] = 0.0
    channels: Annotated[int, Interval(ge=0, le=100_000)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.hu > 0) == (self.eps > 0):
            raise ScenarioError("E128", "ring needs either hu or eps above 0", fix="give one of them")

    def story(self) -> str:
        size = f"{self.hu:g} HU" if self.hu else f"channels {100 * self.eps:g} % off"
        return f"The images of {self.twin} have rings ({size})"


@dataclass(frozen=True, kw_only=True)
class Cupping(Lasting):
    """Beam hardening is no longer corrected. hu: depth of the cup at the centre."""

    kind: ClassVar[str] = "cupping"
    hu: Annotated[float, Interval(ge=-200, le=200)]

    def story(self) -> str:
        return f"The images of {self.twin} are cupped by {self.hu:g} HU"


# ---------------------------------------------------------------------- the tube


@dataclass(frozen=True, kw_only=True)
class TubeWear(Moment):
    """A tube is suddenly older. share: of its characteristic life."""

    kind: ClassVar[str] = "tube_wear"
    share: Annotated[float, Interval(gt=0, le=10)]

    def story(self) -> str:
        return f"The tube of {self.twin} wears by {self.share:g} of its life"


@dataclass(frozen=True, kw_only=True)
class ArcBurst(Moment):
    """A tube arcs. count: so many times."""

    kind: ClassVar[str] = "arc_burst"
    count: Annotated[int, Interval(ge=1, le=100_000)]

    def story(self) -> str:
        return f"The tube of {self.twin} arcs {self.count} times"


@dataclass(frozen=True, kw_only=True)
class TubeFailure(Moment):
    """A tube fails. downtime_h: device hours until the new one works, 0: drawn from `device.ageing.tube_h`."""

    kind: ClassVar[str] = "tube_failure"
    downtime_h: Hours = 0.0

    def story(self) -> str:
        return f"The tube of {self.twin} fails"


@dataclass(frozen=True, kw_only=True)
class TubeReplace(Moment):
    """A planned replacement of the tube. downtime_h: device hours it takes."""

    kind: ClassVar[str] = "tube_replace"
    downtime_h: Hours = 8.0

    def story(self) -> str:
        return f"{self.twin} gets a new tube"


# ---------------------------------------------------------------------- calibration, software and protocol: legitimate changes


@dataclass(frozen=True, kw_only=True)
class AirCalibration(Moment):
    """An air calibration: gain and rings are as new."""

    kind: ClassVar[str] = "air_calibration"

    def story(self) -> str:
        return f"{self.twin} is calibrated in air"


@dataclass(frozen=True, kw_only=True)
class WaterCalibration(Moment):
    """A water calibration: offset and cupping are as new."""

    kind: ClassVar[str] = "water_calibration"

    def story(self) -> str:
        return f"{self.twin} is calibrated in water"


@dataclass(frozen=True, kw_only=True)
class SoftwareUpgrade(Moment):
    """New software. software: its version; kernel: what it reconstructs with from then on, "" for as before."""

    kind: ClassVar[str] = "software_upgrade"
    software: Annotated[str, Len(1, 64)] = "next"
    kernel: Literal["", "soft", "standard", "lung", "bone"] = ""

    def story(self) -> str:
        return f"{self.twin} gets new software" + (f" and the {self.kernel} kernel" if self.kernel else "")


@dataclass(frozen=True, kw_only=True)
class DoseChange(Lasting):
    """A scanner's dose becomes `factor` times what it was. qa: the phantom's as well."""

    kind: ClassVar[str] = "dose_change"
    factor: Annotated[float, Interval(gt=0, le=10)] = 0.5
    qa: bool = False

    def story(self) -> str:
        return f"{self.twin} scans with {self.factor:g} times its dose"


@dataclass(frozen=True, kw_only=True)
class KvpChange(Lasting):
    """Another tube voltage. kvp: kV; qa: for the phantom as well."""

    kind: ClassVar[str] = "kvp_change"
    kvp: Annotated[float, Interval(ge=70, le=140)]
    qa: bool = False

    def story(self) -> str:
        return f"{self.twin} scans with {self.kvp:g} kV"


@dataclass(frozen=True, kw_only=True)
class KernelChange(Lasting):
    """Another reconstruction kernel. kernel: its group; qa: for the phantom as well."""

    kind: ClassVar[str] = "kernel_change"
    kernel: Kernel
    qa: bool = False

    def story(self) -> str:
        return f"{self.twin} reconstructs with the {self.kernel} kernel"


@dataclass(frozen=True, kw_only=True)
class SliceChange(Lasting):
    """Another slice thickness. slice_mm: mm; qa: for the phantom as well."""

    kind: ClassVar[str] = "slice_change"
    slice_mm: Annotated[float, Interval(ge=0.5, le=10)]
    qa: bool = False

    def story(self) -> str:
        return f"{self.twin} scans slices of {self.slice_mm:g} mm"


# ---------------------------------------------------------------------- quality assurance, clock and patients


@dataclass(frozen=True, kw_only=True)
class MissedQa(Lasting):
    """Nobody scans the daily phantom."""

    kind: ClassVar[str] = "missed_qa"

    def story(self) -> str:
        return f"Nobody scans the phantom of {self.twin}"


@dataclass(frozen=True, kw_only=True)
class LyingQa(Lasting):
    """The daily phantom shows a scanner without fault, whatever is wrong with it."""

    kind: ClassVar[str] = "lying_qa"

    def story(self) -> str:
        return f"The phantom of {self.twin} shows no fault whatever is wrong"


@dataclass(frozen=True, kw_only=True)
class CaseMixShift(Lasting):
    """Other patients come: no fault of the scanner. labels: class name or number -> share of those who come."""

    kind: ClassVar[str] = "case_mix_shift"
    labels: Annotated[Mapping[str, Annotated[float, Interval(ge=0, le=1)]], Len(1, 1000)]

    def __post_init__(self) -> None:
        """Raises ScenarioError E118 for shares of more than everybody."""
        super().__post_init__()
        if sum(self.labels.values()) > 1 + 1e-9:
            raise ScenarioError("E118", "case_mix_shift: the shares of the classes sum to more than 1", fix="shares from 0 to 1")

    def story(self) -> str:
        shares = ", ".join(f"{name} {share:g}" for name, share in self.labels.items())
        return f"Other patients come to {self.twin} ({shares})"


@dataclass(frozen=True, kw_only=True)
class ClockSkew(Lasting):
    """The scanner's clock is off. seconds: virtual, positive if it is fast."""

    kind: ClassVar[str] = "clock_skew"
    seconds: Annotated[float, Interval(ge=-1e9, le=1e9)]

    def story(self) -> str:
        return f"The clock of {self.twin} is off by {self.seconds:+g} s"
