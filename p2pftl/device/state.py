"""The state of a device: what is known of it, since when and from where. Always the fold of its log, never set by hand.

    state = fold(state, fact)

Shaped like an Eclipse Ditto thing: static attributes, features with properties and desired properties. From the twin to
the device there is advice only: a desired value and a human's acknowledgement; the property itself changes when the
device is next seen to have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pftl.device.schema import QUALITIES, SCHEMA, SOURCES, Quality
from p2pftl.device.tube import Tube, Wear
from p2pftl.errors import CheckpointError

TUBE_TOTALS = ("heat_J", "scan_s", "mAs", "energy_J", "exposures", "arcs", "damage")


@dataclass(frozen=True)
class Fact:
    """Something that happened to a device. t: seconds on the twin's clock (virtual, or POSIX for a real scanner).

    kind: one of FACTS; source: header, rdsr, qa, log, manual or sim; data: JSON values, finite numbers.
    """

    kind: str
    t: float
    source: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Leaf:
    """One value. t: when it was true, None while missing; quality: measured, derived, assumed or missing."""

    v: Any
    unit: str
    t: float | None
    source: str
    quality: Quality


@dataclass(frozen=True)
class Desire:
    """A value the twin advises. by, at: who acknowledged it and when; accepted: what that human decided."""

    v: Any
    unit: str
    t: float
    reason: str
    by: str = ""
    at: float | None = None
    accepted: bool | None = None


@dataclass(frozen=True)
class State:
    """name: the scenario's name for the scanner, never a serial number; leaves: path -> value; revision: facts folded so far."""

    name: str = ""
    revision: int = 0
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    desired: Mapping[str, Desire] = field(default_factory=dict)
    maintenance: tuple[Mapping[str, Any], ...] = ()
    quarantine: tuple[Mapping[str, Any], ...] = ()
    wear: Wear = field(default_factory=Wear)  # tube constants of this device

    def leaf(self, path: str) -> Leaf:
        """Return what is known at `path`; a missing leaf where nothing is. Raises KeyError for a path that does not exist."""
        return self.leaves.get(path) or Leaf(None, SCHEMA[path].unit, None, "", "missing")

    def get(self, path: str, default: Any = None) -> Any:
        """Return the value at `path`, `default` while it is missing."""
        value = self.leaf(path).v
        return default if value is None else value

    @property
    def lifecycle(self) -> str:
        return str(self.get("lifecycle.state", "commissioning"))

    @property
    def tube(self) -> Tube:
        """The tube as the log knows it, at the time of its last exposure."""
        totals = {name: self.get(f"tube.{name}", 0) for name in TUBE_TOTALS}
        return Tube(wear=self.wear, t=self.leaf("tube.heat_J").t or 0.0, **totals)


def fold(state: State, fact: Fact) -> State:
    """Return the state after `fact`. Raises CheckpointError E505 for a fact that is not one."""
    if fact.kind not in FACTS or fact.source not in SOURCES:
        raise CheckpointError("E505", "a device fact of an unknown kind or source", fix="was it written by a newer p2pftl?")
    try:
        return replace(FACTS[fact.kind](state, fact), revision=state.revision + 1)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("E505", f"a device fact {fact.kind} with fields it cannot have") from error


def replay(facts: Iterable[Fact]) -> State:
    """Return the state that `facts` lead to."""
    state = State()
    for fact in facts:
        state = fold(state, fact)
    return state


# ---------------------------------------------------------------------- what each kind of fact does


def _created(state: State, fact: Fact) -> State:
    """{name, wear?}: the first fact of a log. wear: tube constants that differ from the defaults."""
    wear = Wear(**fact.data.get("wear", {}))
    named = replace(state, name=str(fact.data["name"]), wear=wear)
    return _set(named, fact, {"lifecycle.state": "commissioning", "lifecycle.since": fact.t})


def _observed(state: State, fact: Fact) -> State:
    """{values: {path: value}, quality?}: read from a header, a dose report, a simulation; None means it is missing there."""
    return _set(state, fact, fact.data["values"], fact.data.get("quality", "measured"))


def _exposed(state: State, fact: Fact) -> State:
    """{kvp, ma, s, quality?}: one beam-on that began at t. The tube heats, cools and wears."""
    tube = state.tube if "tube.heat_J" in state.leaves else replace(state.tube, t=fact.t)  # a cold one, whatever the calendar says
    tube = tube.idle(fact.t).expose(float(fact.data["kvp"]), float(fact.data["ma"]), float(fact.data["s"]))
    values = {f"tube.{name}": getattr(tube, name) for name in TUBE_TOTALS}
    values |= {"tube.heat_share": tube.heat_J / state.wear.heat_max, "tube.output": tube.output, "tube.source": fact.source}
    after = _set(state, fact, values, fact.data.get("quality", "derived"))
    heat = replace(after.leaves["tube.heat_J"], t=tube.t)  # at the end of the beam-on, where cooling goes on from
    return replace(after, leaves={**after.leaves, "tube.heat_J": heat})


