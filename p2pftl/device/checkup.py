"""What a phantom or a patient's slices change in a twin: the verdict, the log, the lifecycle. For real and simulated devices.

reading = analyse(hu, pixel_mm)                      # water.py: pixels of a real or a simulated phantom
verdict = phantom(log, reading, t, QaPolicy(), source="qa")
verdict = repeat(log, another, later, QaPolicy())    # where a chart alarmed and somebody scanned it again the same day
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from p2pftl.device import lifecycle, qa, surrogates
from p2pftl.device.dosimeter import residual
from p2pftl.device.log import DeviceLog, facts
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import QaPolicy, Verdict
from p2pftl.device.state import replay
from p2pftl.device.surrogates import Normal, Surrogates
from p2pftl.device.tube import DAY

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
    _follow(log, reading, verdict, t, policy, expected, source)
    return verdict


def repeat(log: DeviceLog, reading: Reading, t: float, policy: QaPolicy, *, expected: float | None = None, source: str = "qa") -> Verdict:
    """Judge a second phantom of the same device day, after a chart alarmed on the first: it confirms the alarm or clears it."""
    place = max(number for number, entry in enumerate(log.entries) if entry.fact.kind == "qa" and "last.sd" in entry.fact.data["values"])
    said = log.entries[place].fact.data["values"]
    first = Reading(**{item.name: math.nan if (value := said[f"last.{item.name}"]) is None else value for item in fields(Reading)})
    baseline, charts = qa.known(replay(facts(log.entries[:place])))
    verdict = qa.judge(first, baseline, charts, policy, reading)
    _follow(log, reading, verdict, t, policy, expected, source)
    return verdict


def arrived(log: DeviceLog, reading: Reading, t: float, policy: QaPolicy, *, expected: float | None = None) -> Verdict:
    """Judge a phantom of a real device: after an alarm, the next one of the same calendar day is the repeat."""
    state, last = log.state, log.state.get("sync.last_qa")
    alarmed = state.get("qa.status") == "warn" and state.get("qa.alarms") and last is not None and t // DAY == last // DAY
    return (repeat if alarmed else phantom)(log, reading, t, policy, expected=expected)


def median(readings: Sequence[Reading]) -> Reading:
    """Of each figure; NaN where no image has it."""
    every = [asdict(reading) for reading in readings]
    return Reading(**{name: statistics.median([one[name] for one in every if one[name] == one[name]] or [math.nan]) for name in every[0]})


def _follow(log: DeviceLog, reading: Reading, verdict: Verdict, t: float, policy: QaPolicy, expected: float | None, source: str) -> None:
    log.record("qa", t, source, {"values": qa.values(reading, verdict, t, expected)})
    values = {"sync.last_qa": t} | ({} if expected is None else {"sync.noise_residual_pct": residual(reading.sd, expected)})
    log.record("observed", t, source, {"values": values, "quality": "derived"})
    if step := lifecycle.after_qa(log.state, verdict.status, verdict.reasons, policy):
        lifecycle.move(log, t, step, source=source if source == "sim" else "log")


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
