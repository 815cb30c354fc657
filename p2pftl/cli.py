"""The commands. Each reads its options, calls one function and returns its exit code: 0 done, 2 bad input, 3 done but degraded,
130 interrupted, 1 anything else. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from p2pftl import cli_compare, cli_twin
from p2pftl.errors import P2pftlError, UsageError

if TYPE_CHECKING:
    from p2pftl.scenario.schema import Scenario

DEBUG = "P2PFTL_DEBUG"


class Executor(StrEnum):
    """Where the twins run."""

    ray = "ray"
    local = "local"


class Commands(TyperGroup):
    """Turns every way a command can fail into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            code = super().invoke(ctx)
            _flush()
        except P2pftlError as error:
            _say(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            _say("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            _close_stdout()
            raise typer.Exit(1) from None
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):
                raise  # typer's own: usage errors and exits
            _say(_unexpected(error))
            raise typer.Exit(1) from None
        raise typer.Exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Digital twins of CT scanners that learn from each other, peer to peer. Start with [bold]p2pftl new NAME[/bold].",
)
app.add_typer(cli_twin.app, name="twin")
app.command()(cli_compare.compare)
app.command()(cli_compare.sweep)

ScenarioFile = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario, a YAML file.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set fit.lr=0.01. Repeatable.", show_default=False),
]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Take this variant of the scenario.", show_default=False)]
Seed = Annotated[int | None, typer.Option(min=0, help="Change the seed.", show_default=False)]


@app.command()
def run(
    file: ScenarioFile,
    settings: Settings = None,
    variant: Variant = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder; runs/NAME-TIME if not given.", show_default=False)] = None,
    executor: Annotated[Executor, typer.Option(help="Ray actors, or everything in this process.")] = Executor.ray,
    address: Annotated[str | None, typer.Option(envvar="RAY_ADDRESS", help="Use this Ray cluster.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Pack the twins into this many actors.", show_default=False)] = None,
    twins_per_actor: Annotated[
        str | None, typer.Option(metavar="K|auto", help="Pack so many twins into one actor.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an earlier run in DIR.")] = False,
) -> int:
    """Run a scenario and write its report."""
    scenario = _load(file, settings, variant, seed, twins_per_actor)
    from p2pftl import run as work

    if workers is not None:
        scenario = _packed(scenario, workers, twins_per_actor)
    if out is not None and out.resolve() in (file.resolve(), file.resolve().parent):
        raise UsageError("E602", "the run folder would be where the scenario is", where=str(out), fix="choose another --out")
    if scenario.seed_chosen and not quiet:
        typer.echo(f"seed {scenario.seed} (chosen; repeat this run with --seed {scenario.seed})")
    return work.run(scenario, out=out, executor=executor.value, address=address, quiet=quiet, force=force)


@app.command()
def validate(file: ScenarioFile, settings: Settings = None, variant: Variant = None, seed: Seed = None) -> int:
    """Check a scenario without running it."""
    scenario = _load(file, settings, variant, seed)
    twins = len(scenario.topology.build(scenario.seed).names)
    seed_text = f"seed {scenario.seed}" + (" (chosen: the file has none)" if scenario.seed_chosen else "")
    more = f", {len(scenario.variants)} variants" if scenario.variants else ""
    typer.echo(f"{file} is valid: {scenario.name}, {twins} twins, {scenario.rounds} rounds, {seed_text}{more}")
    return 0


@app.command()
def plan(file: ScenarioFile, settings: Settings = None, variant: Variant = None, seed: Seed = None) -> int:
    """Show what a scenario would do: graph, data, bytes, virtual time, incidents."""
    scenario = _load(file, settings, variant, seed)
    from p2pftl import run as work

    return work.show_plan(scenario)


@app.command()
def topology(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario, a topology in YAML, or a .graphml file.", show_default=False)],
    out: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Also draw it to this .svg or .png.", show_default=False)] = None,
    round: Annotated[int, typer.Option(min=0, help="Round of a time-varying topology.")] = 0,
    seed: Seed = None,
) -> int:
    """Draw who can talk to whom."""
    if out is not None and out.suffix.lower() not in (".svg", ".png"):
        raise UsageError("E613", f"cannot draw a {out.suffix or 'file without suffix'}", where=str(out), fix="end it with .svg or .png")
    from p2pftl import run as work

    return work.show_topology(file, out, round, seed)


