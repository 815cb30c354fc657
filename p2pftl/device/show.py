"""A device in words, for `p2pftl twin show | history | export | verify`: plain text, returned and not printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from p2pftl.device import export
from p2pftl.device.log import DeviceLog, Entry, load
from p2pftl.device.schema import FEATURES, INSTANTS, LOCAL, SCHEMA
from p2pftl.device.state import State
from p2pftl.device.tube import DAY
from p2pftl.errors import CheckpointError, UsageError, nearest

SUFFIX = ".device.jsonl"
NUMBERS = 4  # significant digits


def find(place: Path, name: str) -> Path:
    """Return the log of twin `name` in the folder of a run or of a watched device, or `place` itself when it is that file.

    Raises CheckpointError E501, UsageError E613 for a name that is not there.
    """
    if place.is_file():
        return place
    found = {file.name.removesuffix(SUFFIX): file for folder in (place, place / "twins") for file in sorted(folder.glob(f"*{SUFFIX}"))}
    if not found:
        raise CheckpointError("E501", "no device log in this folder", where=place.name, fix="give the folder of a run or a device")
    if name not in found:
        raise UsageError("E613", f"no twin {name} here", fix=nearest(name, found))
    return found[name]


def opened(place: Path, name: str) -> DeviceLog:
    """Return the verified log of twin `name`. Raises CheckpointError E501, E502, E505, UsageError E613."""
    return load(find(place, name))


@dataclass(frozen=True)
class Calendar:
    """How a log's times are written. day_s: seconds of a device day; installed: time of day 0, None for real times (POSIX)."""

    day_s: float = DAY
    installed: float | None = 0.0

    @classmethod
    def of(cls, log: DeviceLog, day_s: float = DAY) -> Calendar:
        """That of `log`: what was simulated counts days from the installation, what was read from a scanner has dates."""
        first = log.entries[0].fact
        return cls(day_s, first.t if first.source == "sim" else None)

    def when(self, t: float | None) -> str:
        """ "day 12.5" of the device's life, or "2004-01-19 12:31", of the scanner's clock."""
        if t is None:
            return "no time"
        if self.installed is not None:
            return f"day {(t - self.installed) / self.day_s:.1f}"
        try:
            return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M")
        except (ValueError, OverflowError, OSError):
            return f"t {t:.0f}"


def show(state: State, *, calendar: Calendar = Calendar(), local: bool = False) -> str:
    """Return what is known of a device, feature by feature; what is missing is said once per feature, not shown as a number."""
    lines = [f"{state.name}: {state.lifecycle}" + (f", {reason}" if (reason := state.get("lifecycle.reason")) else "")]
    for feature in ("attributes", *FEATURES):
        lines += _feature(state, feature, calendar, local)
    for path, wish in state.desired.items():
        answer = "no answer yet" if wish.at is None else f"{'accepted' if wish.accepted else 'declined'} by {wish.by}"
        lines += ["", f"advised: {path} = {_value(wish.v)} {wish.unit}".rstrip() + f" ({wish.reason}); {answer}"]
    return "\n".join(lines)


def _feature(state: State, feature: str, calendar: Calendar, local: bool) -> list[str]:
    paths = [path for path in SCHEMA if path.startswith(f"{feature}.") and (local or path not in LOCAL)]
    leaves = {path.removeprefix(f"{feature}."): state.leaf(path) for path in paths}
    known = {name: leaf for name, leaf in leaves.items() if leaf.v is not None}
    lines = ["", feature] if known or feature == "maintenance" else []
    width = max(map(len, known), default=0)
    for name, leaf in known.items():
        about = f"{leaf.source}, {leaf.quality}, {calendar.when(leaf.t)}"
        shown = calendar.when(leaf.v) if f"{feature}.{name}" in INSTANTS else f"{_value(leaf.v)} {leaf.unit}".rstrip()
        lines.append(f"  {name:<{width}}  {shown}  ({about})")
    said = [name for name, leaf in leaves.items() if leaf.v is None and leaf.source]
    if said:
        lines.append(f"  missing at the source: {', '.join(said)}")
    if feature == "maintenance":
        lines += [f"  {calendar.when(item['t'])}: {_service(item)}" for item in state.maintenance] or ["  none recorded"]
    if feature == "learning":
        lines += [f"  quarantined {_window(item, calendar)}: {item['reason']}" for item in state.quarantine]
    return lines


def history(log: DeviceLog, *, calendar: Calendar | None = None, kinds: Iterable[str] = (), last: int = 0) -> str:
    """Return the log line by line, oldest first. kinds: of facts to keep, all when empty; last: how many at most, all for 0."""
    wanted, known = frozenset(kinds), calendar or Calendar.of(log)
    entries = [entry for entry in log.entries if not wanted or entry.fact.kind in wanted]
    return "\n".join(_line(entry, known) for entry in entries[-last:]) if entries else "nothing of that kind happened"


def exported(log: DeviceLog, form: str = "json", *, local: bool = False) -> str:
    """Return the device as `form`: json (Ditto thing) or dtdl (the model). Raises UsageError E613."""
    if form == "json":
        return export.to_json(log, local=local)
    if form == "dtdl":
        return export.dtdl()
    raise UsageError("E613", f"no such form: {form}", fix="allowed: json, dtdl")


def verify(place: Path, name: str, *, expected: str = "") -> str:
    """Return one line that says the log holds. Raises CheckpointError E501, E502 naming the entry that does not, E505, UsageError E613."""
    log = load(find(place, name), expected=expected)
    seen = "ends as expected" if expected else "keep the head to notice a cut-off end"
    return f"{log.state.name}: {len(log)} entries hold, head {log.head}; {seen}"


def _line(entry: Entry, calendar: Calendar) -> str:
    fact = entry.fact
    return f"{entry.n:>6}  {calendar.when(fact.t):>10}  {fact.kind:<12}  {_said(fact.kind, fact.data)}  ({fact.source})"


def _said(kind: str, data: Mapping[str, Any]) -> str:
    match kind:
        case "created":
            return str(data["name"])
        case "lifecycle":
            return f"now {data['to']}: {data['reason']}"
        case "maintained":
            return _service(data)
        case "happened":
            return str(data["text"])
        case "quarantine":
            return "closed" if data["until"] is not None else f"open: {data['reason']}"
        case "model_flag":
            return f"{'raised' if data['up'] else 'cleared'}: {data['text']}"
        case "desired":
            return f"{data['path']} = {_value(data['v'])}: {data['reason']}"
        case "acknowledged":
            return f"{data['path']} {'accepted' if data['accepted'] else 'declined'} by {data['by']}"
        case "exposed":
            return f"{data['kvp']:g} kV, {data['ma']:g} mA, {data['s']:g} s"
    values = data.get("values", {})
    first = ", ".join(f"{name} {_value(value)}" for name, value in list(values.items())[:4] if value is not None)
    return first + (f" and {len(values) - 4} more" if len(values) > 4 else "")


def _service(item: Mapping[str, Any]) -> str:
    parts = [str(item["kind"]).replace("_", " "), item["part"], f"by {item['by']}" if item["by"] else "", item["note"]]
    return ", ".join(str(part) for part in parts if part) + (f", down {item['downtime_h']:.0f} h" if item["downtime_h"] else "")


def _window(item: Mapping[str, Any], calendar: Calendar) -> str:
    until = "until now" if item["until"] is None else f"to {calendar.when(item['until'])}"
    return f"from {calendar.when(item['since'])} {until}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{NUMBERS}g}"
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "none"
    return str(value) or "none"
