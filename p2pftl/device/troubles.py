"""What can happen to a simulated scanner, and what mends it (SCANNER_TWIN.md section 10)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p2pftl.device.protocol import Protocol
from p2pftl.device.tube import Tube
from p2pftl.errors import ScenarioError
from p2pftl.imaging.condition import RING_AT_50_MM, Condition, ring_peak
from p2pftl.imaging.scanner import Scanner

# kind -> its parameters and their defaults; None: required
KINDS: Mapping[str, Mapping[str, Any]] = {
    "hu_drift": {"rate": None},  # HU per day
    "hu_step": {"hu": None},
    "gain_drift": {"rate": None},  # per day
    "ring": {"hu": 0.0, "eps": 0.0, "channels": 0},  # HU at 50 mm, or relative gain error of the channels
    "cupping": {"hu": None},
    "tube_wear": {"share": None},  # of eta
    "arc_burst": {"count": None},
    "tube_failure": {"downtime_h": 0.0},  # 0: drawn from 24 to 72
    "tube_replace": {"downtime_h": 8.0},
    "air_calibration": {},
    "water_calibration": {},
    "software_upgrade": {"software": "next", "kernel": ""},
    "dose_change": {"factor": None, "qa": False},
    "kvp_change": {"kvp": None, "qa": False},
    "kernel_change": {"kernel": None, "qa": False},
    "slice_change": {"slice_mm": None, "qa": False},
    "missed_qa": {},
    "lying_qa": {},
    "outage": {},
    "clock_skew": {"seconds": None},
    "case_mix_shift": {"labels": {}},  # class -> share of those who come: changes who is scanned, not the scanner
}
MOMENTS = frozenset({  # these have no end
    "tube_wear", "arc_burst", "tube_failure", "tube_replace", "air_calibration", "water_calibration", "software_upgrade",
})  # fmt: skip
LASTING = frozenset({"hu_drift", "gain_drift", "missed_qa", "lying_qa", "outage", "clock_skew"})
OF_IMAGES = frozenset({  # images acquired afterwards look otherwise
    "hu_drift", "hu_step", "gain_drift", "ring", "cupping", "tube_wear", "dose_change", "kvp_change", "kernel_change", "slice_change",
})  # fmt: skip
ABOVE_0 = frozenset({("tube_wear", "share"), ("arc_burst", "count"), ("dose_change", "factor")})
FROM_0 = frozenset({
    ("ring", "hu"), ("ring", "eps"), ("ring", "channels"), ("tube_failure", "downtime_h"), ("tube_replace", "downtime_h"),
})  # fmt: skip
MENDED: Mapping[str, frozenset[str]] = {
    "air_cal": frozenset({"gain_drift", "ring"}),
    "water_cal": frozenset({"hu_drift", "hu_step", "cupping"}),
    "tube_replace": frozenset({"tube_wear", "tube_failure", "arc_burst"}),
}


@dataclass(frozen=True)
class Trouble:
    """`kind` begins on device day `day` (fractions count) and lasts until `until`. params: as KINDS has them."""

    kind: str
    day: float
    until: float = math.inf
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ScenarioError E126 for an unknown kind, E109, E110, E118 for parameters it cannot have."""
        if self.kind not in KINDS:
            raise ScenarioError("E126", f"no such device incident: {self.kind}", fix="allowed: " + ", ".join(sorted(KINDS)))
        allowed = KINDS[self.kind]
        if not self.day >= 0 or not self.until > self.day:
            raise ScenarioError("E118", f"{self.kind} from day {self.day:g} until {self.until:g}", fix="allowed: 0 <= day < until")
        if self.kind in MOMENTS and math.isfinite(self.until):
            raise ScenarioError("E118", f"{self.kind} has no end", fix="leave `until` out")
        for name in self.params:
            if name not in allowed:
                raise ScenarioError("E109", f"{self.kind}: unknown key {name}", fix="allowed: " + (", ".join(allowed) or "none"))
        for name, default in allowed.items():
            if default is None and self.params.get(name) is None:
                raise ScenarioError("E110", f"{self.kind} needs {name}")
            value = self[name]
            if isinstance(value, int | float):
                _check(self.kind, name, value)

    def __getitem__(self, name: str) -> Any:
        return self.params.get(name, KINDS[self.kind][name])


