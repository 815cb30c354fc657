"""Processes that came from this one, so that none outlives a run. Reads /proc; elsewhere it finds nothing and Ray's own end must do."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

Process = tuple[int, int]
"""pid, and when it started: a pid is given out again."""


def descendants(of: int | None = None) -> list[Process]:
    """Processes that `of` (this one) started, and theirs; parents before children."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        if (found := _stat(entry)) is not None:
            parent, process = found
            children.setdefault(parent, []).append(process)
    family: list[Process] = []
    generation = children.get(os.getpid() if of is None else of, [])
    while generation:
        family += generation
        generation = [child for pid, _ in generation for child in children.get(pid, [])]
    return family


def myself() -> Process:
    """This process."""
    found = _stat(Path("/proc/self/stat"), os.getpid())
    return (os.getpid(), 0) if found is None else found[1]


def end(processes: Iterable[Process], patience: float = 2.0) -> None:
    """Kill those that still run, and wait until they are gone, at most `patience` seconds."""
    left = [process for process in processes if alive(process)]
    for pid, _ in left:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + patience
    while left and time.monotonic() < until:
        time.sleep(0.01)
        left = [process for process in left if alive(process)]


def remove(folder: Path, patience: float = 2.0) -> None:
    """Remove `folder` with all it holds; again for a while, because who was killed may have left it half written."""
    until = time.monotonic() + patience
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return
        time.sleep(0.01)


def alive(process: Process) -> bool:
    """Whether this very process still runs; a zombie does not."""
    found = _stat(Path(f"/proc/{process[0]}/stat"))
    return found is not None and found[1] == process


def _stat(path: Path, pid: int | None = None) -> tuple[int, Process] | None:
    """Return (parent, process), None for a zombie or nobody. pid: where the path does not tell it."""
    try:
        rest = path.read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if rest[0] in "ZX" else (int(rest[1]), (pid or int(path.parent.name), int(rest[19])))