def _qa(state: State, fact: Fact) -> State:
    """{values: {path below qa: value}}: a phantom was analysed, or found missing. Passing ones in a row are counted."""
    values = {f"qa.{name}": value for name, value in fact.data["values"].items()}
    if "qa.status" in values:
        values["lifecycle.passes"] = state.get("lifecycle.passes", 0) + 1 if values["qa.status"] == "pass" else 0
    return _set(state, fact, values, fact.data.get("quality", "measured"))


def _lifecycle(state: State, fact: Fact) -> State:
    """{to, reason}: the device went into another state of its life."""
    values = {"lifecycle.state": str(fact.data["to"]), "lifecycle.since": fact.t, "lifecycle.reason": str(fact.data["reason"])}
    return _set(state, fact, {**values, "lifecycle.passes": 0})


def _maintained(state: State, fact: Fact) -> State:
    """{kind, part, by, note, downtime_h}: somebody serviced the device. Appended, never edited.

    Charts begin anew; a new tube, detector or software makes another device of it, which needs another baseline,
    and so does a physicist who accepts how the device is now (kind baseline).
    """
    record = {name: fact.data[name] for name in ("kind", "part", "by", "note", "downtime_h")}
    kind = record["kind"]
    values: dict[str, Any] = {}
    if kind != "inspection":
        values |= {"qa.cusum.up": 0.0, "qa.cusum.dn": 0.0, "qa.ewma": 0.0, "qa.alarms": []}
    if kind in ("tube_replace", "detector", "software", "baseline"):
        values |= {"qa.baseline.mean": None, "qa.baseline.sd": None, "qa.baseline.n": 0}
    if kind == "tube_replace":
        values |= {f"tube.{name}": 0 if name in ("exposures", "arcs") else 0.0 for name in TUBE_TOTALS}
        values |= {"tube.installed": fact.t, "tube.number": state.get("tube.number", 1) + 1, "tube.output": 1.0}
        values |= {f"tube.{name}": None for name in ("output_hat", "output_sd", "rul_days.p10", "rul_days.p50", "rul_days.p90")}
    if kind == "air_cal":
        values |= {"calibration.last_air": fact.t, "calibration.last_any": fact.t}
    if kind == "water_cal":
        values |= {"calibration.last_water": fact.t, "calibration.last_any": fact.t, "calibration.offset_hu": 0.0}
    kept = replace(state, maintenance=(*state.maintenance, {"t": fact.t, **record, "source": fact.source}))
    return _set(kept, fact, values)


def _desired(state: State, fact: Fact) -> State:
    """{path, v, reason}: the twin advises a value."""
    path = fact.data["path"]
    wish = Desire(fact.data["v"], SCHEMA[path].unit, fact.t, str(fact.data["reason"]))
    return replace(state, desired={**state.desired, path: wish})


def _acknowledged(state: State, fact: Fact) -> State:
    """{path, by, accepted}: a human answered the advice."""
    path = fact.data["path"]
    wish = replace(state.desired[path], by=str(fact.data["by"]), at=fact.t, accepted=bool(fact.data["accepted"]))
    return replace(state, desired={**state.desired, path: wish})


def _quarantine(state: State, fact: Fact) -> State:
    """{since, until, reason}: what was acquired from `since` on does not count; until None leaves the window open, a time closes it."""
    since, until = float(fact.data["since"]), fact.data["until"]
    window = {"since": since, "until": None if until is None else float(until), "reason": str(fact.data["reason"])}
    kept = [known for known in state.quarantine if known["since"] != since]
    return replace(state, quarantine=(*kept, window))


def _happened(state: State, fact: Fact) -> State:
    """{kind, text, params?}: something to remember that changes nothing known (an incident of a simulated device)."""
    _ = fact.data["kind"], fact.data["text"]
    return state


def _model_flag(state: State, fact: Fact) -> State:
    """{up, text, metric?, value?, best?}: a flag for those at the scanner is raised, for its model got worse; or it is cleared."""
    text = str(fact.data["text"])
    return _set(state, fact, {"maintenance.flag": text if fact.data["up"] else ""}, "derived")


FACTS = {
    "created": _created, "observed": _observed, "exposed": _exposed, "qa": _qa, "lifecycle": _lifecycle, "maintained": _maintained,
    "desired": _desired, "acknowledged": _acknowledged, "quarantine": _quarantine, "happened": _happened,
    "model_flag": _model_flag,
}  # fmt: skip


def _set(state: State, fact: Fact, values: Mapping[str, Any], quality: Quality = "measured") -> State:
    if quality not in QUALITIES:
        raise ValueError(quality)
    changed = {
        path: Leaf(value, SCHEMA[path].unit, fact.t, fact.source, "missing" if value is None else quality) for path, value in values.items()
    }
    return replace(state, leaves={**state.leaves, **changed})
