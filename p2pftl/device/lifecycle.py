"""Where in its life a device is, and what follows for its peers (SCANNER_TWIN.md section 6).

    commissioning -> baseline -> active -> warn -> active
    active | warn | baseline -> quarantined -> maintenance -> verifying -> baseline or active
    any -> offline -> verifying;  any -> retired

Service is a human's doing: the twin records it, it never starts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pftl.device.log import DeviceLog
from p2pftl.device.qa import QaPolicy, Status
from p2pftl.device.schema import SCHEMA
from p2pftl.device.state import State
from p2pftl.errors import UsageError

NEXT: Mapping[str, frozenset[str]] = {
    "commissioning": frozenset({"baseline", "quarantined", "offline", "retired", "maintenance"}),
    "baseline": frozenset({"active", "quarantined", "offline", "retired", "maintenance"}),
    "active": frozenset({"warn", "quarantined", "offline", "retired", "maintenance", "baseline"}),
    "warn": frozenset({"active", "quarantined", "offline", "retired", "maintenance", "baseline"}),
    "quarantined": frozenset({"maintenance", "offline", "retired"}),
    "maintenance": frozenset({"verifying", "offline", "retired"}),
    "verifying": frozenset({"baseline", "active", "quarantined", "maintenance", "offline", "retired"}),
    "offline": frozenset({"verifying", "maintenance", "retired"}),
    "retired": frozenset(),
}
TRUSTED = frozenset({"baseline", "active", "warn"})
SERVICES = ("air_cal", "water_cal", "tube_replace", "detector", "software", "inspection", "baseline")
RENEWING = frozenset({"tube_replace", "detector", "software", "baseline"})  # after these the baseline is another one


@dataclass(frozen=True)
class Move:
    """Into `to`, because of `reason`."""

    to: str
    reason: str


def after_qa(state: State, status: Status, reasons: tuple[str, ...], policy: QaPolicy) -> Move | None:
    """Return where a phantom's verdict leads, None to stay. `state` already holds this phantom."""
    now, why = state.lifecycle, "; ".join(reasons)
    if status == "fail" and now in TRUSTED | {"commissioning", "verifying"}:
        return Move("quarantined", why)
    if now == "commissioning" and status == "pass":
        return Move("baseline", "the first phantom passed")
    if now == "verifying" and status == "pass" and passes(state) >= policy.repeats:
        learnt = state.get("qa.baseline.n", 0) >= policy.charts.days
        return Move("active" if learnt else "baseline", f"{policy.repeats} phantoms passed")
    if now == "baseline" and state.get("qa.baseline.n", 0) >= policy.charts.days:
        return Move("active", f"a baseline of {policy.charts.days} phantoms")
    if now == "active" and status in ("warn", "stale"):
        return Move("warn", why)
    if now == "warn" and status == "pass":
        return Move("active", "the phantom passes again")
    return None


def passes(state: State) -> int:
    """Phantoms passed since the device went into its present state."""
    return int(state.get("lifecycle.passes", 0))


def move(log: DeviceLog, t: float, step: Move, *, source: str = "log") -> None:
    """Record `step`, with the quarantine window it opens or closes. Raises UsageError E613 for a step that life does not have.

    Quarantine reaches back to the last phantom that passed: nobody knows when it began after that.
    """
    before = log.state
    if step.to not in NEXT.get(before.lifecycle, frozenset()):
        raise UsageError("E613", f"a device that is {before.lifecycle} cannot become {step.to}", fix=_allowed(before.lifecycle))
    log.record("lifecycle", t, source, {"to": step.to, "reason": step.reason})
    if step.to == "quarantined":
        since = before.get("qa.last_pass", before.leaf("lifecycle.since").v or 0.0)
        log.record("quarantine", t, source, {"since": min(since, t), "until": None, "reason": step.reason})
    elif step.to in TRUSTED and before.lifecycle == "verifying":
        for window in before.quarantine:
            if window["until"] is None:
                log.record("quarantine", t, source, {"since": window["since"], "until": t, "reason": window["reason"]})


def maintain(
    log: DeviceLog, t: float, kind: str, *, part: str = "", by: str = "", note: str = "", downtime_h: float = 0.0, source: str = "manual"
) -> None:
    """Record a service. Raises UsageError E613 for a kind that is not one of SERVICES."""
    if kind not in SERVICES:
        raise UsageError("E613", f"no such service: {kind}", fix="allowed: " + ", ".join(SERVICES))
    log.record("maintained", t, source, {"kind": kind, "part": part, "by": by, "note": note, "downtime_h": downtime_h})


def advise(log: DeviceLog, t: float, path: str, value: Any, reason: str) -> None:
    """Write a desired value for the humans at the scanner. Raises UsageError E613 for what cannot be advised."""
    if path not in SCHEMA or not path.startswith("config.") or value is None:
        raise UsageError("E613", f"{path} cannot be advised", fix="allowed: a value of config.*")
    log.record("desired", t, "log", {"path": path, "v": value, "reason": reason})


def acknowledge(log: DeviceLog, t: float, path: str, by: str, *, accepted: bool) -> None:
    """A human answers an advice. The device changes when it is next seen to have changed. Raises UsageError E613."""
    if path not in log.state.desired or not by:
        raise UsageError("E613", f"nothing to acknowledge at {path}, or nobody named", fix="advise first; name who answers")
    log.record("acknowledged", t, "manual", {"path": path, "by": by, "accepted": accepted})


def quality(state: State, *, stale: bool = False) -> float:
    """Weight of this device's word among its peers: 1 trusted; 0.5 warned, stale or not yet known; 0 not to be heard.

    Just rejoined counts as 0.5 until the first phantom after verification.
    """
    now = state.lifecycle
    if now not in TRUSTED or state.get("qa.status") == "fail":
        return 0.0
    rejoined = bool(state.quarantine) and passes(state) == 0
    return 0.5 if now == "warn" or stale or rejoined or state.get("qa.status") in ("warn", "stale") else 1.0


def quarantined(state: State, t: float) -> bool:
    """Whether an image acquired at `t` lies in a quarantine window."""
    return any(window["since"] <= t and (window["until"] is None or t < window["until"]) for window in state.quarantine)


def _allowed(now: str) -> str:
    return "allowed: " + (", ".join(sorted(NEXT.get(now, frozenset()))) or "nothing, it is retired")