@app.command()
def schema() -> int:
    """Print the JSON schema of a scenario, for editors."""
    import json

    from p2pftl.scenario.schema import schema as described

    typer.echo(json.dumps(described(), indent=2))
    return 0


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it; NAME.yaml is written.", show_default=False)],
    force: Annotated[bool, typer.Option("--force", help="Overwrite NAME.yaml.")] = False,
) -> int:
    """Write a commented starter scenario."""
    from p2pftl.scenario.starter import write_starter

    path = write_starter(name, force=force)
    typer.echo(f"wrote {path}; next: p2pftl plan {path}, p2pftl run {path}")
    return 0


@app.command()
def replay(
    folder: RunFolder,
    speed: Annotated[float | None, typer.Option(min=0, help="Times as fast as it was; 0: at once.", show_default=False)] = None,
) -> int:
    """Show the screen of a finished run again."""
    from p2pftl import run as work

    return work.replay(folder, speed)


@app.command()
def report(folder: RunFolder) -> int:
    """Write the report of a run again, from its events."""
    from p2pftl import run as work

    return work.report(folder)


@app.command()
def version() -> int:
    """Print the version."""
    from p2pftl import __version__

    typer.echo(f"p2pftl {__version__}")
    return 0


def main() -> None:
    """The console script."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # numpy's and torch's pools win nothing here, and would take signals meant for us
    code: Any = 1
    try:
        app(prog_name="p2pftl")
    except SystemExit as end:
        code = end.code
    except OSError:  # help that could not be printed
        _close_stdout()
    try:
        _flush()
    except (OSError, ValueError):
        _close_stdout()
        code = code or 1
    if code in (129, 130, 143):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever presses Ctrl-C again gets the same end
    sys.exit(code)


def _load(file: Path, settings: list[str] | None, variant: str | None, seed: int | None, twins_per_actor: str | None = None) -> Scenario:
    from p2pftl.scenario.load import load

    changes = [*(settings or ())]
    changes += [] if seed is None else [f"seed={seed}"]
    changes += [] if twins_per_actor is None else [f"twins_per_actor={twins_per_actor}"]
    return load(file, changes, variant=variant)


def _packed(scenario: Scenario, workers: int, twins_per_actor: str | None) -> Scenario:
    if twins_per_actor is not None:
        raise UsageError("E613", "--workers and --twins-per-actor are both given", fix="keep one of them")
    twins = len(scenario.topology.build(scenario.seed).names)
    return replace(scenario, twins_per_actor=-(-twins // workers))


def _say(line: str) -> None:
    """One line on stderr, red on a terminal."""
    from rich.console import Console

    with suppress(OSError, ValueError):
        Console(stderr=True, highlight=False).print(" ".join(line.split()), style="red", markup=False, soft_wrap=True)


def _unexpected(error: Exception) -> str:
    """Keep what happened in a private file, without texts that may hold a patient's name; all of it when debugging."""
    if os.environ.get(DEBUG) == "1":
        traceback.print_exc()
        return f"unexpected {type(error).__name__}"
    try:
        handle, path = tempfile.mkstemp(prefix="p2pftl-", suffix=".log")
        with os.fdopen(handle, "w") as log:
            log.writelines(_frames(error))
    except OSError:
        path = "nowhere (no temporary folder)"
    return f"unexpected {type(error).__name__}: log at {path}; {DEBUG}=1 shows all of it; please report it"


def _frames(error: BaseException) -> list[str]:
    inner = error.__cause__ or error.__context__
    before = [*_frames(inner), "\nthen\n"] if inner else []
    return [*before, *traceback.format_tb(error.__traceback__), f"{type(error).__module__}.{type(error).__qualname__}\n"]


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _close_stdout() -> None:
    """Nobody reads on: what is still buffered goes nowhere instead of raising at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
