"""Runs cells, each in a process of its own, so many at a time. Whatever ends it leaves what is done, and the rest can be done later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import p2pftl
from p2pftl.compare.cells import Cell
from p2pftl.errors import UsageError
from p2pftl.interrupts import Interrupts

POLL = 0.1  # seconds between two looks at the processes
PATIENCE = 30.0  # seconds that an interrupted run has for its own summary


@dataclass(frozen=True)
class Ended:
    """code: exit code of the run; reason: the last line it said, where it did not end well; seconds: wall time."""

    cell: Cell
    code: int
    reason: str
    seconds: float


@dataclass
class Works:
    """The processes. executor: where each runs its twins; jobs: so many at a time; lock: an open file that they keep open."""

    executor: str
    jobs: int
    lock: int
    running: list[_Running] = field(default_factory=list)

    def carry_out(self, cells: Sequence[Cell], interrupts: Interrupts, tell: Callable[[Sequence[Cell], Ended | None], None]) -> None:
        """Run `cells` in order. `tell(running, ended)` is called at every look. Raises KeyboardInterrupt, UsageError E510, E610."""
        waiting = list(cells)
        try:
            with interrupts.open():
                while waiting or self.running:
                    while waiting and len(self.running) < self.jobs:
                        self.running.append(self._start(waiting.pop(0)))
                    for one in [one for one in self.running if one.process.poll() is not None]:
                        self.running.remove(one)
                        tell(self._cells, one.ended())
                    tell(self._cells, None)
                    time.sleep(POLL)
        finally:
            interrupts.patiently(self.stop)

    def stop(self) -> None:
        """Ask every process to end and wait for it; called again, or after PATIENCE, end them by force."""
        first = not any(one.asked for one in self.running)
        for one in self.running:
            one.end(signal.SIGINT if first else signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        for one in self.running:
            try:
                one.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.end(signal.SIGKILL)
                one.process.wait()
        self.running.clear()

    @property
    def _cells(self) -> list[Cell]:
        return [one.cell for one in self.running]

    def _start(self, cell: Cell) -> _Running:
        cell.clear()
        command = [sys.executable, "-m", "p2pftl", "run", str(cell.file), "--out", str(cell.folder), "--executor", self.executor]
        try:
            with cell.log.open("wb") as log:
                process = subprocess.Popen(
                    [*command, "--quiet", "--force"], env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                    process_group=0, pass_fds=(self.lock,),  # out of reach of the terminal's Ctrl-C: we pass it on ourselves
                )  # fmt: skip
        except OSError as error:
            raise UsageError("E610", f"a run did not start (errno {error.errno})", where=str(cell.folder), fix="lower --jobs") from error
        return _Running(cell, process, time.monotonic())


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    since: float
    asked: bool = False

    def end(self, number: int) -> None:
        self.asked = True
        if self.process.poll() is None:
            self.process.send_signal(number)

    def ended(self) -> Ended:
        code = self.process.returncode
        return Ended(self.cell, code, "" if code == 0 else _last_line(self.cell.log, code), time.monotonic() - self.since)


def _last_line(log: Path, code: int) -> str:
    try:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    if code < 0:
        return f"it was ended by signal {-code}" + (", most often for lack of memory: lower --jobs" if code == -signal.SIGKILL else "")
    return lines[-1] if lines else f"exit code {code}"


def _environment() -> dict[str, str]:
    """This very package, wherever the command is called from, one thread per process."""
    here = str(Path(p2pftl.__file__).parents[1])
    known = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != here]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([here, *known])}
