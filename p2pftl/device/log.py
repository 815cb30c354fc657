"""The log of a device: append-only, every entry chained to the one before by its hash, one line of JSON each.

    log = DeviceLog.create("ct-03", 0.0)
    log.record("observed", t, "header", {"values": {"config.kvp": 120.0}})
    log.state.get("config.kvp")

Reading checks every line byte for byte. A chain shows that a log was changed, cut in the middle or reordered; that its end
was cut off, or all of it written anew, shows only against a head hash kept elsewhere (`expected`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pftl.device.state import Fact, State, fold
from p2pftl.errors import CheckpointError

FORMAT = 1
GENESIS = "0" * 64
LONGEST = 1_000_000  # bytes of one line


@dataclass(frozen=True)
class Entry:
    """Fact number `n`, 0 first; previous, hash: hexadecimal SHA-256."""

    n: int
    fact: Fact
    previous: str
    hash: str

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return _canonical({**_body(self.n, self.fact, self.previous), "hash": self.hash})


class DeviceLog:
    """What happened to one device, and the state that follows from it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.state = State()
        self.head = GENESIS

    @classmethod
    def create(cls, name: str, t: float, *, source: str = "sim", wear: Mapping[str, Any] | None = None) -> DeviceLog:
        """Begin the log of device `name`. wear: tube constants (fields of Wear) that differ from the defaults."""
        log = cls()
        log.record("created", t, source, {"name": name, "format": FORMAT, **({"wear": dict(wear)} if wear else {})})
        return log

    def __len__(self) -> int:
        return len(self.entries)

    def record(self, kind: str, t: float, source: str, data: Mapping[str, Any]) -> Entry:
        """Append one fact. Raises CheckpointError E505 when it is not one (unknown path, not finite, not JSON)."""
        fact = Fact(kind, float(t), source, data)
        try:
            body = _canonical(_body(len(self), fact, self.head))
        except (TypeError, ValueError) as error:
            raise CheckpointError("E505", f"a device fact {kind} that is not finite JSON") from error
        kept = Fact(kind, fact.t, source, json.loads(body)["data"])  # what a reader will see: no tuples, no aliases
        self.state = fold(self.state, kept)
        self.head = _hash(body)
        entry = Entry(len(self), kept, json.loads(body)["previous"], self.head)
        self.entries.append(entry)
        return entry

    def fork(self) -> DeviceLog:
        """Return a log that goes on from here by itself."""
        other = DeviceLog()
        other.entries, other.state, other.head = list(self.entries), self.state, self.head
        return other

    def lines(self, since: int = 0) -> bytes:
        """The entries from number `since` on, as they stand in a file."""
        return b"".join(entry.line() + b"\n" for entry in self.entries[since:])

    @classmethod
    def read(cls, data: bytes, *, where: str = "", expected: str = "") -> DeviceLog:
        """Return the log in `data`. Raises CheckpointError E502 naming the first entry that does not hold, E505.

        expected: head hash the log must end with, where one was kept.
        """
        log = cls()
        lines = data.split(b"\n")
        if lines.pop() != b"":
            raise _broken(len(lines), where, "is cut short")
        for number, line in enumerate(lines):
            log._take(number, line, where)
        if not log.entries:
            raise _broken(0, where, "is missing: the log is empty")
        if expected and log.head != expected:
            raise _broken(len(log) - 1, where, "is not the end that was kept")
        return log

    def _take(self, number: int, line: bytes, where: str) -> None:
        if len(line) > LONGEST:
            raise _broken(number, where, "is too long")
        try:
            raw = json.loads(line)
            claimed = raw.pop("hash")
            body = _canonical(raw)
            sound = _canonical({**raw, "hash": claimed}) == line and _hash(body) == claimed
            sound = sound and raw["n"] == number and raw["previous"] == self.head
            fact = Fact(raw["kind"], float(raw["t"]), raw["source"], raw["data"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _broken(number, where, "cannot be read") from error
        if not sound:
            raise _broken(number, where, "does not hold: it, or its place in the chain, was changed")
        if (number == 0) != (fact.kind == "created") or (number == 0 and raw["data"].get("format") != FORMAT):
            raise CheckpointError("E505", f"entry {number} of a device log of another format", where=where, fix="upgrade p2pftl")
        self.state = fold(self.state, fact)
        self.head = claimed
        self.entries.append(Entry(number, fact, raw["previous"], claimed))


def load(path: Path, *, expected: str = "") -> DeviceLog:
    """Return the log in file `path`. Raises CheckpointError E501, E502, E505."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError("E501", "no device log here", where=path.name, fix="give the folder of a run or a device") from error
    return DeviceLog.read(data, where=path.name, expected=expected)


def append(path: Path, log: DeviceLog, since: int) -> int:
    """Write the entries from number `since` on to the end of file `path`, durably; return how many entries the file has then.

    Raises CheckpointError E509 when the disk refuses.
    """
    if since >= len(log):
        return since
    try:
        with path.open("ab") as file:
            file.write(log.lines(since))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError("E509", "the device log cannot be written", where=path.name, fix="free some space") from error
    return len(log)


def facts(entries: Iterable[Entry]) -> list[Fact]:
    """The facts of `entries`, for a replay or a fork."""
    return [entry.fact for entry in entries]


def _body(number: int, fact: Fact, previous: str) -> dict[str, Any]:
    return {"n": number, **_plain(fact), "previous": previous}


def _plain(fact: Fact) -> dict[str, Any]:
    return {"t": fact.t, "kind": fact.kind, "source": fact.source, "data": fact.data}


def _canonical(body: Mapping[str, Any]) -> bytes:
    """One spelling only: sorted keys, no spaces, no NaN, shortest digits that give the number back."""
    if not math.isfinite(body["t"]):
        raise ValueError("t")
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def _hash(body: bytes) -> str:
    """The body names the entry before by its hash, so this hash covers all of them."""
    return hashlib.sha256(body).hexdigest()


def _broken(number: int, where: str, what: str) -> CheckpointError:
    return CheckpointError("E502", f"entry {number} of the device log {what}", where=where, fix="entries before it hold")
