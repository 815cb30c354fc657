"""What the sync of a folder of devices remembers: which images were counted, which series are open, which facts are to be written.

One SQLite file beside the device logs, readable by its owner only. It also holds the key of the keyed hashes and, until
they are on disk, the facts of each step (an outbox): a step is remembered and its facts are written, or neither, whenever
the process dies. No text of a header and no file name is in it.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from p2pftl.device.beams import Strip, plain
from p2pftl.device.words import Salt
from p2pftl.errors import CheckpointError, UsageError

FILE = "sync.sqlite"
FORMAT = b"1"
OPEN, DESCRIBED, DONE = 0, 1, 2  # a series: arriving, its configuration told, its beam-on told

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE files (id INTEGER PRIMARY KEY, inode TEXT, place TEXT, size INTEGER, mtime INTEGER, ctime INTEGER, outcome TEXT);
CREATE INDEX files_inode ON files (inode);
CREATE TABLE seen (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE tally (outcome TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE devices (name TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE keys (key TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE studies (study TEXT PRIMARY KEY, name TEXT NOT NULL, reported INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE strips (
  name TEXT, series TEXT, study TEXT, arrived REAL, stage INTEGER, body TEXT, image TEXT, PRIMARY KEY (name, series)) WITHOUT ROWID;
CREATE INDEX strips_stage ON strips (stage);
CREATE INDEX strips_study ON strips (name, study);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, name TEXT, entry INTEGER, kind TEXT, t REAL, source TEXT, data TEXT);
"""
# what folders of an earlier version lack
_LATER = "CREATE TABLE IF NOT EXISTS readings (id INTEGER PRIMARY KEY, name TEXT, study TEXT, arrived REAL, body TEXT)"


@dataclass
class Known:
    """What is remembered of one device besides its log. entries, head: the log as it will be; latest: (t, kernel) last told."""

    name: str
    vendor: str
    model: str | None
    serial: str | None
    anonymous: bool
    entries: int = 0
    head: str = ""
    latest: tuple[float, str] | None = None
    images: int = 0
    studies: int = 0
    phantoms: int = 0
    duplicates: int = 0
    gaps: int | None = None
    last_header: float | None = None
    last_rdsr: float | None = None
    lag_s: float | None = None
    missing: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    charted: list[Any] | None = None  # protocol of the phantoms that are judged, see phantoms


@dataclass(frozen=True)
class Pending:
    """A fact on its way to a log, as entry number `entry` of it."""

    id: int
    name: str
    entry: int
    kind: str
    t: float
    source: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Opened:
    """A series that is not settled. arrived: when its last image came; image: values of its first image, see ingest."""

    name: str
    strip: Strip
    stage: int
    arrived: float
    image: Mapping[str, Any]

    def quiet(self, now: float) -> float:
        """Seconds without a new image. A clock that was set back must not hold a series open for ever, hence the absolute value."""
        return abs(now - self.arrived)


@dataclass(frozen=True)
class Measured:
    """A phantom image that is measured and not judged yet. body: see phantoms."""

    id: int
    name: str
    study: str
    arrived: float
    body: Mapping[str, Any]


