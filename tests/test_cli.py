"""The command line: thin, quick, and never a traceback (TRUST.md §8, rows X)."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from p2pftl import __version__
from p2pftl.cli import Commands, app
from p2pftl.errors import ScenarioError, UsageError

GOOD = "rounds: 5\nseed: 7\ntopology: {use: ring, twins: 8}\ndata: {use: phantom}\nvariants: {alone: {partners: none}}\n"
ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "cli.py")]
QUIET = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(GOOD)
    return path


def said(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr without boxes and line ends."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, plain(result.stdout), plain(result.stderr)


def plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


def alone(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    given = {"env": QUIET, "capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run([*COMMAND, *map(str, arguments)], **given)  # type: ignore[call-overload, no-any-return]


def test_validate_says_what_it_found(scenario: Path) -> None:
    code, out, err = said("validate", scenario)
    assert (code, err) == (0, "")
    assert out == f"{scenario} is valid: night, 8 twins, 5 rounds, seed 7, 1 variants"


def test_validate_takes_overrides_seed_and_variant(scenario: Path) -> None:
    code, out, _ = said("validate", scenario, "--set", "rounds=9", "--set", "topology.twins=3", "--seed", 4, "--variant", "alone")
    assert code == 0
    assert "night-alone, 3 twins, 9 rounds, seed 4" in out


def test_validate_says_which_seed_it_chose(scenario: Path) -> None:
    scenario.write_text(GOOD.replace("seed: 7\n", ""))
    assert "(chosen: the file has none)" in said("validate", scenario)[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["validate", "nowhere.yaml"], "E101 nowhere.yaml: no such scenario"),
        (["validate", "FILE", "--set", "rouds=3"], "E109 --set rouds=3: rouds: unknown key; did you mean rounds?"),
        (["validate", "FILE", "--set", "rounds"], "E105 --set rounds: must be KEY=VALUE"),
        (["validate", "FILE", "--variant", "alon"], "did you mean alone?"),
        (["validate", "FILE", "--sed", "3"], "No such option: --sed"),
        (["validate", "FILE", "--seed", "abc"], "Invalid value for '--seed'"),
        (["validate", "FILE", "--seed", "-1"], "Invalid value for '--seed'"),
        (["validate"], "Missing argument 'FILE'"),
        (["validat", "FILE"], "Did you mean 'validate'?"),
        (["run", "FILE", "--exectuor", "local"], "executor"),
        (["run", "FILE", "--executor", "spark"], "Invalid value for '--executor'"),
        (["run", "FILE", "--workers", "0"], "Invalid value for '--workers'"),
        (["run", "FILE", "--workers", "2", "--twins-per-actor", "3"], "E613 --workers and --twins-per-actor are both given"),
        (["run", "FILE", "--twins-per-actor", "few"], "must be a whole number or auto"),
        (["run", "FILE", "--out", "FILE"], "E602"),
        (["run", "FILE", "--out", "FOLDER"], "E602"),
        (["run", "nowhere.yaml"], "E101"),
        (["plan", "nowhere.yaml"], "E101"),
        (["topology", "FILE", "--out", "picture.bmp"], "E613 picture.bmp: cannot draw a .bmp"),
        (["topology", "FILE", "--round", "-1"], "Invalid value for '--round'"),
        (["replay", "FOLDER", "--speed", "-1"], "Invalid value for '--speed'"),
        (["replay", "FOLDER"], "E5"),
        (["report", "FOLDER"], "E5"),
        (["topology", "nowhere.graphml"], "E211"),
        (["new", "a/b/c"], "E601 a/b/c.yaml: cannot be written"),
        (["new", ".."], "E613"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(scenario: Path, arguments: list[str], says: str) -> None:
    given = [{"FILE": str(scenario), "FOLDER": str(scenario.parent)}.get(argument, argument) for argument in arguments]
    code, out, err = said(*given)
    assert code == 2, err
    assert out == ""
    assert says in err
    assert "Traceback" not in err


def test_no_arguments_show_help_and_exit_2() -> None:
    code, out, err = said()
    assert code == 2
    assert all(name in out + err for name in ("run", "validate", "plan", "topology", "schema", "new", "replay", "report", "version"))


@pytest.mark.parametrize("command", ["run", "validate", "plan", "topology", "schema", "new", "replay", "report", "version"])
def test_every_command_has_help(command: str) -> None:
    code, out, _ = said(command, "--help")
    assert code == 0
    assert f"p2pftl {command}" in out or f"{command} [OPTIONS]" in out


def test_version_is_the_package_s() -> None:
    assert said("version")[:2] == (0, f"p2pftl {__version__}")


def test_schema_is_json() -> None:
    code, out, _ = said("schema")
    assert code == 0
    assert json.loads(out)["title"] == "p2pftl scenario"


def test_new_writes_once_and_says_what_next(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    code, out, _ = said("new", target)
    assert (code, "next: p2pftl plan" in out) == (0, True)
    assert said("validate", f"{target}.yaml")[0] == 0
    code, _, err = said("new", target)
    assert (code, "E601" in err) == (2, True)
    assert said("new", target, "--force")[0] == 0


fails = typer.Typer(cls=Commands, pretty_exceptions_enable=False, add_completion=False)


@fails.command()
def fail(how: str) -> int:
    """Fail in a chosen way."""
    if how.isdecimal():
        return int(how)
    raise {
        "scenario": ScenarioError("E109", "rouds: unknown\nkey", where="a.yaml:1:1", fix="did you mean rounds?"),
        "usage": UsageError("E604", "Ray is not reachable"),
        "interrupt": KeyboardInterrupt(),
        "pipe": BrokenPipeError(errno.EPIPE, "x"),
        "patient": ValueError("PATIENT NAME"),
    }[how]


@fails.command()
def other() -> None:
    """A second one, so that names are needed."""


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        ("0", 0, ""),
        ("3", 3, ""),
        ("scenario", 2, "E109 a.yaml:1:1: rouds: unknown key; did you mean rounds?"),
        ("usage", 2, "E604 Ray is not reachable"),
        ("interrupt", 130, "interrupted"),
    ],
)
def test_every_ending_has_its_exit_code_and_one_line(how: str, code: int, says: str) -> None:
    result = CliRunner().invoke(fails, ["fail", how])
    assert (result.exit_code, result.stderr.strip()) == (code, says)


def test_a_surprise_is_one_line_and_a_log_without_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    result = CliRunner().invoke(fails, ["fail", "patient"])
    assert result.exit_code == 1
    assert re.fullmatch(r"unexpected ValueError: log at \S+\.log; .*\n", result.stderr)
    (log,) = tmp_path.glob("*.log")
    assert "builtins.ValueError" in log.read_text()
    assert "PATIENT" not in log.read_text() + result.stderr
    assert log.stat().st_mode & 0o077 == 0


def test_debugging_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PFTL_DEBUG", "1")
    result = CliRunner().invoke(fails, ["fail", "patient"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "PATIENT NAME" in result.stderr


def test_the_launcher_equals_the_command(tmp_path: Path) -> None:
    launched = subprocess.run([sys.executable, ROOT / "cli.py", "version"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (launched.returncode, launched.stdout, launched.stderr) == (0, f"p2pftl {__version__}\n", "")


def test_help_and_validate_load_neither_torch_nor_ray(scenario: Path) -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from p2pftl.cli import app; run = CliRunner().invoke;"
        f"codes = [run(app, a).exit_code for a in (['--help'], ['validate', {str(scenario)!r}], ['new', {str(scenario.parent / 'n')!r}])];"
        "print(codes, sorted({'torch', 'ray', 'torchvision'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.stdout == "[0, 0, 0] []\n", found.stderr


def test_help_comes_at_once() -> None:
    """In processor seconds, so that a busy machine does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert alone("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    """`p2pftl schema | head -1`: the rest does not fit into the pipe."""
    with subprocess.Popen([*COMMAND, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=QUIET) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"{\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("arguments", ["version", "validate nowhere.yaml", "--help", "nonsense"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", ">/dev/full"])
def test_closed_or_full_streams_give_no_traceback(arguments: str, streams: str) -> None:
    line = f"{COMMAND[0]} {COMMAND[1]} {arguments} {streams}"
    found = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=QUIET, check=False)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr
    assert found.returncode in (0, 1, 2)


def test_colour_only_where_it_is_wanted() -> None:
    environment = {**QUIET, "LC_ALL": "C", "NO_COLOR": "1", "FORCE_COLOR": "", "TERM": "dumb"}
    found = alone("validate", "nowhere.yaml", env=environment)
    assert found.returncode == 2
    assert "\x1b" not in found.stderr + found.stdout
    assert found.stderr.count("\n") == 1
    assert "\x1b" not in alone("validate", "nowhere.yaml").stderr
