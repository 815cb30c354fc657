"""Months of device life of a few simulated scanners, written as logs and daily water phantoms: something to look at without a run.

Everything is synthetic and says so: facts have source "sim", images "SYNTHETIC" in their headers.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from p2pftl.device import water
from p2pftl.device.life import Device
from p2pftl.device.log import append
from p2pftl.device.show import SUFFIX
from p2pftl.device.troubles import KINDS, Trouble
from p2pftl.draw import draw
from p2pftl.errors import CheckpointError, ScenarioError, UsageError, nearest
from p2pftl.imaging.dicom_write import Study, ct_slice
from p2pftl.imaging.scanner import Scanner

MOST = 1e6
SIGNED = frozenset({"rate", "hu", "seconds"})
FIRST = date(2020, 1, 1)  # day 0 in the headers of phantoms
SCANNERS = (
    Scanner("SIEMENS", "standard", mas=100, slice_mm=1.5),
    Scanner("GE", "soft", mas=120, slice_mm=2.5),
    Scanner("PHILIPS", "bone", mas=150, slice_mm=1.0),
    Scanner("TOSHIBA", "standard", mas=110, slice_mm=2.0),
)
_EXAMPLE = 'as in "hu_drift twin=ct-02 at=60 rate=0.5"'


@dataclass(frozen=True)
class Incident:
    """`trouble` comes to scanner `twin`."""

    twin: str
    trouble: Trouble


def simulate(
    out: Path,
    *,
    scanners: int,
    days: int,
    seed: int,
    incidents: Sequence[Incident] = (),
    phantoms: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Write `out`/ct-01.device.jsonl and so on; the same arguments give the same bytes.

    phantoms: mornings, the last ones, whose water phantom is written below `out`/phantoms as DICOM.
    Raises UsageError E510, E601 for a folder that cannot be used, ScenarioError E118, E120, CheckpointError E509.
    """
    names = [f"ct-{number:02}" for number in range(1, scanners + 1)]
    for incident in incidents:
        if incident.twin not in names:
            raise ScenarioError("E120", f"an incident names {incident.twin}, which is no scanner here", fix=nearest(incident.twin, names))
    paths = [out / f"{name}{SUFFIX}" for name in names]
    _room(out, paths)
    devices = []
    for number, name in enumerate(names):
        troubles = [incident.trouble for incident in incidents if incident.twin == name]
        device = Device.new(name, seed=seed, scanner=SCANNERS[number % len(SCANNERS)], troubles=troubles)
        while device.day < days:
            device.live()
            if device.day > days - phantoms and device.log.state.lifecycle not in ("offline", "maintenance", "retired"):
                _phantom(device, out / "phantoms" / name)
        devices.append(device)
        state = device.log.state
        say(f"{name}: {days} days, {len(device.log)} entries, {len(state.maintenance)} services, now {state.lifecycle}")
    for device, path in zip(devices, paths, strict=True):
        append(path, device.log, 0)


def told(text: str) -> Incident:
    """Read an incident as a user types it: `KIND twin=NAME at=DAY [until=DAY] [KEY=VALUE ...]`.

    Raises ScenarioError E105 for words that are none, E109, E110, E112, E118, E121, E126 as Trouble does.
    """
    kind, given = _words(text)
    if kind not in KINDS:
        raise ScenarioError("E126", f"no such incident: {kind}", where="--incident", fix=nearest(kind, KINDS))
    for name in ("twin", "at"):
        if name not in given:
            raise ScenarioError("E110", f"{kind} needs {name}", where="--incident", fix=_EXAMPLE)
    twin, at, until = given.pop("twin"), _number("at", given.pop("at")), _number("until", given.pop("until", "inf"), math.inf)
    if at < 0 or until <= at:
        raise ScenarioError("E121", f"{kind} from day {at:g} until day {until:g}", where="--incident", fix="0 <= at < until")
    allowed = KINDS[kind]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        fix = nearest(unknown[0], (*allowed, "twin", "at", "until"))
        raise ScenarioError("E109", f"{kind}: unknown key {unknown[0]}", where="--incident", fix=fix)
    return Incident(twin, Trouble(kind, at, until, {name: _value(name, value, allowed[name]) for name, value in given.items()}))


def _phantom(device: Device, folder: Path) -> None:
    """Scan this morning's water phantom as the device is, and write it as its vendor would."""
    protocol, identity = device.protocol, ("fleet", device.seed, device.name, device.day)
    image = water.scan(protocol, draw(device.seed, "fleet", device.name, "phantom", device.day), device.condition)[0]
    scanner = replace(protocol.scanner, vendor=device.truth.scanner.vendor)
    data = ct_slice(image, scanner, Study("WATER", identity, "O", 0, "water phantom"), 1, 0.0, protocol.pixel_mm, quality_control=True)
    data.DeviceSerialNumber, data.StudyDescription, data.ProtocolName = f"SYNTH-{device.name}", "Water phantom, synthetic", "QA"
    del data.BodyPartExamined
    data.Laterality = ""  # what is no body part has no side; validators ask
    for what in ("InstanceCreation", "Study", "Series", "Acquisition", "Content"):
        setattr(data, f"{what}Date", f"{FIRST + timedelta(days=device.day):%Y%m%d}")
        setattr(data, f"{what}Time", "070000")
    problem = CheckpointError("E509", "a phantom cannot be written", where=folder.name, fix="free some space")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data.save_as(folder / f"day-{device.day:04}.dcm", enforce_file_format=True)
    except OSError as failure:
        raise problem from failure


def _words(text: str) -> tuple[str, dict[str, str]]:
    try:
        kind, *rest = shlex.split(text)
    except ValueError:
        kind, rest = "", []
    pairs = [word.partition("=") for word in rest]
    if not kind or "=" in kind or not all(name and value for name, _, value in pairs):
        raise ScenarioError("E105", "must be KIND KEY=VALUE ...", where="--incident", fix=_EXAMPLE)
    return kind, {name: value for name, _, value in pairs}


def _value(name: str, value: str, default: Any) -> Any:
    if isinstance(default, str) or name == "kernel":
        return value
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise ScenarioError("E112", f"{name} = {value}", where="--incident", fix="allowed: true, false")
        return value == "true"
    return _number(name, value, least=-MOST if name in SIGNED else 0.0)


def _number(name: str, value: str, most: float = MOST, least: float = 0.0) -> float:
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise ScenarioError("E118", f"{name} = {value}", where="--incident", fix=f"allowed: a number from {least:g} to {MOST:g}")
    return found


def _room(out: Path, paths: Sequence[Path]) -> None:
    """A folder without these logs: a log is appended to by the device it belongs to and by nobody else."""
    problem: UsageError
    try:
        out.mkdir(parents=True, exist_ok=True)
        taken = [path.name for path in paths if path.exists()]
    except OSError:
        problem = UsageError("E510", "the twins' folder cannot be written", where=out.name, fix="choose another --out")
    else:
        if not taken:
            return
        problem = UsageError("E601", f"holds {taken[0]} already", where=out.name, fix="choose another --out, or delete it")
    raise problem
