"""Health in five numbers from 0 to 1, remaining tube life, fingerprint: what follows from the state, recorded once a day."""

from __future__ import annotations

import math
from typing import Any

from p2pftl.device.lifecycle import quality
from p2pftl.device.qa import QaPolicy, freshness, is_stale
from p2pftl.device.state import State

WORN_DAYS = 90.0  # a tube whose p10 is nearer than this loses health


def summary(state: State, now: float, day_s: float, policy: QaPolicy, per_day: float = 0.0) -> dict[str, Any]:
    """Return the values of an `observed` fact: health, quality, fingerprint and, at a damage `per_day` > 0, the tube's remaining life."""
    found: dict[str, Any] = health(state, now, day_s, policy)
    if per_day > 0:
        life = state.tube.remaining(per_day)
        found |= {"tube.rul_days.p10": life.p10, "tube.rul_days.p50": life.p50, "tube.rul_days.p90": life.p90, "tube.per_day": per_day}
    found["learning.q"] = quality(state, stale=is_stale(state.get("sync.last_qa"), now, day_s, policy.limits))
    if (mark := fingerprint(state)) is not None:
        found["learning.fingerprint"] = mark
    return found


def shared(state: State) -> dict[str, Any]:
    """Return all that peers may know of a device: fingerprint, quality, lifecycle, kernel group."""
    return {
        "fingerprint": fingerprint(state),
        "q": min(state.get("learning.q", 1.0), quality(state)),  # what happened since the evening counts at once
        "lifecycle": state.lifecycle,
        "kernel_group": state.get("config.kernel_group", "unknown"),
    }


def load(state: State, now: float, day_s: float) -> float:
    """Return the tube's mean damage per device day since it was put in, 0 where that is not known or shorter than a week.

    Wear from before the log began is not in it: a tube that was old then lives shorter than `remaining` says.
    """
    since = state.get("tube.installed")
    days = 0.0 if since is None else (now - since) / day_s
    return float(state.get("tube.damage", 0.0) / days) if days >= 7 else 0.0


def health(state: State, now: float, day_s: float, policy: QaPolicy) -> dict[str, Any]:
    """Return health.* of a device; a number is None while nothing is known about it. 1 is as new, 0 at or beyond a limit."""
    limits = policy.limits
    mean, sd, unif = (state.get(f"qa.last.{name}") for name in ("mean", "sd", "unif"))
    base = state.get("qa.baseline.sd")
    parts: dict[str, float | None] = {
        "calibration": None if mean is None else _room(abs(mean), limits.mean_hu),
        "noise": None if sd is None or not base else _room(abs(sd / base - 1), limits.sd_share),
        "uniformity": None if unif is None else _room(unif, limits.unif_hu),
        "tube": _tube(state),
        "data_freshness": freshness(state.get("sync.last_qa"), now, day_s, limits),
    }
    known = {name: value for name, value in parts.items() if value is not None}
    worst = min(known, key=lambda name: known[name])
    about = "good" if known[worst] > 0.5 else f"{worst} {100 * known[worst]:.0f} %"
    return {**{f"health.{name}": value for name, value in parts.items()}, "health.reason": about}


def fingerprint(state: State) -> list[float] | None:
    """[ln sd, nps_f, mtf50, ln T, kVp / 20, unif] of the last phantom and the protocol, None while one of them is missing."""
    sd, nps, mtf, unif = (state.get(f"qa.last.{name}") for name in ("sd", "nps_f", "mtf50", "unif"))
    thick, kvp = state.get("config.slice_mm"), state.get("config.kvp")
    if None in (sd, nps, mtf, unif, thick, kvp) or not sd > 0 or not thick > 0:
        return None
    return [math.log(sd), nps, mtf, math.log(thick), kvp / 20, unif]


def _tube(state: State) -> float | None:
    p10 = state.get("tube.rul_days.p10")
    return None if p10 is None else min(1.0, max(0.0, p10 / WORN_DAYS))


def _room(value: float, limit: float) -> float:
    return max(0.0, 1 - value / limit)