class Ledger:
    """The memory of one folder of devices. Raises UsageError E510, E512, CheckpointError E502, E505, E509."""

    def __init__(self, folder: Path) -> None:
        self._where = folder.name
        path = folder / FILE
        self._db = self._open(folder, path)
        self.salt = Salt(bytes(self._one("SELECT value FROM meta WHERE name = 'key'")))
        self.known = {body["name"]: Known(**body) for body in map(json.loads, self._column("SELECT body FROM devices ORDER BY name"))}
        for device in self.known.values():
            device.latest = (device.latest[0], device.latest[1]) if device.latest else None
        self._changed: set[str] = set()

    def _open(self, folder: Path, path: Path) -> sqlite3.Connection:
        problem: Exception
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            db = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.executemany("INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("key", secrets.token_bytes(32))])
            db.execute(_LATER)
            found = db.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()
        except sqlite3.OperationalError as failure:
            problem = UsageError("E512", "another process keeps these devices", where=self._where, fix="stop it, or choose another --out")
            if "locked" not in str(failure):
                problem = UsageError("E510", "cannot be written", where=self._where, fix="choose another --out")
        except sqlite3.DatabaseError:
            problem = CheckpointError(
                "E502", f"{FILE} is damaged", where=self._where, fix="choose another --out: files are then read again"
            )
        except OSError as failure:
            problem = UsageError("E510", f"cannot be written (errno {failure.errno})", where=self._where, fix="choose another --out")
        else:
            if found and bytes(found[0]) == FORMAT:
                return db
            problem = CheckpointError("E505", f"{FILE} has another format", where=self._where, fix="upgrade p2pftl")
        raise problem from None

    # ------------------------------------------------------------------ images and files

    def first_time(self, key: str) -> bool:
        """Remember `key`; False when it was known."""
        return self._run("INSERT OR IGNORE INTO seen VALUES (?)", key).rowcount == 1

    def is_known(self, key: str) -> bool:
        return self._one("SELECT 1 FROM seen WHERE key = ?", key) is not None

    def count(self, outcome: str, by: int = 1) -> None:
        self._run("INSERT INTO tally VALUES (?, ?) ON CONFLICT (outcome) DO UPDATE SET n = n + excluded.n", outcome, by)

    def tally(self) -> dict[str, int]:
        """How many files came to which end, since the folder of devices was begun."""
        return {str(name): int(n) for name, n in self._run("SELECT outcome, n FROM tally WHERE n > 0 ORDER BY outcome")}

    def file(self, inode: str) -> tuple[Any, ...] | None:
        """(id, place, size, mtime, ctime, outcome) last remembered of an inode."""
        query = "SELECT id, place, size, mtime, ctime, outcome FROM files WHERE inode = ? ORDER BY id DESC LIMIT 1"
        found: tuple[Any, ...] | None = self._run(query, inode).fetchone()
        return found

    def keep_file(self, row: int | None, inode: str, place: str, marks: tuple[int, int, int], outcome: str) -> None:
        """Remember a file under its inode, or anew where `row` is None."""
        self._run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", row, inode, place, *marks, outcome)

    # ------------------------------------------------------------------ devices and series

    def device_of(self, key: str) -> str | None:
        found = self._one("SELECT name FROM keys WHERE key = ?", key)
        return None if found is None else str(found)

    def bind(self, key: str, name: str) -> None:
        self._run("INSERT OR IGNORE INTO keys VALUES (?, ?)", key, name)

    def add(self, device: Known) -> None:
        self.known[device.name] = device
        self.touch(device)

    def touch(self, device: Known) -> None:
        """This device changed: `commit` writes it."""
        self._changed.add(device.name)

    def study(self, study: str) -> tuple[str, bool] | None:
        """(device, whether a dose report came) of a study."""
        found = self._run("SELECT name, reported FROM studies WHERE study = ?", study).fetchone()
        return (str(found[0]), bool(found[1])) if found else None

    def keep_study(self, study: str, name: str, reported: bool) -> None:
        query = "INSERT INTO studies VALUES (?, ?, ?) ON CONFLICT (study) DO UPDATE SET reported = max(reported, excluded.reported)"
        self._run(query, study, name, int(reported))

    def series(self, name: str, series: str) -> Opened | None:
        return next(iter(self._opened("name = ? AND series = ?", name, series)), None)

    def keep_series(self, opened: Opened) -> None:
        strip, body = opened.strip, json.dumps(plain(opened.strip))
        values = (opened.name, strip.series, strip.study, opened.arrived, opened.stage, body, json.dumps(opened.image))
        self._run("INSERT OR REPLACE INTO strips VALUES (?, ?, ?, ?, ?, ?, ?)", *values)

    def unsettled(self) -> list[Opened]:
        return self._opened("stage < ?", DONE)

    def of_study(self, name: str, study: str) -> list[Opened]:
        return self._opened("name = ? AND study = ?", name, study)

    def _opened(self, which: str, *values: Any) -> list[Opened]:
        rows = self._run(f"SELECT name, body, stage, arrived, image FROM strips WHERE {which} ORDER BY name, series", *values)
        return [Opened(name, Strip(**json.loads(body)), stage, arrived, json.loads(image)) for name, body, stage, arrived, image in rows]

    # ------------------------------------------------------------------ phantoms

    def keep_reading(self, name: str, study: str, arrived: float, body: Mapping[str, Any]) -> None:
        self._run("INSERT INTO readings (name, study, arrived, body) VALUES (?, ?, ?, ?)", name, study, arrived, json.dumps(body))

    def readings(self) -> list[Measured]:
        """Phantom images that wait for a judgement, as they came."""
        rows = self._run("SELECT id, name, study, arrived, body FROM readings ORDER BY id")
        return [Measured(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in rows]

    def judged(self, measured: Iterable[Measured]) -> None:
        """These wait no longer."""
        self._db.executemany("DELETE FROM readings WHERE id = ?", [(one.id,) for one in measured])

    # ------------------------------------------------------------------ facts

    def put(self, device: Known, kind: str, t: float, source: str, data: Mapping[str, Any]) -> None:
        """A fact for the log of `device`; it is written after `commit`."""
        values = (device.name, device.entries, kind, t, source, json.dumps(data))
        self._run("INSERT INTO outbox (name, entry, kind, t, source, data) VALUES (?, ?, ?, ?, ?, ?)", *values)
        device.entries += 1
        self.touch(device)

    def pending(self) -> list[Pending]:
        rows = self._run("SELECT id, name, entry, kind, t, source, data FROM outbox ORDER BY id")
        return [Pending(row[0], row[1], row[2], row[3], row[4], row[5], json.loads(row[6])) for row in rows]

    def written(self, pending: list[Pending], heads: Mapping[str, str]) -> None:
        """These facts are in their logs, which end with `heads`."""
        self._db.executemany("DELETE FROM outbox WHERE id = ?", [(fact.id,) for fact in pending])
        for name, head in heads.items():
            self.known[name].head = head
            self.touch(self.known[name])

    def commit(self) -> None:
        """Remember durably what was done since the last time. Raises CheckpointError E509."""
        for name in sorted(self._changed):
            self._run("INSERT OR REPLACE INTO devices VALUES (?, ?)", name, json.dumps(asdict(self.known[name])))
        self._changed.clear()
        self._run("COMMIT")
        self._run("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Forget what was not committed and let others in."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.close()

    def _run(self, query: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.DatabaseError:
            problem = CheckpointError("E509", f"{FILE} cannot be written or read", where=self._where, fix="free some space")
        raise problem

    def _one(self, query: str, *values: Any) -> Any:
        found = self._run(query, *values).fetchone()
        return found[0] if found else None

    def _column(self, query: str) -> list[Any]:
        return [row[0] for row in self._run(query)]
