"""Watch a command from outside: when it first says something, what memory and processor time its process tree takes."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
TICK = os.sysconf("SC_CLK_TCK")
Sample = dict[int, tuple[str, float]]
"""pid -> (title, processor seconds it has used so far)."""


@dataclass
class Watched:
    """What was seen. Times are of the monotonic clock, seconds.

    spoke: first output; appeared: when the awaited file was there; memory: highest sum of proportional set sizes, bytes, 0 if it
    was not asked for; samples: (time, processor use of every process of the tree).
    """

    started: float
    spoke: float = float("nan")
    appeared: float = float("nan")
    ended: float = float("nan")
    code: int = -1
    output: str = ""
    memory: int = 0
    samples: list[tuple[float, Sample]] = field(default_factory=list)

    def cpu(self, start: float, stop: float, chosen: Callable[[str], bool] = lambda _: True) -> float:
        """Processor seconds that processes with a chosen title used between two times, interpolated between samples."""
        titles: dict[int, str] = {}
        for _, sample in self.samples:
            titles |= {pid: title or titles.get(pid, "") for pid, (title, _) in sample.items()}  # who has ended has no title any more
        return sum(self._used(pid, stop) - self._used(pid, start) for pid, title in titles.items() if chosen(title))

    def _used(self, pid: int, at: float) -> float:
        known = [(t, sample[pid][1]) for t, sample in self.samples if pid in sample]
        before = [point for point in known if point[0] <= at]
        after = [point for point in known if point[0] > at]
        if not before:
            return 0.0
        if not after:
            return before[-1][1]
        (t0, used0), (t1, used1) = before[-1], after[0]
        return used0 + (used1 - used0) * (at - t0) / (t1 - t0)


def watch(
    command: Sequence[str], *, folder: Path = ROOT, awaited: Path | None = None, memory: bool = False, terminal: bool = False,
    every: float = 0.5, **env: str,
) -> Watched:  # fmt: skip
    """Run `command` in `folder` to its end and watch it.

    awaited: a file whose appearance is noted to 5 ms. memory: sample it too; it costs the command up to a tenth of a core, so do not
    time such a run. terminal: let it believe that it writes to one. Raises RuntimeError when the command fails.
    """
    reading, writing = pty.openpty() if terminal else os.pipe()
    seen = Watched(time.monotonic())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "LINES": "50", "TERM": "xterm-256color", **env}
    child = subprocess.Popen(command, stdout=writing, stderr=writing, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
    os.close(writing)
    listener = threading.Thread(target=_listen, args=(reading, seen))
    listener.start()
    due = seen.started
    while child.poll() is None:
        now = time.monotonic()
        if awaited is not None and seen.appeared != seen.appeared and awaited.exists():
            seen.appeared = now
        if now >= due:
            due = now + every
            _sample(child.pid, seen, memory)
        time.sleep(0.005 if awaited is not None and seen.appeared != seen.appeared else min(0.02, every))
    seen.ended, seen.code = time.monotonic(), child.returncode
    listener.join()
    os.close(reading)
    if seen.code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {seen.code}:\n{seen.output[-2000:]}")
    return seen


def _listen(descriptor: int, seen: Watched) -> None:
    """Read until everybody has closed the other end; a terminal says so by an error."""
    with suppress(OSError):
        while block := os.read(descriptor, 65536):
            if seen.spoke != seen.spoke:
                seen.spoke = time.monotonic()
            seen.output += block.decode(errors="replace")


def _sample(root: int, seen: Watched, memory: bool) -> None:
    sample: Sample = {}
    total = 0
    for pid in _family(root):
        with suppress(OSError, ValueError, IndexError):  # it may end while it is looked at
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            sample[pid] = title, (int(fields[11]) + int(fields[12])) / TICK
            if memory:
                total += _proportional(pid)
    seen.samples.append((time.monotonic(), sample))
    seen.memory = max(seen.memory, total)


def _proportional(pid: int) -> int:
    """Proportional set size in bytes: memory shared by n processes counts one nth for each."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _family(root: int) -> list[int]:
    """`root` and everybody who descends from it."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int(Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    family = [root]
    for pid in family:
        family += children.get(pid, [])
    return family
