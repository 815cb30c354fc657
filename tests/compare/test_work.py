"""Cells in processes of their own: they end, fail, are stopped and go on. And whole comparisons, as a user meets them."""

from __future__ import annotations

import csv
import fcntl
import json
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.compare.cells import Cell
from p2pftl.compare.compare import MARK
from p2pftl.compare.screen import Screen
from p2pftl.compare.work import Ended, Works
from p2pftl.interrupts import Interrupts
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import Plan, compile_plan
from tests.compare.test_cells import TINY
from tests.test_cli import plain

QUICK = """
name: quick
seed: 4
rounds: 2
topology: {use: complete, twins: 2}
data: {use: phantom, patients: 16, slices: 1}
fit: {batch: 8, steps: 2}
variants:
  fedavg: {partners: none, cloud: {use: fedavg, every: 1}}
seeds: [1, 2]
"""


def said(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.stdout, plain(result.stderr)


@pytest.fixture
def bad(tmp_path: Path) -> list[Cell]:
    """Runs that fail at once."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY, encoding="utf-8")
    scenario = load(file)
    return [Cell("base", seed, scenario, f"rouds: {seed}\n", tmp_path / "out" / "base" / f"seed-{seed}") for seed in (1, 2)]


def test_a_run_that_fails_says_why_and_does_not_stop_the_others(bad: list[Cell], tmp_path: Path) -> None:
    ended: list[Ended] = []
    most = 0

    def tell(running: object, one: Ended | None) -> None:
        nonlocal most
        most = max(most, len(running))  # type: ignore[arg-type]
        ended.extend([one] if one else [])

    with (tmp_path / "lock").open("w") as lock, Interrupts() as interrupts:
        Works("local", 2, lock.fileno()).carry_out(bad, interrupts, tell)
    assert most == 2
    assert sorted((one.cell.seed, one.code) for one in ended) == [(1, 2), (2, 2)]
    assert all("E109" in one.reason and "rouds: unknown key" in one.reason for one in ended)


def test_an_interrupt_ends_the_processes_and_leaves_their_lock(bad: list[Cell], tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock, Interrupts() as interrupts:
        works = Works("local", 2, lock.fileno())
        processes = []

        def tell(running: object, ended: Ended | None) -> None:
            processes.extend(one.process for one in works.running if one.process not in processes)
            if len(processes) == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            works.carry_out(bad, interrupts, tell)
        assert interrupts.code == 130
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lines_say_what_ended(bad: list[Cell], capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(bad, 1, quiet=False) as screen:
        screen(bad[:1], None)
        screen(bad[1:], Ended(bad[0], 2, "E109 no such key", 3.0))
    assert capsys.readouterr().out.splitlines() == ["2 runs, 1 at a time", "[1/2] base seed 1: failed, E109 no such key, 0:03"]


def test_a_terminal_shows_a_table(bad: list[Cell]) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=80, record=True, _environ={})
    screen = Screen(bad, 1, quiet=False, console=console, now=lambda: 7.0)
    screen(bad[:1], None)
    screen(bad[1:], Ended(bad[0], 0, "", 3.0))
    console.print(screen._drawn())
    shown = console.export_text()
    assert re.search(r"base +- +● 0:00", shown)
    assert "1 of 2 runs, 0:00, about 0:03 left" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--baseline", "fedag"], "E613 --baseline fedag: no such variant; did you mean fedavg?"),
        (["--seeds", "x"], "E613"),
        (["--reference", "fedag"], "E613 --reference fedag: no such variant; did you mean fedavg?"),
        (["--twins", "ct-01,ct-99"], "E613 --twins ct-99: no such twin"),
        (["--twins", "ct-01", "--except", "ct-02"], "E613 --twins and --except"),
        (["--target", "accuracy=7"], "E613"),
        (["--set", "variants={}"], "E613 there is nothing to compare"),
        (["--set", "data.patients=4"], "E304"),
        (["--out", "."], "E602"),
        (["--out", "tiny.yaml"], "E60"),
        (["--out", "taken"], "E601"),
    ],
)
def test_what_cannot_be_compared_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    found, out, err = said("compare", "tiny.yaml", *arguments)
    assert (found, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(code)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == sorted(["mine.txt", "taken", "tiny.yaml", *left(tmp_path)])


def left(folder: Path) -> list[str]:
    """`runs` itself may stay; it is where runs go."""
    return ["runs"] if (folder / "runs").is_dir() and not any((folder / "runs").iterdir()) else []


def test_two_comparisons_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    with (out / MARK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = said("compare", tmp_path / "tiny.yaml", "--out", out)
    assert (code, err[:4]) == (2, "E616")


@pytest.mark.slow
def test_a_comparison_runs_goes_on_and_is_the_same_again(tmp_path: Path) -> None:
    file, out = tmp_path / "quick.yaml", tmp_path / "out"
    file.write_text(QUICK, encoding="utf-8")
    code, text, err = said("compare", file, "--out", out, "--bounds", "--target", "accuracy=0.5", "--seeds", 1, "--jobs", 2)
    assert (code, err) == (0, "")
    assert "4 runs, 2 at a time" in text
    first = (out / "base" / "seed-1" / "events.msgpack").stat().st_mtime_ns
    code, text, _ = said("compare", file, "--out", out, "--bounds", "--jobs", 2, "--except", "ct-01", "--reference", "pooled")
    assert "8 runs, 4 of them done before, 2 at a time" in text
    assert (out / "base" / "seed-1" / "events.msgpack").stat().st_mtime_ns == first
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "synthetic data" in page
    assert "Loss against pooled" in page
    table = list(csv.DictReader((out / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["resampled"] for row in table if row["metric"] == "f1"} == {"seeds and patients"}
    rows = list(csv.DictReader((out / "compare.csv").read_text(encoding="utf-8").splitlines()))
    assert {(row["variant"], row["seed"]) for row in rows} == {
        (name, seed) for name in ("base", "fedavg", "local", "pooled") for seed in "12"
    }  # fmt: skip
    made = {
        name: compile_plan(load(out / name / "seed-1" / "scenario.yaml")).prepared(lambda done, of: None) for name in ("base", "pooled")
    }
    test, train = ({name: files(plan, part) for name, plan in made.items()} for part in ("test", "train"))
    assert test["base"] == test["pooled"]
    assert train["base"] == train["pooled"]
    assert len(made["pooled"].shards) == 1


def files(plan: Plan, part: str) -> set[str]:
    """The very files, scanned by whoever holds them."""
    return {sample.file for shard in plan.shards.values() for sample in getattr(shard, part)}


@pytest.mark.slow
def test_a_comparison_that_is_interrupted_keeps_what_is_done(tmp_path: Path) -> None:
    file, out = tmp_path / "quick.yaml", tmp_path / "out"
    file.write_text(QUICK, encoding="utf-8")

    def later() -> None:
        while not (out / "base" / "seed-1" / "summary.json").is_file():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    threading.Thread(target=later, daemon=True).start()
    code, text, _ = said("compare", file, "--out", out, "--jobs", 1)
    assert code == 128 + signal.SIGTERM
    assert re.search(r"interrupted: [23] of 4 runs are left", text)
    assert json.loads((out / MARK).read_text())["seeds"] == [1, 2]
    code, text, _ = said("compare", file, "--out", out, "--jobs", 2)
    assert code == 0
    assert re.search(r"4 runs, [12] of them done before", text)


@pytest.mark.slow
def test_a_sweep_compares_the_points_of_a_grid(tmp_path: Path) -> None:
    file, out = tmp_path / "quick.yaml", tmp_path / "out"
    file.write_text(QUICK, encoding="utf-8")
    code, text, err = said("sweep", file, "--grid", "fit.lr=0.01,0.1", "--seeds", 1, "--out", out)
    assert (code, err) == (0, "")
    assert "differences to lr-0.01" in text
    assert sorted(entry.name for entry in out.iterdir() if entry.is_dir()) == ["lr-0.01", "lr-0.1"]