def of_images(kind: str, params: Mapping[str, Any]) -> bool:
    """Whether images that are acquired after such an incident look otherwise."""
    return kind in OF_IMAGES or (kind == "software_upgrade" and bool(params.get("kernel")))


def anew(kind: str, params: Mapping[str, Any]) -> str:
    """What such an incident asks of images that those already acquired cannot be given, in words; "" if they can."""
    if kind == "dose_change":
        return "a higher dose" if params["factor"] > 1 else ""
    if kind == "software_upgrade":
        return "another kernel" if params.get("kernel") else ""
    return {"kvp_change": "another tube voltage", "kernel_change": "another kernel", "slice_change": "other slices"}.get(kind, "")


@dataclass(frozen=True)
class Truth:
    """What a simulated scanner really is; its twin sees it through phantoms and headers only.

    fails_at: damage at which this tube fails; scanner: clinical protocol; software: its version. Images get the calibration
    error of `scanner` by being acquired with it, so `condition` leaves it out.
    """

    tube: Tube
    fails_at: float
    scanner: Scanner
    offset: float = 0.0
    gain: float = 0.0
    cupping: float = 0.0
    ring: float = 0.0
    channels: int = 0
    pattern: int = 0
    software: str = "1"

    def condition(self, extra_offset: float = 0.0) -> Condition:
        """What its images suffer from. extra_offset: HU of this one day."""
        return Condition(self.tube.output, self.gain, self.offset + extra_offset, self.cupping, self.ring, self.channels, self.pattern)


def strike(truth: Truth, trouble: Trouble) -> Truth:
    """Return `truth` when `trouble` begins; lasting ones act in `wear_on`, services and QA ones in the device's day."""
    scanner, tube = truth.scanner, truth.tube
    match trouble.kind:
        case "hu_step":
            return replace(truth, offset=truth.offset + trouble["hu"])
        case "ring":
            amplitude = trouble["hu"] or ring_peak(trouble["eps"], scanner.kernel, 50.0)
            return replace(truth, ring=math.hypot(truth.ring, amplitude), channels=int(trouble["channels"]))
        case "cupping":
            return replace(truth, cupping=truth.cupping + trouble["hu"])
        case "tube_wear":
            return replace(truth, tube=replace(tube, damage=tube.damage + trouble["share"] * tube.wear.eta_s))
        case "arc_burst":
            return replace(truth, tube=replace(tube, arcs=tube.arcs + int(trouble["count"])))
        case "software_upgrade":
            return replace(truth, software=str(trouble["software"]), scanner=_with(scanner, kernel=trouble["kernel"] or scanner.kernel))
        case "dose_change":
            return replace(truth, scanner=_with(scanner, dose=scanner.dose * trouble["factor"]))
        case "kvp_change":
            return replace(truth, scanner=_with(scanner, kvp=trouble["kvp"]))
        case "kernel_change":
            return replace(truth, scanner=_with(scanner, kernel=trouble["kernel"]))
        case "slice_change":
            return replace(truth, scanner=_with(scanner, slice_mm=trouble["slice_mm"]))
    return truth


def end(truth: Truth, trouble: Trouble, usual: Scanner) -> Truth:
    """Return `truth` when `trouble` ends by itself. usual: the protocol before all changes. A drift that ends leaves its error behind."""
    scanner = truth.scanner
    match trouble.kind:
        case "hu_step":
            return replace(truth, offset=truth.offset - trouble["hu"])
        case "cupping":
            return replace(truth, cupping=truth.cupping - trouble["hu"])
        case "ring":
            return replace(truth, ring=0.0, channels=0)
        case "dose_change":
            return replace(truth, scanner=_with(scanner, dose=scanner.dose / trouble["factor"]))
        case "kvp_change":
            return replace(truth, scanner=_with(scanner, kvp=usual.kvp))
        case "kernel_change":
            return replace(truth, scanner=_with(scanner, kernel=usual.kernel))
        case "slice_change":
            return replace(truth, scanner=_with(scanner, slice_mm=usual.slice_mm))
    return truth


