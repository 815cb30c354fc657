"""The verdict on a phantom: limits of one day, charts over days, one status.

fail: a limit is broken, or a repeat phantom confirmed a chart's alarm. warn: an alarm, or something to look at.
stale: the last phantom is too old. pass: none of these.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt

from p2pftl.device.charts import Baseline, ChartPolicy, Charts
from p2pftl.device.protocol import Reading
from p2pftl.device.state import State

Status = Literal["pass", "warn", "fail", "stale"]


@dataclass(frozen=True)
class Limits:
    """Of one device. mean_hu: |water|; sd_share: |sd / baseline - 1|; unif_hu; air_hu: |air + 1000|, warns; ring_hu: warns;
    stale_days: age of the last phantom, device days."""

    mean_hu: Annotated[float, Gt(0)] = 5.0
    sd_share: Annotated[float, Gt(0)] = 0.2
    unif_hu: Annotated[float, Gt(0)] = 5.0
    air_hu: Annotated[float, Gt(0)] = 10.0
    ring_hu: Annotated[float, Gt(0)] = 1.0
    stale_days: Annotated[float, Gt(0)] = 2.0


@dataclass(frozen=True)
class QaPolicy:
    """repeats: passing phantoms before a serviced device is trusted again."""

    limits: Limits = field(default_factory=Limits)
    charts: ChartPolicy = field(default_factory=ChartPolicy)
    repeats: Annotated[int, Gt(0)] = 3


@dataclass(frozen=True)
class Verdict:
    """status with its reasons, and what the next day begins with."""

    status: Status
    reasons: tuple[str, ...]
    charts: Charts
    baseline: Baseline
    alarms: tuple[str, ...] = ()


def judge(reading: Reading, baseline: Baseline, charts: Charts, policy: QaPolicy, repeat: Reading | None = None) -> Verdict:
    """Judge one day. repeat: a second phantom of the same device day, which confirms or clears a chart's alarm.

    Until `policy.charts.days` passed, the baseline learns and the charts rest.
    """
    broken = beyond(reading, baseline, policy.limits)
    if baseline.n < policy.charts.days:
        learnt = baseline if broken else baseline.learn(reading)
        return Verdict("fail" if broken else _soft(reading, policy), broken or _doubts(reading, policy), charts, learnt)
    after = charts.update(reading, baseline, policy.charts)
    alarms = after.alarms(policy.charts)
    if alarms and repeat is not None:
        said = {name.split()[0] for name in broken}
        broken += tuple(name for name in beyond(repeat, baseline, policy.limits) if name.split()[0] not in said)
        again = charts.update(repeat, baseline, policy.charts)
        confirmed = tuple(name for name in alarms if name in again.alarms(policy.charts))
        if confirmed:
            return Verdict("fail", (*broken, *(f"{name}, confirmed" for name in confirmed)), after, baseline, alarms)
        after, alarms = after.calmed(alarms), ()
    if broken:
        return Verdict("fail", broken, after, baseline, alarms)
    doubts = (*alarms, *_doubts(reading, policy))
    return Verdict("warn" if doubts else "pass", doubts, after, baseline, alarms)


def beyond(reading: Reading, baseline: Baseline, limits: Limits) -> tuple[str, ...]:
    """The limits of one day that `reading` breaks; the noise limit needs a baseline."""
    found = []
    if not abs(reading.mean) <= limits.mean_hu:
        found.append(f"water {reading.mean:+.1f} HU, allowed {limits.mean_hu:g}")
    if baseline.n and not abs(reading.sd / baseline.sd - 1) <= limits.sd_share:
        found.append(f"noise {100 * (reading.sd / baseline.sd - 1):+.0f} %, allowed {100 * limits.sd_share:g} %")
    if not reading.unif <= limits.unif_hu:
        found.append(f"edge {reading.unif:.1f} HU from the centre, allowed {limits.unif_hu:g}")
    return tuple(found)


def freshness(last: float | None, now: float, day_s: float, limits: Limits) -> float:
    """1 for a phantom of today, falling to 0 when it is stale. last, now: virtual seconds."""
    if last is None:
        return 0.0
    age = max(0.0, now - last) / day_s
    return max(0.0, min(1.0, 1 - (age - 1) / max(limits.stale_days - 1, 1e-9)))


def is_stale(last: float | None, now: float, day_s: float, limits: Limits) -> bool:
    """Whether the last phantom is older than allowed, or there never was one."""
    return last is None or now - last > limits.stale_days * day_s


def values(reading: Reading, verdict: Verdict, t: float, sd_expected: float | None) -> dict[str, Any]:
    """What a `qa` fact says of one day's phantom; `reason` is one plain line."""
    last = {f"last.{name}": value for name, value in asdict(reading).items()}
    found = {
        **last, "last.t": t, "last.sd_expected": sd_expected, "status": verdict.status, "reason": "; ".join(verdict.reasons),
        "alarms": list(verdict.alarms), "cusum.up": verdict.charts.up, "cusum.dn": verdict.charts.dn, "ewma": verdict.charts.ewma,
        "baseline.mean": verdict.baseline.mean if verdict.baseline.n else None,
        "baseline.sd": verdict.baseline.sd if verdict.baseline.n else None, "baseline.n": verdict.baseline.n,
    }  # fmt: skip
    if verdict.status == "pass":
        found["last_pass"] = t
    return {name: None if isinstance(value, float) and value != value else value for name, value in found.items()}


def known(state: State) -> tuple[Baseline, Charts]:
    """Baseline and charts as the log of a device has them."""
    baseline = Baseline(state.get("qa.baseline.mean", 0.0), state.get("qa.baseline.sd", 0.0), state.get("qa.baseline.n", 0))
    return baseline, Charts(state.get("qa.cusum.up", 0.0), state.get("qa.cusum.dn", 0.0), state.get("qa.ewma", 0.0))


def _doubts(reading: Reading, policy: QaPolicy) -> tuple[str, ...]:
    found = []
    if not abs(reading.air + 1000) <= policy.limits.air_hu:
        found.append(f"air {reading.air:.0f} HU")
    if reading.ring > policy.limits.ring_hu:
        found.append(f"rings of {reading.ring:.1f} HU")
    return tuple(found)


def _soft(reading: Reading, policy: QaPolicy) -> Status:
    return "warn" if _doubts(reading, policy) else "pass"
