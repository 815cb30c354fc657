"""A folder that scanners or a PACS export into, followed by polling: each file is read when it has stopped growing.

Subfolders count, links are not followed, hidden and unfinished names (.part, .tmp) are left alone. A file that is cut short or
damaged is read again when it changes. What was seen survives a restart (device/ledger), by inode, not by name.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from p2pftl.device.headers import MARKED, Site
from p2pftl.device.ingest import CALM_S, GONE, OTHER, WAIT_S, Intake, counted
from p2pftl.device.phantoms import UNJUDGED, judge
from p2pftl.device.qa import QaPolicy
from p2pftl.errors import DataError, UsageError
from p2pftl.imaging.files import refusal

UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".download", "~")
SWEEP_S = 30.0  # so often even folders that look unchanged are listed
TRUSTED_S = 2.0  # a folder's time stamp is believed only when it has stood so long: clocks of file systems are coarse
MOST_PENDING = 50_000  # files waited for at once; the others come next
BATCH = 200  # files between two commits
SAY_S = 2.0


@dataclass(frozen=True)
class Totals:
    """What came so far. images holds phantoms too; again: files whose image was known; refused: files by code."""

    images: int
    phantoms: int
    reports: int
    again: int
    refused: Mapping[str, int]
    twins: Mapping[str, int]
    other: int = 0
    no_load: int = 0
    late: int = 0
    unjudged: int = 0

    def lines(self) -> list[str]:
        """The totals as plain text, without a word of any file."""
        said = [f"{self.images} images ({self.phantoms} of phantoms), {self.reports} dose reports, {self.again} came again"]
        said += [f"{name}: {images} images" for name, images in self.twins.items()]
        if self.refused:
            said.append("refused: " + ", ".join(f"{code} {n}" for code, n in self.refused.items()))
        if self.other:
            said.append(f"{self.other} other files left alone")
        if self.no_load:
            said.append(f"beam-ons without kV, mA or time: {self.no_load}, not in the tube's load")
        if self.late:
            said.append(f"dose reports after their beam-ons had been estimated: {self.late}, not counted again")
        if self.unjudged:
            said.append(f"phantoms not judged: {self.unjudged}; no water in them, another protocol, or older than the last one")
        return said


def totals(intake: Intake) -> Totals:
    """Everything the sync of these twins has counted since it began."""
    tally = dict(intake.ledger.tally())
    phantoms = tally.pop("phantom", 0)
    names = ("image", "report", "again", OTHER, "no load", "late", UNJUDGED)
    images, reports, again, other, bare, late, unjudged = (tally.pop(name, 0) for name in names)
    twins = {name: device.images for name, device in sorted(intake.ledger.known.items())}
    return Totals(images + phantoms, phantoms, reports, again, tally, twins, other, bare, late, unjudged)


@dataclass
class _Folder:
    """What a listing of a folder said. since: when this time stamp was first seen; clear: nothing in it is left to do."""

    stamp: int
    since: float
    clear: bool
    inner: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    """A file and the row the ledger has of it. marks: size, mtime, ctime in ns."""

    path: str
    inode: str
    place: str
    marks: tuple[int, int, int]
    row: int | None
    before: str


class Watch:
    """One folder followed into one Intake. Raises DataError E301, E307 when the folder cannot be read at the start."""

    def __init__(self, folder: Path, intake: Intake) -> None:
        self.root, self.intake = str(folder), intake
        self._pending: dict[str, tuple[str, tuple[int, int, int]]] = {}
        self._folders: dict[str, _Folder] = {}
        self._shut: set[str] = set()
        self._swept = float("-inf")
        _check(folder)

    @property
    def waiting(self) -> int:
        """Files that were seen and are not yet known to be complete."""
        return len(self._pending)

    def poll(self, now: float, tick: float, stop: Callable[[], bool] = lambda: False) -> int:
        """Look once: take every file that has not changed since the last look. Return how many were taken.

        now: the clock, POSIX seconds; tick: a clock that never jumps. The clocks of the files' own disks are compared with themselves only.
        """
        taken = 0
        pending: dict[str, tuple[str, tuple[int, int, int]]] = {}
        for file in self._fresh(tick):
            if self._pending.get(file.path) != (file.inode, file.marks):
                if len(pending) < MOST_PENDING:
                    pending[file.path] = (file.inode, file.marks)
                continue
            taken += self._take(file, now)
            if taken % BATCH == 0:
                self.intake.commit()
            if stop():
                break
        self._pending = pending
        return taken

    def _take(self, file: _File, now: float) -> int:
        got = self.intake.take(Path(file.path), "a file", now, file.before)
        if got.outcome == GONE:
            return 0
        outcome = file.before if got.outcome == "again" and counted(file.before) else got.outcome
        self.intake.ledger.keep_file(file.row, file.inode, file.place, file.marks, outcome)
        return 1

    def _fresh(self, tick: float) -> Iterator[_File]:
        """Files that the ledger does not know as they are now, folder by folder, in order of their paths."""
        sweep = tick - self._swept >= SWEEP_S
        self._swept = tick if sweep else self._swept
        todo, seen = [self.root], set()
        while todo:
            path = todo.pop()
            seen.add(path)
            listed = self._listed(path, tick, sweep)
            if listed is None:
                continue
            folder, entries = listed
            todo += sorted(folder.inner, reverse=True)
            clear = True
            for entry in entries:
                file, done = self._compare(entry)
                clear = clear and done
                if file:
                    yield file
            folder.clear = clear
        for gone in self._folders.keys() - seen:
            del self._folders[gone]

    def _listed(self, path: str, tick: float, sweep: bool) -> tuple[_Folder, list[os.DirEntry[str]]] | None:
        """The folder and its files, none of them where it has not changed; None where it cannot be read now."""
        try:
            stamp = os.stat(path, follow_symlinks=path == self.root).st_mtime_ns
            old = self._folders.get(path)
            if old and old.stamp == stamp and old.clear and not sweep and tick - old.since > TRUSTED_S:
                return old, []
            with os.scandir(path) as listing:
                entries = sorted((e for e in listing if _wanted(e.name)), key=lambda entry: entry.name)
        except OSError as failure:
            self._unreadable(path, failure)
            return None
        self._shut.discard(path)
        since = old.since if old and old.stamp == stamp else tick
        inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        folder = self._folders[path] = _Folder(stamp, since, False, inner)
        return folder, [entry for entry in entries if entry.is_file(follow_symlinks=False)]

    def _unreadable(self, path: str, failure: OSError) -> None:
        """Count a folder that may not be read once, until it may; one that has gone is no news."""
        if path not in self._shut and not isinstance(failure, FileNotFoundError | NotADirectoryError):
            self._shut.add(path)
            self.intake.ledger.count(refusal(failure, "").code)

    def _compare(self, entry: os.DirEntry[str]) -> tuple[_File | None, bool]:
        """(the file if it must be read, whether nothing is left to do about it)."""
        try:
            about = entry.stat(follow_symlinks=False)
        except OSError:
            return None, True  # it has just gone
        inode, place = f"{about.st_dev}:{about.st_ino}", self.intake.ledger.salt.of("place", entry.path)
        marks = (about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        known = self.intake.ledger.file(inode)
        if known is None:
            return _File(entry.path, inode, place, marks, None, ""), False
        row, was_at, *was, outcome = known
        same_content, fine = tuple(was[:2]) == marks[:2], not outcome.startswith("E")
        if same_content and was_at == place and (fine or was[2] == marks[2]):
            return None, fine
        if same_content and was_at != place:  # renamed, or another name of it
            self.intake.ledger.keep_file(row, inode, place, marks, outcome)
            return None, fine
        if was_at != place:  # the disk gave the number of a deleted file to a new one
            return _File(entry.path, inode, place, marks, None, ""), False
        return _File(entry.path, inode, place, marks, row, outcome), False


def watch(
    folder: Path,
    out: Path,
    *,
    every: float = 1.0,
    calm: float = CALM_S,
    wait: float = WAIT_S,
    once: bool = False,
    site: Site = MARKED,
    policy: QaPolicy | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = print,
) -> Totals:
    """Follow `folder` into the twins of `out` until `stop`, Ctrl-C or SIGTERM; with `once` until everything there is taken.

    every: seconds between two looks; calm, wait: seconds, see Intake; site: its rule for test objects; policy: how
    phantoms are judged. Text goes to `say`, line by line.
    Raises DataError E301, E307, UsageError E510, E512, E602, CheckpointError E5xx.
    """
    inside = folder.resolve()
    if out.resolve() == inside or inside in out.resolve().parents:
        raise UsageError("E602", "the twins' folder would be inside the watched one", where=out.name, fix="choose another --out")
    _check(folder)
    with Intake(out, site) as intake, _ended(stop or threading.Event()) as over:
        follower = Watch(folder, intake)
        said, last, none = "", float("-inf"), Totals(0, 0, 0, 0, {}, {})
        while True:
            taken = follower.poll(time.time(), time.monotonic(), over.is_set)
            final = once and not taken and not follower.waiting
            intake.settle(time.time(), calm=0.0 if final else calm, wait=0.0 if final else wait)
            intake.commit()
            judge(intake, time.time(), calm=0.0 if final else calm, policy=policy)
            intake.commit()
            found = totals(intake)
            if final or over.is_set():
                break
            news = "; ".join(found.lines())
            if not once and found != none and news != said and time.monotonic() - last >= SAY_S:
                said, last = news, time.monotonic()
                say(news)
            over.wait(every)
            if over.is_set() and not once:
                break
    for line in found.lines():
        say(line)
    return found


@contextmanager
def _ended(event: threading.Event) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in the main thread: a look then ends after the file it is at."""
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def end(number: int, frame: FrameType | None) -> None:
        event.set()

    before: dict[int, Any] = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check(folder: Path) -> None:
    """Raises DataError E301, E307, E308 unless `folder` can be listed."""
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            with os.scandir(folder):
                return
        problem = DataError("E301", "is not a folder", where=folder.name, fix="give the folder that files arrive in")
    except OSError as failure:
        problem = refusal(failure, folder.name)
    raise problem


def _wanted(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith(UNFINISHED) and name.upper() != "DICOMDIR"
