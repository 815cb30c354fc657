"""From a scenario to a run folder: plan, swarm, events to the sinks, models, summary and report."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from p2pftl import __version__
from p2pftl.errors import P2pftlError, UsageError
from p2pftl.events import Event, RoundDone, RunFinished, RunPlanned
from p2pftl.folder import CONTROL, MODELS, PREVIEWS, SOURCE, STATE, TWINS, RunFolder
from p2pftl.interrupts import Interrupts, unheard
from p2pftl.keep import keep_models
from p2pftl.observe import record, summary
from p2pftl.observe.lead import told_by
from p2pftl.observe.live import replay as show_again
from p2pftl.observe.live import view as choose_view
from p2pftl.observe.logbook import DeviceLogs
from p2pftl.observe.plain import View
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import Scenario
from p2pftl.source import Stage
from p2pftl.swarm.address import check_address
from p2pftl.swarm.attended import Attended
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor, incident_events
from p2pftl.swarm.seams import Swarm
from p2pftl.telling import Diverged, Sink, Telling

DONE, DEGRADED = 0, 3
MOST_REASONS = 20


@dataclass
class Outcome:
    """What became of one pass: its summary, digest, and how it ended ("done", "degraded", "interrupted" or "failed").

    reasons: why it is not simply done; notes: what went wrong beside it; error: what stopped it.
    """

    summary: summary.Summary
    digest: str
    status: str
    consensus: float | None = None
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: Exception | None = None

    @property
    def whole(self) -> bool:
        return self.status in ("done", "degraded")


def run(scenario: Scenario, *, out: Path | None, executor: str, address: str | None, quiet: bool, force: bool) -> int:
    """Run `scenario` and write its folder; return the exit code: 0 done, 3 degraded, 128 + signal when interrupted.

    What ends before its plan is made, or by an error before the first round, leaves no folder; later the folder says
    what was done until then. Raises P2pftlError for everything a user can mend.
    """
    if executor == "ray":
        check_address(address)
    folder = RunFolder(out, scenario.name, force=force)
    with Interrupts() as interrupts:
        work = _Work(scenario, folder, executor, address, choose_view(quiet), interrupts)
        try:
            code = work.sourced(quiet) or work.done()
        except KeyboardInterrupt:
            folder.discard()
            print("interrupted before anything was planned; no run folder is left")
            return interrupts.code
        except BaseException:
            if not work.begun:
                folder.discard()
            raise
        return interrupts.code or code


@dataclass
class _Work:
    """One run: its passes, and what they share. begun: there is something to tell of; plan: known where a source task came first;
    word: what its last lines begin with."""

    scenario: Scenario
    folder: RunFolder
    executor: str
    address: str | None
    view: View
    interrupts: Interrupts
    swarm: Attended | None = None
    cores: int = 1
    begun: bool = False
    plan: Plan | None = None
    word: str = ""

    def sourced(self, quiet: bool) -> int:
        """Run the source task, if there is one that is not done yet; return the exit code if all ends with it, else 0.

        Raises P2pftlError, and KeyboardInterrupt when it was not even planned.
        """
        task = self.scenario.source
        if task is None:
            return 0
        with self.interrupts.open():
            stage = Stage.of(compile_plan(self.scenario))
        if task.folder is None:
            self.folder.fill(resolved(self.scenario))
            if not quiet:
                print(f"source task {stage.scenario.name}, seed {stage.scenario.seed}: run first", flush=True)
            place = RunFolder(self.folder.path / SOURCE, stage.scenario.name, force=True)
            first = replace(self, scenario=stage.scenario, folder=place, view=choose_view(quiet), word="source task: ")
            try:
                code = first.done()
            except P2pftlError as error:
                raise stage.blamed(error) from None
            finally:
                self.begun = first.begun
            if code := self.interrupts.code or code:
                print("nothing starts from it: the source task was not simply done")
                return code
            self.interrupts.afresh()
        self.plan = stage.started(Path(task.folder or self.folder.path / SOURCE))
        return 0

    def done(self) -> int:
        """Do it; return the exit code if no signal decides it. Raises KeyboardInterrupt when it was not even planned."""
        started = time.monotonic()
        try:
            with ExitStack() as screen:
                with unheard():
                    screen.enter_context(self.view)
                with self.interrupts.open():
                    self.view.status("reading the scenario's data")
                    plan = self.plan or compile_plan(self.scenario)
                plan, self.swarm = self._ready(plan)
                outcome, control = self._passes(plan)
            return _conclude(self.folder.path, outcome, control, self.executor, time.monotonic() - started, self.word)
        finally:
            if self.swarm is not None:
                self.interrupts.patiently(self.swarm.stop)
            self.folder.settle()

    def _ready(self, plan: Plan) -> tuple[Plan, Attended]:
        """Draw or read what the data source needs while Ray starts, and ask a twin's process what its network is. Raises P2pftlError."""
        stop = threading.Event()

        def progress(done: int, of: int) -> None:
            if stop.is_set():
                raise InterruptedError
            self.view.progress("studies", done, of)

        with ThreadPoolExecutor(1) as beside:
            with unheard():
                prepared = beside.submit(plan.prepared, progress)
            try:
                with self.interrupts.held_back():
                    swarm, self.cores = _swarm(self.executor, self.address, plan, self.view)
                    self.swarm = Attended(swarm, self.interrupts.open)
                with self.interrupts.open():
                    plan = prepared.result()
                    import p2pftl.gossip.spectrum  # noqa: F401  # the plan's facts want it; actors import torch meanwhile

                    return plan.outlined_as(self.swarm.ask(plan.outline)), self.swarm
            finally:
                stop.set()

    def _passes(self, plan: Plan) -> tuple[Outcome, Outcome | None]:
        """The run, and what the same twins learn alone if that is asked for and comes to an end."""
        self.folder.fill(resolved(self.scenario))
        logs = DeviceLogs(self.folder.path / TWINS)
        sinks: list[Sink] = [self.view, logs, *_exporters(self.executor)]
        outcome = self._pass(plan, self.folder.path, sinks, self.folder.path.absolute() / PREVIEWS)
        try:
            logs.close()
        except P2pftlError as error:
            outcome.notes.append(str(error))
        if not (self.scenario.control and outcome.whole):
            return outcome, None
        self.view.status("the same twins once more, without any exchange")
        aside = self.folder.path / CONTROL
        control = self._pass(plan.without_exchange(), aside, [_Progress(self.view, self.scenario.rounds)], None)
        if control.whole:
            return outcome, control
        outcome.error = control.error
        (aside / record.FILE).unlink(missing_ok=True)  # half a comparison is none
        return outcome, None

    def _swarm(self) -> Attended:
        assert self.swarm is not None
        return self.swarm

    def _pass(self, plan: Plan, folder: Path, sinks: Sequence[Sink], previews: Path | None) -> Outcome:
        """One pass over a plan; what stops it early keeps everything known so far."""
        folder.mkdir(parents=True, exist_ok=True)
        told, diverged = summary.Summary(), Diverged()
        conductor: Conductor | None = None
        with record.Record(folder / record.FILE) as recorder:
            tell = Telling([recorder, told, diverged, *sinks])
            tell(_planned(plan))
            outcome = Outcome(told, "", "interrupted")
            try:
                swarm, crews = self._swarm(), plan.packing(self.cores).crews
                vault = Vault(folder.absolute() / STATE, plan.scenario.checkpoint.every)  # an actor may work elsewhere
                first = swarm.start(plan.recruiter(previews), crews, vault)
                conductor = Conductor(plan.world, swarm, first, incident_events(plan.world.timeline()))
                self.begun = True
                for event in conductor:
                    tell(event)
                living = [name for name in plan.topology.names if not conductor.seats[name].gone]
                outcome.consensus = keep_models(plan, living, swarm.vector, folder / MODELS)
                outcome.status = "degraded" if conductor.degraded or diverged.fits else "done"
            except KeyboardInterrupt:
                self.begun = True
            except Exception as error:
                if not self.begun:
                    raise
                outcome.status, outcome.error = "failed", error
            with suppress(*([P2pftlError] if outcome.error else [])):  # a full disk refuses these too
                for event in conductor.remaining() if conductor and not outcome.whole else ():
                    tell(event)
                tell(RunFinished(t=told.board.now, status=outcome.status))
            outcome.digest, outcome.notes = recorder.digest, tell.broken
        outcome.reasons = _reasons([*(conductor.degraded if conductor else ()), *diverged.fits], outcome.error)
        return outcome


