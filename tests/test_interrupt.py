"""Ctrl-C, SIGTERM and a closed terminal at any moment: out within seconds, nothing left running, what was done can be read."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from p2pftl import events as facts
from p2pftl.interrupts import Interrupts
from p2pftl.observe import record, report
from p2pftl.swarm import leftovers
from tests.runs import STORM, Watched, strays, written

LONG: dict[str, Any] = {**STORM, "rounds": 400, "topology": {"use": "complete", "twins": 2}, "incidents": [], "cloud": None}
PATIENCE = 10.0  # seconds from the signal to the end
WHILE_RAY_STARTS = 30.0  # a signal waits for Ray to be up: 4 s, more where the cores are shared


@pytest.fixture
def short() -> Iterator[Path]:
    """A TMPDIR with a short path, because Ray's sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="i", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def started(folder: Path, short: Path, cache: Path, *arguments: str, terminal: int | None = None, **changes: Any) -> Watched:
    file = written(folder, LONG, data={**STORM["data"], "cache": str(cache)}, **changes)
    return Watched(file, *arguments, out=folder / "out", temporary=short, terminal=terminal)


def check_end(run: Watched, number: int, sent: float, patience: float = PATIENCE) -> None:
    """It ended soon, with the signal's exit code, and left nothing but its folder."""
    code = run.ended()
    took = time.monotonic() - sent
    assert code in (128 + number, -number if "reading" not in run.said else 128 + number), run.said
    assert took < patience, f"{took:.1f} s: {run.said}"
    assert run.living() == []
    assert strays(run.temporary) == []
    assert "Traceback" not in run.said or "import" in run.said.split("Traceback")[1], "before its first line runs, Python answers"
    if "report" not in run.said:
        assert not run.out.exists()
    else:
        check_folder(run)


def check_folder(run: Watched) -> None:
    """Events, summary and report agree on what was done."""
    events = [event for _, event in record.read(run.out / record.FILE)]
    found = json.loads((run.out / "summary.json").read_text())
    assert isinstance(events[0], facts.RunPlanned)
    assert isinstance(events[-1], facts.RunFinished)
    assert events[-1].status == found["status"]
    assert record.digest(events) == found["digest"]
    assert [event.t for event in events] == sorted(event.t for event in events)
    whole = found["status"] == "done"
    assert whole or found["status"] == "interrupted"
    assert whole or "The run was interrupted" in (run.out / "report.html").read_text()
    assert not list(run.out.rglob("*.tmp*"))
    assert not (run.out / "state").exists()
    assert whole == (run.out / "models").exists()
    assert report.write(run.out).exists()


# ---------------------------------------------------------------------- two moments


@pytest.mark.ray
def test_sigterm_in_the_rounds_of_a_run_on_ray(tmp_path: Path, short: Path, phantoms: Path) -> None:
    with started(tmp_path, short, phantoms) as run:
        run.until("round 2/400")
        sent = time.monotonic()
        run.signal(signal.SIGTERM)
        time.sleep(0.3)
        run.signal(signal.SIGINT)  # a second signal does no harm
        check_end(run, signal.SIGTERM, sent)
        assert json.loads((run.out / "summary.json").read_text())["twins"]["ct-01"]["rounds"] >= 2


def test_ctrl_c_in_a_terminal_during_a_local_run(tmp_path: Path, short: Path, phantoms: Path) -> None:
    with in_terminal(tmp_path, short, phantoms, "--executor", "local") as (run, press):
        run.until(lambda: (tmp_path / "out" / "state").exists())
        time.sleep(1.0)
        sent = time.monotonic()
        press()
        check_end(run, signal.SIGINT, sent)


@contextmanager
def in_terminal(folder: Path, short: Path, cache: Path, *arguments: str) -> Iterator[tuple[Watched, Any]]:
    """A run in the foreground of a terminal of its own, and Ctrl-C on its keyboard."""
    mine, terminal = pty.openpty()
    with started(folder, short, cache, *arguments, terminal=terminal) as run:
        import threading

        reader = threading.Thread(target=run.read, args=(mine,), daemon=True)
        reader.start()
        os.close(terminal)
        yield run, lambda: os.write(mine, b"\x03")
    reader.join(5)
    os.close(mine)


# ---------------------------------------------------------------------- ten moments, and more


