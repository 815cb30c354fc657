"""What a phantom or a patient's slices change in a twin: the verdict, the log, the lifecycle. For real and simulated devices.

reading = analyse(hu, pixel_mm)                      # water.py: pixels of a real or a simulated phantom
verdict = phantom(log, reading, t, QaPolicy(), source="qa")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pftl.device import lifecycle, qa, surrogates
from p2pftl.device.dosimeter import residual
from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import QaPolicy, Verdict
from p2pftl.device.surrogates import Normal, Surrogates

Again = Callable[[], Reading]


def phantom(
    log: DeviceLog,
    reading: Reading,
    t: float,
    policy: QaPolicy,
    *,
    expected: float | None = None,
    again: Again | None = None,
    source: str = "qa",
) -> Verdict:
    """Judge one phantom scanned at `t`, record it and go where the lifecycle leads.

    expected: noise the model predicts for this protocol, HU, where the protocol is known; again: scans a second one of the same
    device day, asked for only when a chart alarms. Without it an alarm stays a warning.
    """
    baseline, charts = qa.known(log.state)
    verdict = qa.judge(reading, baseline, charts, policy)
    if verdict.alarms and again is not None:
        verdict = qa.judge(reading, baseline, charts, policy, again())
    log.record("qa", t, source, {"values": qa.values(reading, verdict, t, expected)})
    values = {"sync.last_qa": t} | ({} if expected is None else {"sync.noise_residual_pct": residual(reading.sd, expected)})
    log.record("observed", t, source, {"values": values, "quality": "derived"})
    if step := lifecycle.after_qa(log.state, verdict.status, verdict.reasons, policy):
        lifecycle.move(log, t, step, source=source if source == "sim" else "log")
    return verdict


def patients(log: DeviceLog, found: Sequence[Surrogates], t: float, normal: Normal | None = None, *, source: str = "header") -> str:
    """Record what patients' slices say of the calibration; return "pass" or "warn". It moves no lifecycle: surrogates warn only."""
    status, reasons = surrogates.judge(list(found), normal or Normal())
    values = {f"surrogate.{name}": surrogates.median(list(found), name) for name in ("air", "fat", "aorta")}
    log.record("qa", t, source, {"values": {**values, "surrogate.status": status}, "quality": "derived"})
    if reasons:
        log.record("happened", t, source, {"kind": "surrogate", "text": "; ".join(reasons)})
    return status


def stale(log: DeviceLog, t: float, day_s: float, policy: QaPolicy, *, source: str = "log") -> bool:
    """Record at `t` that phantoms are missing, should they be; return whether they are. A device day lasts `day_s` seconds."""
    state = log.state
    if not qa.is_stale(state.get("sync.last_qa"), t, day_s, policy.limits) or state.lifecycle not in lifecycle.TRUSTED:
        return False
    if state.get("qa.status") != "stale":
        log.record("qa", t, source, {"values": {"status": "stale", "reason": "no phantom for too long"}})
    if step := lifecycle.after_qa(log.state, "stale", ("no phantom for too long",), policy):
        lifecycle.move(log, t, step, source=source)
    return True