def _reasons(found: Sequence[str], error: Exception | None) -> list[str]:
    """What was lost, each thing once, and what stopped the run; never the text of a foreign exception."""
    lines = [text + (f" ({count} times)" if count > 1 else "") for text, count in Counter(found).items()]
    more = [f"and {len(lines) - MOST_REASONS} more"] if len(lines) > MOST_REASONS else []
    end = [] if error is None else [str(error) if isinstance(error, P2pftlError) else f"it stopped at an unexpected {type(error).__name__}"]
    return lines[:MOST_REASONS] + more + end


def _exporters(executor: str) -> list[Sink]:
    """Metrics go out through Ray where there is one."""
    if executor != "ray":
        return []
    from p2pftl.observe.metrics import RayMetrics

    return [RayMetrics()]


class _Progress:
    """Shows a second pass as one line of progress."""

    def __init__(self, view: View, rounds: int) -> None:
        self.view, self.rounds, self.done, self.twins = view, rounds, 0, 1

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunPlanned):
            self.twins = len(event.facts["twins"])
        elif isinstance(event, RoundDone):
            self.done += 1
            self.view.status(f"without exchange: round {self.done // self.twins} of {self.rounds}")


def _planned(plan: Plan) -> RunPlanned:
    scenario = plan.scenario
    return RunPlanned(
        t=0.0, name=scenario.name, seed=scenario.seed, rounds=scenario.rounds, classes=plan.catalogue.classes,
        synthetic=plan.catalogue.synthetic, facts=plan.facts(),
    )  # fmt: skip