MOMENTS: list[tuple[str, float, int, tuple[str, ...]]] = [
    ("start", 0.45, signal.SIGINT, ()),
    ("start", 0.6, signal.SIGTERM, ()),
    ("reading the scenario", 0.1, signal.SIGINT, ()),
    ("studies \\d+/24", 0.0, signal.SIGTERM, ("--set", "data.cache=FRESH")),
    ("starting Ray", 0.2, signal.SIGINT, ()),
    ("starting Ray", 1.5, signal.SIGTERM, ()),
    ("starting Ray", 3.0, signal.SIGHUP, ()),
    ("starting \\d actors", 0.5, signal.SIGINT, ()),
    ("actors have read", 0.0, signal.SIGTERM, ()),
    ("round 1/400", 0.0, signal.SIGINT, ()),
    ("without exchange: round", 0.1, signal.SIGTERM, ("--set", "rounds=3")),
    ("done at", 0.0, signal.SIGINT, ("--set", "rounds=2", "--set", "control=false")),
    ("digest", 0.0, signal.SIGTERM, ("--set", "rounds=2", "--set", "control=false")),
    ("start", 0.3, signal.SIGINT, ("--executor", "local")),
    ("round 1/400", 0.0, signal.SIGHUP, ("--executor", "local")),
    ("without exchange: round", 0.0, signal.SIGINT, ("--executor", "local", "--set", "rounds=3")),
]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("moment", "delay", "number", "arguments"), MOMENTS)
def test_a_signal_at_any_moment(
    moment: str, delay: float, number: int, arguments: tuple[str, ...], tmp_path: Path, short: Path, phantoms: Path
) -> None:
    given = [argument.replace("FRESH", str(tmp_path / "fresh")) for argument in arguments]
    with started(tmp_path, short, phantoms, *given) as run:
        if moment != "start":
            run.until(moment)
        time.sleep(delay)
        sent = time.monotonic()
        run.signal(number)
        check_end(run, number, sent, WHILE_RAY_STARTS if moment == "starting Ray" else PATIENCE)
    assert not list(tmp_path.rglob("unfinished-*"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("moment", ["starting Ray", "dashboard", "actors have read", "ct-01"])
def test_ctrl_c_in_a_terminal_reaches_every_process_of_a_run_on_ray(moment: str, tmp_path: Path, short: Path, phantoms: Path) -> None:
    with in_terminal(tmp_path, short, phantoms) as (run, press):
        run.until(moment)
        time.sleep(0.5)
        sent = time.monotonic()
        press()
        check_end(run, signal.SIGINT, sent, WHILE_RAY_STARTS if moment == "starting Ray" else PATIENCE)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("gap", [0.02, 0.5, 1.5])
def test_whoever_presses_ctrl_c_again_and_again_gets_out_as_cleanly(gap: float, tmp_path: Path, short: Path, phantoms: Path) -> None:
    with in_terminal(tmp_path, short, phantoms) as (run, press):
        run.until(lambda: (tmp_path / "out" / "state").exists())
        sent = time.monotonic()
        for _ in range(4):
            if run.process.poll() is None:
                press()
            time.sleep(gap)
        check_end(run, signal.SIGINT, sent)


# ---------------------------------------------------------------------- the parts


def raised(act: Any) -> bool:
    try:
        act()
    except KeyboardInterrupt:
        return True
    return False


def test_a_signal_ends_only_what_is_open_to_it() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
        assert reached
        assert interrupts.code == 143

        def wait() -> None:
            with interrupts.open():
                raise AssertionError("a signal that came before is not forgotten")

        assert raised(wait)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.code == 143
    assert interrupts.came == [signal.SIGTERM, signal.SIGINT]


def test_what_is_waited_for_ends_at_once() -> None:
    def wait() -> None:
        with interrupts.open():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)

    started = time.monotonic()
    with Interrupts() as interrupts:
        assert raised(wait)
    assert time.monotonic() - started < 5


ALONE = """
import os, signal, subprocess, sys
from p2pftl.interrupts import Interrupts

ended = []
with Interrupts() as interrupts:
    try:
        with interrupts.held_back():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
            os.kill(os.getpid(), signal.SIGTERM)
            child = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('deaf')"]
            ended.append(subprocess.run(child, capture_output=True, preexec_fn=lambda: None))
    except KeyboardInterrupt:
        print(*interrupts.came, ended[0].returncode, ended[0].stdout)
"""


def test_signals_wait_while_others_answer_them_and_children_hear_them() -> None:
    """In a process of its own: threads that other tests have left here would take the signal."""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["15", "-15", "b''"], 0), done.stderr


def test_tidying_up_is_done_once_in_peace_and_again_when_somebody_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def tidy() -> None:
        done.append("begun")
        if len(done) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        done.append("over")

    with Interrupts() as interrupts:
        interrupts.patiently(tidy)
    assert done == ["begun", "over"]

    done.clear()
    monkeypatch.setattr("p2pftl.interrupts.GRACE", 0.0)
    with Interrupts() as interrupts:
        interrupts.patiently(tidy)
    assert done == ["begun", "begun", "over"]


def test_signals_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_nohup_stays_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_that_came_from_this_one_are_found_and_ended() -> None:
    import subprocess
    import sys

    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    others = leftovers.descendants()
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        end = time.monotonic() + 20
        while len(mine := [one for one in leftovers.descendants() if one not in others]) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(mine) == 2
        assert mine[0][0] == parent.pid
        assert all(map(leftovers.alive, mine))
        assert not leftovers.alive((mine[0][0], mine[0][1] + 1)), "another process that got the same pid"
        leftovers.end(mine)
        assert not any(map(leftovers.alive, mine))
