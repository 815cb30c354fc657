"""Whole runs of the command as a user meets them: in this process, or in one of their own that is watched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.events import Event
from p2pftl.observe import record
from p2pftl.swarm import leftovers

E = TypeVar("E", bound=Event)
ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "cli.py")]

STORM: dict[str, Any] = {
    "name": "storm",
    "seed": 3,
    "rounds": 3,
    "topology": {"use": "complete", "twins": 3},
    "links": {"latency": 0.1, "bandwidth": 2e6, "jitter": 0.02, "loss": 0.02},
    "data": {"use": "phantom", "patients": 24, "slices": 1, "size": 128},
    "fit": {"lr": 0.05, "batch": 8, "steps": 2, "seconds_per_sample": 0.02},
    "pace": {"use": "synchronous", "deadline": 3},
    "cloud": {"use": "fedavg", "every": 2, "wait": 1, "deadline": 0.5},
    "incidents": [
        {"kind": "outage", "twin": "cloud", "at": 0.2, "until": 0.6},
        {"kind": "crash", "twin": "ct-02", "at": 0.5, "revive_after": 0.3},
        {"kind": "join", "twin": "ct-03", "at": 0.4},
    ],
    "control": True,
}


def written(folder: Path, base: dict[str, Any] = STORM, **changes: Any) -> Path:
    """Write `base` with top-level keys replaced (None: left out) as a scenario in `folder`."""
    content = {key: value for key, value in {**base, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content.get('name', 'scenario')}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ran:
    """How a run ended, and what it left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def digest(self) -> str:
        """As it was printed."""
        return re.findall(r"^digest ([0-9a-f]{32})$", self.out, re.M)[-1]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))
        return found

    @property
    def models(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / "models").iterdir())}

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def events(self) -> list[Event]:
        return [event for _, event in record.read(self.folder / record.FILE)]

    def of(self, kind: type[E], twin: str | None = None) -> list[E]:
        return [event for event in self.events() if isinstance(event, kind) and twin in (None, event.twin)]


def here(*arguments: object, out: Path) -> Ran:
    """`p2pftl run` in this process, all twins in it too."""
    result = CliRunner().invoke(app, ["run", *map(str, arguments), "--executor", "local", "--out", str(out)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr, out)


def alone(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Any command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, cwd=cwd,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


class Watched:
    """`p2pftl run` in a session of its own; every process that comes from it is remembered.

    temporary: its TMPDIR, where nothing of ours may be left.
    """

    def __init__(self, *arguments: object, out: Path, temporary: Path, terminal: int | None = None, **environment: str) -> None:
        self.out, self.temporary = out, temporary
        stream = subprocess.PIPE if terminal is None else terminal
        given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary), **environment}
        self.process = subprocess.Popen(
            [*COMMAND, "run", *map(str, arguments), "--out", str(out)], env=given, start_new_session=True,
            stdin=subprocess.DEVNULL if terminal is None else terminal, stdout=stream, stderr=subprocess.STDOUT,
            preexec_fn=lambda: _own_terminal(terminal),
        )  # fmt: skip
        self.text = b""
        self.seen: set[leftovers.Process] = set()
        self._threads = [threading.Thread(target=self._watch, daemon=True)]
        if self.process.stdout is not None:
            self._threads.append(threading.Thread(target=self.read, args=(self.process.stdout.fileno(),), daemon=True))
        for thread in self._threads:
            thread.start()

    def read(self, stream: int) -> None:
        """Collect what it says until it says no more."""
        while True:
            try:
                said = os.read(stream, 65536)
            except OSError:  # the other end of a terminal is gone
                return
            if not said:
                return
            self.text += said

    def until(self, pattern: str | Callable[[], bool], patience: float = 90.0) -> None:
        """Wait until it has said `pattern`, or until it holds."""
        end = time.monotonic() + patience
        while not (pattern() if callable(pattern) else re.search(pattern.encode(), self.text)):
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {pattern}: {self.said}"
            assert time.monotonic() < end, f"{pattern} never came: {self.said}"
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, patience: float = 60.0) -> int:
        """Exit code; fails if it does not end."""
        code = self.process.wait(patience)
        for thread in self._threads:
            thread.join(5)
        return code

    @property
    def said(self) -> str:
        return self.text.decode(errors="replace")

    def living(self) -> list[str]:
        """Processes of the run that still are, a moment after its end."""
        end = time.monotonic() + 1.0
        while (left := [one for one in self.seen if leftovers.alive(one)]) and time.monotonic() < end:
            time.sleep(0.02)
        return [_title(pid) for pid, _ in left]

    def _watch(self) -> None:
        while self.process.poll() is None:
            self.seen.update(leftovers.descendants(self.process.pid))
            time.sleep(0.05)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.seen.update(leftovers.descendants(self.process.pid))
            self.process.kill()
            self.process.wait()
        leftovers.end(self.seen)
        if self.process.stdout is not None:
            self.process.stdout.close()


def finished(*arguments: object, out: Path, temporary: Path, **environment: str) -> Ran:
    """A watched run to its end, which must leave no process and no file of ours outside its folder."""
    with Watched(*arguments, out=out, temporary=temporary, **environment) as run:
        code = run.ended(120)
        assert run.living() == []
        assert strays(temporary) == []
        return Ran(code, run.said, "", out)


def strays(temporary: Path) -> Sequence[str]:
    """What a run left in its TMPDIR, torch's own folder aside."""
    return [entry.name for entry in temporary.iterdir() if not entry.name.startswith("torchinductor_")]


def _own_terminal(terminal: int | None) -> None:
    """Runs in the new process: signals are heard even where this test was started in the background or by nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if terminal is not None:
        import fcntl
        import termios

        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def _title(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[:80].replace(bytes(1), b' ').decode(errors='replace')}"
    except OSError:
        return str(pid)