def _swarm(executor: str, address: str | None, plan: Plan, view: View) -> tuple[Swarm, int]:
    """Return what carries the twins, its actors on their way up, and how many cores it has."""
    if executor == "local":
        from p2pftl.swarm.local import LocalSwarm

        return LocalSwarm(), 1
    view.status("starting Ray")
    from p2pftl.swarm.ray import RaySwarm

    device = "cpu" if plan.scenario.detector else plan.scenario.compute.device  # no GPU is set aside for nothing
    swarm = RaySwarm(run=plan.terms.run, address=address, notice=view.status, device=device)
    packing = plan.packing(swarm.cores)
    view.status(packing.why)
    swarm.warm(packing.crews)
    if address := swarm.dashboard:  # it may still be on its way up
        view.dashboard(address)
    return swarm, swarm.cores


def _conclude(folder: Path, outcome: Outcome, control: Outcome | None, executor: str, wall: float, word: str) -> int:
    """Write summary and report, say where they are, return the exit code. Raises what stopped the run."""
    from p2pftl.observe import report as reporting

    document = outcome.summary.document(
        digest=outcome.digest, executor=executor, wall_seconds=wall, consensus_distance=outcome.consensus,
        versions=_versions(), control=control.summary if control else None, reasons=outcome.reasons,
    )  # fmt: skip
    try:
        summary.save(document, folder / summary.FILE)
        page = reporting.write(folder)
    except (OSError, P2pftlError) as error:
        raise outcome.error or error from None
    for line in _closing(document, page, outcome):
        print(f"{word}{line}")
    if outcome.error is not None:
        raise outcome.error
    return DEGRADED if outcome.status == "degraded" else DONE


def _closing(document: dict[str, Any], page: Path, outcome: Outcome) -> Iterator[str]:
    lead = told_by(document)
    value = document["mean"].get(lead.key)
    kind = f"synthetic test {lead.name}" if document["synthetic"] else f"test {lead.name}"
    if value is not None:
        margin = (document.get("control") or {}).get("margin", {}).get(lead.key)
        against = f" ({margin:+.3f} against no exchange)" if margin is not None else ""
        yield f"mean {kind} {value:.3f}{against}"
    yield f"digest {outcome.digest}"
    yield f"report {page}"
    if outcome.status != "done":
        yield f"status {outcome.status}" + (f": {'; '.join(outcome.reasons)}" if outcome.reasons else "")
    yield from (f"note {note}" for note in outcome.notes)


def show_plan(scenario: Scenario) -> int:
    """Print what a run of `scenario` would do, before anything trains."""
    from p2pftl.observe.prospect import show

    plan = compile_plan(scenario)
    if scenario.source is not None:
        plan = replace(plan, source=Stage.of(plan).facts())
    show(_planned(plan), packing=plan.packing(os.cpu_count() or 1).why)
    return DONE


def show_topology(path: Path, out: Path | None, round: int, seed: int | None) -> int:
    """Draw a scenario's, a topology file's or a GraphML file's graph in the terminal, and to `out` (.svg or .png)."""
    from p2pftl.scenario.networks import read_topology
    from p2pftl.world import drawing

    topology, link = read_topology(path, seed)
    print(drawing.terminal(topology, round))
    for note in topology.notes:
        print(f"note {note}")
    if out is not None:
        vector = out.suffix.lower() == ".svg"
        picture = drawing.svg(topology, round, link=link).encode() if vector else drawing.png(topology, round, link=link)
        try:
            out.write_bytes(picture)
        except OSError as error:
            raise UsageError("E102", f"cannot be written (errno {error.errno})", where=str(out)) from error
        print(f"picture {out}")
    return DONE


def replay(path: Path, speed: float | None) -> int:
    """Show a recorded run on the same screen again."""
    show_again(path, speed)
    return DONE


def report(path: Path) -> int:
    """Rebuild the report of a run from its events and summary."""
    from p2pftl.observe import report as reporting

    print(f"report {reporting.write(path)}")
    return DONE


def _versions() -> dict[str, str]:
    found = {"p2pftl": __version__, "python": platform.python_version()}
    return found | {name: version(name) for name in ("torch", "torchvision", "ray", "numpy", "networkx", "pydicom")}
