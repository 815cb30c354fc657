"""What a device went through, read from its log entries and from what the learning did about it: the report's pages are drawn from it.

Times are virtual seconds, negative before the run began; `day` counts the device's days from its installation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2pftl import events as fact
from p2pftl.device.tube import DAY
from p2pftl.events import Event


@dataclass(frozen=True, slots=True)
class Morning:
    """A phantom. mean, sd, unif, ring: HU; up, dn: CUSUM; ewma: of ln(sd / baseline); reason: "" unless something is wrong."""

    t: float
    mean: float
    sd: float
    unif: float
    ring: float
    up: float
    dn: float
    ewma: float
    baseline_sd: float | None
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Evening:
    """The tube at the end of a day. heat: highest share of the capacity that day, None where nobody noted it; p10, p50, p90: remaining
    life, days; output: by the wear model; measured: by the phantom's noise."""

    t: float
    heat: float | None
    p10: float | None
    p50: float | None
    p90: float | None
    output: float | None
    measured: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """A quarantine. since: last passing phantom; opened: when it was found out; until None: still open."""

    since: float
    opened: float
    until: float | None
    reason: str


@dataclass
class Chronicle:
    """One device. day_s: virtual seconds of its day; stages: (t, state of its life, why); services, happened: (t, text);
    flags: (t, whether raised, why), of the model; origin: when it was installed."""

    day_s: float = DAY
    mornings: list[Morning] = field(default_factory=list)
    evenings: list[Evening] = field(default_factory=list)
    stages: list[tuple[float, str, str]] = field(default_factory=list)
    services: list[tuple[float, str]] = field(default_factory=list)
    happened: list[tuple[float, str]] = field(default_factory=list)
    flags: list[tuple[float, bool, str]] = field(default_factory=list)
    windows: dict[float, Window] = field(default_factory=dict)
    arrived: list[fact.StudiesArrived] = field(default_factory=list)
    withdrawn: list[fact.StudiesWithdrawn] = field(default_factory=list)
    withheld: list[fact.UpdateWithheld] = field(default_factory=list)
    adapting: list[fact.Adapting] = field(default_factory=list)
    last: fact.DeviceChanged | None = None
    entries: int = 0
    origin: float = 0.0
    _values: dict[str, Any] = field(default_factory=dict)

    def feed(self, event: Event) -> None:
        _FOLD[type(event)](self, event)

    def day(self, t: float) -> float:
        """The device day of time `t`."""
        return (t - self.origin) / self.day_s

    @property
    def began(self) -> float:
        """The device day on which the learning began."""
        return self.day(0.0)

    @property
    def days(self) -> float:
        """Days lived."""
        return self.day(self.evenings[-1].t) + 1 if self.evenings else 0.0

    def _logged(self, event: fact.DeviceLogged) -> None:
        for entry in event.entries:
            if entry["n"] < self.entries:
                continue
            self.entries = entry["n"] + 1
            note = _NOTES.get(entry["kind"])
            if note is not None:
                note(self, entry["t"], entry["data"])

    def _created(self, t: float, data: Mapping[str, Any]) -> None:
        self.origin = t
        self.stages.append((t, "commissioning", ""))

    def _qa(self, t: float, data: Mapping[str, Any]) -> None:
        found = data["values"]
        if any(found.get(f"last.{name}") is None for name in ("mean", "sd", "unif", "ring")):
            return
        status = str(found.get("status", ""))
        self.mornings.append(
            Morning(
                t, found["last.mean"], found["last.sd"], found["last.unif"], found["last.ring"],
                found.get("cusum.up", 0.0), found.get("cusum.dn", 0.0), found.get("ewma", 0.0),
                found.get("baseline.sd"), status, "" if status == "pass" else str(found.get("reason", "")),
            )
        )  # fmt: skip

    def _observed(self, t: float, data: Mapping[str, Any]) -> None:
        self._values |= data["values"]
        if "health.reason" not in data["values"]:
            return
        known = self._values.get
        self.evenings.append(
            Evening(
                t, known("tube.heat_peak"), known("tube.rul_days.p10"), known("tube.rul_days.p50"), known("tube.rul_days.p90"),
                known("tube.output"), known("tube.output_hat"),
            )
        )  # fmt: skip

    def _lifecycle(self, t: float, data: Mapping[str, Any]) -> None:
        self.stages.append((t, str(data["to"]), str(data["reason"])))

    def _maintained(self, t: float, data: Mapping[str, Any]) -> None:
        by = f" by {data['by']}" if data.get("by") else ""
        hours = f", {data['downtime_h']:.0f} h" if data.get("downtime_h") else ""
        self.services.append((t, f"{str(data['kind']).replace('_', ' ')}{by}{hours}"))
        if data["kind"] == "tube_replace":
            self._values = {name: value for name, value in self._values.items() if not name.startswith("tube.")}

    def _happened(self, t: float, data: Mapping[str, Any]) -> None:
        self.happened.append((t, str(data["text"])))

    def _quarantine(self, t: float, data: Mapping[str, Any]) -> None:
        since = float(data["since"])
        known = self.windows.get(since)
        self.windows[since] = Window(since, known.opened if known else t, data["until"], str(data["reason"]))

    def _flagged(self, t: float, data: Mapping[str, Any]) -> None:
        self.flags.append((t, bool(data["up"]), str(data["text"])))

    def _changed(self, event: fact.DeviceChanged) -> None:
        self.last = event

    def _studies(self, event: fact.StudiesArrived) -> None:
        self.arrived.append(event)

    def _out(self, event: fact.StudiesWithdrawn) -> None:
        self.withdrawn.append(event)

    def _silent(self, event: fact.UpdateWithheld) -> None:
        if not self.withheld or event.round > self.withheld[-1].round:  # a revived twin tells some again
            self.withheld.append(event)

    def _adapts(self, event: fact.Adapting) -> None:
        if not self.adapting or event.round > self.adapting[-1].round:
            self.adapting.append(event)


_NOTES: dict[str, Callable[[Chronicle, float, Mapping[str, Any]], None]] = {
    "created": Chronicle._created,
    "qa": Chronicle._qa,
    "observed": Chronicle._observed,
    "lifecycle": Chronicle._lifecycle,
    "maintained": Chronicle._maintained,
    "happened": Chronicle._happened,
    "quarantine": Chronicle._quarantine,
    "model_flag": Chronicle._flagged,
}
_FOLD: dict[type[Event], Callable[[Chronicle, Any], None]] = {
    fact.DeviceLogged: Chronicle._logged,
    fact.DeviceChanged: Chronicle._changed,
    fact.StudiesArrived: Chronicle._studies,
    fact.StudiesWithdrawn: Chronicle._out,
    fact.UpdateWithheld: Chronicle._silent,
    fact.Adapting: Chronicle._adapts,
}
KINDS = tuple(_FOLD)
