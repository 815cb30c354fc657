"""The scanners behind the twins as a person sees them: the part of the board that only device events move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from p2pftl import events as fact
from p2pftl.events import Event
from p2pftl.observe.units import seconds, some

Tone = Literal["bad", "warn", "good", "info"]
TONES: dict[str, Tone] = {"active": "good", "warn": "warn", "quarantined": "warn", "offline": "warn", "retired": "warn"}
HALF = 0.5  # quality of a device in doubt
NEVER = -2  # a round before all rounds, and before the one before them


@dataclass(slots=True)
class Scanner:
    """What is known of one device.

    lifecycle: "" while nothing is; health: its parts, 0 to 1, None where unknown; held: training images now, None while they are
    a fixed set; arrived, left_out: images that came, and that quarantines took out, in all; withheld: updates that did not go
    out; silent, adapted: the last round of that, and in which only norm and head were trained; flag: what of the model asks for a look
    at it, "" if nothing; flags: how often one was raised; entries: of its log that were told.
    """

    lifecycle: str = ""
    status: str = ""
    reason: str = ""
    quality: float | None = None
    health: Mapping[str, float | None] = field(default_factory=dict)
    held: int | None = None
    arrived: int = 0
    left_out: int = 0
    withheld: int = 0
    silent: int = NEVER
    silence: str = ""
    adapted: int = NEVER
    flag: str = ""
    flags: int = 0
    entries: int = 0
    sums: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # rounds done -> arrived, left_out, withheld by then

    @property
    def lowest(self) -> float | None:
        """The lowest part of its health that is known."""
        return min((value for value in self.health.values() if value is not None), default=None)


class Fleet:
    """All scanners of a run; empty where no twin has a device."""

    def __init__(self) -> None:
        self.scanners: dict[str, Scanner] = {}
        self.arrived = 0

    @property
    def known(self) -> bool:
        """Whether there is a device to show."""
        return bool(self.scanners)

    def of(self, twin: str) -> Scanner | None:
        return self.scanners.get(twin)

    def take(self, event: Event) -> tuple[Tone, str] | None:
        """Take an event in; return what the ticker should say of it, if anything."""
        scanner = self.scanners.setdefault(event.twin, Scanner())
        if isinstance(event, fact.StudiesArrived):
            self.arrived += event.images
        return _FOLD[type(event)](scanner, event)

    def mark(self, twin: str, rounds: int) -> None:
        """`twin` has done `rounds`: it may be revived from here."""
        if (scanner := self.scanners.get(twin)) is not None:
            scanner.sums[rounds] = scanner.arrived, scanner.left_out, scanner.withheld

    def go_back(self, twin: str, rounds: int) -> None:
        """`twin` was revived after `rounds` and tells again what came after them: count it once."""
        if (scanner := self.scanners.get(twin)) is not None:
            before = scanner.arrived
            scanner.arrived, scanner.left_out, scanner.withheld = scanner.sums.get(rounds, (0, 0, 0))
            self.arrived += scanner.arrived - before


def _changed(scanner: Scanner, event: fact.DeviceChanged) -> tuple[Tone, str] | None:
    before, status, half = scanner.lifecycle, scanner.status, scanner.quality == HALF
    scanner.lifecycle, scanner.status, scanner.reason = event.lifecycle, event.status, event.reason
    scanner.quality, scanner.health = event.quality, event.health
    if before and before == event.lifecycle:
        return _doubted(event, status, half)
    if not before:
        return None
    why = f": {event.reason}" if event.reason else ""
    return TONES.get(event.lifecycle, "info"), f"the scanner of {event.twin} is {_STATES.get(event.lifecycle, event.lifecycle)}{why}"


def _doubted(event: fact.DeviceChanged, status: str, half: bool) -> tuple[Tone, str] | None:
    """What there is to say of a device whose state of life stays. status: of its phantom before; half: whether it counted half."""
    if event.status == "stale" and status != "stale":
        return "warn", f"no phantom of {event.twin} for too long: it counts half"
    if event.status != "stale" and event.quality == HALF and not half:
        return "info", f"{event.twin} counts half: {event.reason}"
    return ("good", f"{event.twin} counts in full again") if half and event.quality > HALF else None


def _arrived(scanner: Scanner, event: fact.StudiesArrived) -> None:
    scanner.held = event.held
    scanner.arrived += event.images


def _withdrawn(scanner: Scanner, event: fact.StudiesWithdrawn) -> tuple[Tone, str] | None:
    scanner.left_out += event.images
    if event.images:
        return "warn", f"{some(event.images, 'image')} of {event.twin} left out, acquired since {seconds(event.since)}: {event.reason}"
    if event.until is None:
        return None
    return "good", f"what the scanner of {event.twin} acquires from {seconds(event.until)} on counts again"


def _withheld(scanner: Scanner, event: fact.UpdateWithheld) -> tuple[Tone, str] | None:
    goes_on = event.round <= scanner.silent + 1 and event.reason == scanner.silence
    scanner.withheld += 1
    scanner.silent, scanner.silence = event.round, event.reason
    return None if goes_on else ("warn", f"{event.twin} withholds its updates: {event.reason}")


def _logged(scanner: Scanner, event: fact.DeviceLogged) -> tuple[Tone, str] | None:
    """Of the device's log, what its model has to say; the last of it."""
    said: tuple[Tone, str] | None = None
    alone: tuple[Tone, str]
    for entry in event.entries:
        if entry["n"] < scanner.entries or entry["kind"] != "model_flag":
            continue
        text = str(entry["data"]["text"])
        if entry["data"]["up"]:
            scanner.flag, scanner.flags = text, scanner.flags + 1
            said = "warn", f"the model of {event.twin} got worse, its scanner is to be looked at: {text}"
        else:
            scanner.flag = ""
            alone = ("good", f"the flag at the scanner of {event.twin} is cleared: {text}")
            said = ("info", f"{said[1]}; cleared, {text}") if said else alone
    if event.entries:
        scanner.entries = max(scanner.entries, event.entries[-1]["n"] + 1)
    return said


def _adapting(scanner: Scanner, event: fact.Adapting) -> tuple[Tone, str] | None:
    goes_on = event.round <= scanner.adapted + 1
    scanner.adapted = event.round
    return None if goes_on else ("info", f"{event.twin} adapts norm and head alone: {event.reason}")


_STATES = {
    "baseline": "learning its baseline",
    "warn": "in doubt",
    "maintenance": "in maintenance",
    "verifying": "being verified",
    "active": "active again",
}
_FOLD: dict[type[Event], Callable[[Scanner, Any], tuple[Tone, str] | None]] = {
    fact.DeviceLogged: _logged,
    fact.DeviceChanged: _changed,
    fact.StudiesArrived: _arrived,
    fact.StudiesWithdrawn: _withdrawn,
    fact.UpdateWithheld: _withheld,
    fact.Adapting: _adapting,
}
KINDS = tuple(_FOLD)