def wear_on(truth: Truth, trouble: Trouble, days: float) -> Truth:
    """Return `truth` after `days` more of a lasting trouble."""
    if trouble.kind == "hu_drift":
        return replace(truth, offset=truth.offset + trouble["rate"] * days)
    if trouble.kind == "gain_drift":
        return replace(truth, gain=truth.gain + trouble["rate"] * days)
    return truth


def mend(truth: Truth, service: str, fails_at: float) -> Truth:
    """Return `truth` after a service. fails_at: the life of the new tube, should there be one."""
    if service == "air_cal":
        return replace(truth, gain=0.0, ring=0.0, channels=0, pattern=truth.pattern + 1)
    if service == "water_cal":
        return replace(truth, offset=0.0, cupping=0.0, scanner=replace(truth.scanner, hu_offset=0.0))
    if service == "tube_replace":
        return replace(truth, tube=Tube(wear=truth.tube.wear, t=truth.tube.t), fails_at=fails_at)
    return truth


def follow(protocol: Protocol, trouble: Trouble, usual: Protocol | None = None) -> Protocol:
    """Return how the phantom is scanned when it follows a changed clinical protocol, or new software.

    usual: what it goes back to, should the change be over. Raises ScenarioError E118 for a protocol the model does not have.
    """
    if trouble.kind == "dose_change":
        return replace(protocol, mas=protocol.mas / trouble["factor"] if usual else protocol.mas * trouble["factor"])
    name = {"kvp_change": "kvp", "kernel_change": "kernel", "slice_change": "slice_mm", "software_upgrade": "kernel"}[trouble.kind]
    return replace(protocol, **{name: getattr(usual, name) if usual else trouble[name] or getattr(protocol, name)})


def rehearse(scanner: Scanner, protocol: Protocol, troubles: Sequence[Trouble]) -> None:
    """Raise ScenarioError E118 for troubles that would lead a scanner, or its phantom, out of the model, before it lives a day."""
    truth, phantom = Truth(Tube(), math.inf, scanner), protocol
    steps = [(one.day, place, False) for place, one in enumerate(troubles)]
    steps += [(one.until, place, True) for place, one in enumerate(troubles) if math.isfinite(one.until)]
    for _, place, over in sorted(steps):
        one = troubles[place]
        truth = end(truth, one, scanner) if over else strike(truth, one)
        if one.params.get("qa") or one.kind == "software_upgrade":
            phantom = follow(phantom, one, protocol if over else None)


def _check(kind: str, name: str, value: float) -> None:
    """Raise ScenarioError E118 for an amount that makes no sense."""
    if not math.isfinite(value):
        raise ScenarioError("E118", f"{kind}: {name} = {value:g}", fix="allowed: a finite number")
    if ((kind, name) in ABOVE_0 and value <= 0) or ((kind, name) in FROM_0 and value < 0):
        raise ScenarioError(
            "E118", f"{kind}: {name} = {value:g}", fix="allowed: above 0" if (kind, name) in ABOVE_0 else "allowed: 0 or more"
        )


def _with(scanner: Scanner, **changes: Any) -> Scanner:
    """Raises ScenarioError E118 for a setting the model does not have."""
    changed = replace(scanner, **changes)
    sound = 70 <= changed.kvp <= 140 and 0 < changed.dose < math.inf and 0.5 <= changed.slice_mm <= 10 and changed.kernel in RING_AT_50_MM
    if not sound:
        raise ScenarioError(
            "E118", "a device incident leads to a protocol the model does not have", fix="70..140 kV, 0.5..10 mm, a known kernel"
        )
    return changed
