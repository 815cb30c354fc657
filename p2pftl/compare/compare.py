"""`p2pftl compare` and `p2pftl sweep`: plan all cells, run what is missing, write the table."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pftl.compare import page, table, units
from p2pftl.compare.bounds import LOCAL, POOLED, with_bounds, with_seed
from p2pftl.compare.cells import Cell, Variant, cells, grid, seeds, sources, variants
from p2pftl.compare.course import EVERYBODY, Chosen, Course, course
from p2pftl.compare.footing import uneven
from p2pftl.compare.screen import Screen
from p2pftl.compare.table import Results, targets
from p2pftl.compare.work import Ended, Works
from p2pftl.errors import P2pftlError, UsageError, nearest
from p2pftl.interrupts import Interrupts
from p2pftl.observe import record
from p2pftl.observe.lead import wanted
from p2pftl.observe.units import figure, signed

MARK = "compare.json"
PAGE, TIDY, SUMMARY, UNITS = "compare.html", "compare.csv", "summary.csv", "twins.csv"
DONE, DEGRADED = 0, 3
CHANGED = "it ended well, but of another scenario than was planned: p2pftl itself was changed meanwhile"


@dataclass(frozen=True)
class Order:
    """What is asked for. seeds: how many, or which; jobs: runs at a time, None for one per core; axes: of a sweep's grid;
    twins, without: names, by commas, of those whose results count, or do not; reference: losses are taken from this variant;
    unit: what differences are tested over, seeds, or also twins."""

    file: Path
    settings: Sequence[str] = ()
    seeds: str | None = None
    jobs: int | None = None
    executor: str = "local"
    baseline: str | None = None
    target: str | None = None
    bounds: bool = False
    out: Path | None = None
    quiet: bool = False
    axes: Sequence[str] = ()
    twins: str | None = None
    without: str | None = None
    reference: str | None = None
    unit: str = "seeds"

    @property
    def kind(self) -> str:
        return "sweep" if self.axes else "comparison"


def compare(order: Order) -> int:
    """Run what is missing and write the table; return 0, 3 if a run was degraded or failed, 128 + signal when interrupted.

    What was done is kept and not run again. Raises P2pftlError for what cannot run as written, before anything runs.
    """
    found = grid(order.file, order.settings, order.axes) if order.axes else variants(order.file, order.settings)
    rows = with_bounds(found) if order.bounds else found
    metric, target = targets(order.target, wanted(rows[0].scenario))
    baseline, chosen_twins = _baseline(rows, order.baseline), _twins(order, rows)
    if order.reference is not None:
        _known(order.reference, "--reference", [row.name for row in rows])
    chosen = seeds(order.file, order.settings, order.seeds)
    name = rows[0].scenario.name.removesuffix(f"-{rows[0].name}")
    out = order.out or Path("runs") / f"{name}-{'sweep' if order.axes else 'compare'}"
    with _held(out, order) as lock, Interrupts() as interrupts:
        work = _Comparison(order, rows, baseline, out, lock, interrupts)
        try:
            work.run(chosen)
        except KeyboardInterrupt:
            work.stopped = True
        courses = [_course(cell, done, chosen_twins) for cell in work.all if (done := cell.summary) is not None]
        if not courses:
            return work.nothing()
        about = page.About(name, order.kind, metric, target, work.uneven, work.failed, _command(order, out), order.unit)
        for line in _written(Results(rows, courses, baseline, chosen_twins, order.reference), about, out):
            print(line)
        return work.code(courses)


@dataclass
class _Comparison:
    """The cells on their way. lock: the open file that says so to others."""

    order: Order
    rows: Sequence[Variant]
    baseline: str
    out: Path
    lock: int
    interrupts: Interrupts
    all: list[Cell] = field(default_factory=list)
    uneven: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False

    def run(self, chosen: Sequence[int]) -> None:
        """Plan every cell and run those that are not done. Raises KeyboardInterrupt, P2pftlError."""
        with self.interrupts.open():
            self.all = cells(self.rows, chosen, self.out, with_seed)
            bounded = next((row.name for row in self.rows if not row.bound), self.baseline)
            bounds = {row.name: bounded for row in self.rows if row.matched or row.bound == "lower"} if self.order.bounds else {}
            self.uneven = uneven(self.all, self.baseline, bounds)
            for row in self.rows:
                if row.matched:
                    self.uneven[row.name] = ["all studies lie with one twin, which sees as many images as all twins together"]
        _note(self.out, self.order, self.rows, chosen, self.baseline)
        missing = [cell for cell in self.all if cell.summary is None]
        before = [cell for cell in sources(missing) if cell.summary is None]
        jobs = self.order.jobs or (len(os.sched_getaffinity(0)) if self.order.executor == "local" else 1)
        works = Works(self.order.executor, min(jobs, max(1, len(missing))), self.lock)
        screen = Screen([*before, *self.all], works.jobs, quiet=self.order.quiet)
        for cell in self.all:
            if cell not in missing:
                screen.kept(cell)

        def tell(running: Sequence[Cell], ended: Ended | None) -> None:
            if ended is not None and ended.cell.summary is None:
                self.failed[f"{ended.cell.variant} seed {ended.cell.seed}"] = ended.reason or CHANGED
            screen(running, ended)

        with screen:
            works.carry_out(before, self.interrupts, tell)
            works.carry_out([cell for cell in missing if not self._stranded(cell)], self.interrupts, tell)

    def _stranded(self, cell: Cell) -> bool:
        """Whether its source task came to nothing; then that is why it failed."""
        if cell.source is None or cell.source.summary is not None:
            return False
        reason = self.failed.get(f"{cell.source.variant} seed {cell.source.seed}", CHANGED)
        self.failed[f"{cell.variant} seed {cell.seed}"] = f"its source task failed: {reason}"
        return True

    def code(self, courses: Sequence[Course]) -> int:
        """The exit code; says how much is left where that is not nothing."""
        if self.stopped:
            print(f"interrupted: {len(self.all) - len(courses)} of {len(self.all)} runs are left; the same command goes on")
            return self.interrupts.code
        return DEGRADED if self.failed or any(one.status == "degraded" for one in courses) else DONE

    def nothing(self) -> int:
        """No cell is done: say why. Raises UsageError E618 if all failed."""
        if self.failed and not self.stopped:
            cell, reason = next(iter(self.failed.items()))
            raise UsageError("E618", f"no run came to an end; {cell}: {reason}", where=str(self.out))
        print("interrupted before any run was done; the same command goes on")
        return self.interrupts.code


def _course(cell: Cell, document: Mapping[str, Any], chosen: Chosen) -> Course:
    return course(cell.variant, cell.seed, document, (event for _, event in record.read(cell.folder / record.FILE)), chosen)


def _twins(order: Order, rows: Sequence[Variant]) -> Chosen:
    """Whose results count. Raises UsageError E613."""
    if order.twins is None and order.without is None:
        return EVERYBODY
    if order.twins is not None and order.without is not None:
        raise UsageError("E613", "--twins and --except say the same thing twice", fix="give one of them")
    option, text = ("--except", order.without) if order.twins is None else ("--twins", order.twins)
    names = tuple(dict.fromkeys(part.strip() for part in str(text).split(",")))
    known = rows[0].scenario.topology.build(rows[0].scenario.seed).names
    for name in names:
        _known(name, option, known, "twin")
    if option == "--except" and len(names) == len(known):
        raise UsageError("E613", "--except leaves nobody", fix="name fewer twins")
    return Chosen(names, but=option == "--except")


def _known(name: str, option: str, names: Sequence[str], what: str = "variant") -> None:
    if name not in names:
        raise UsageError("E613", f"{option} {name}: no such {what}", fix=nearest(name, names))


def _baseline(rows: Sequence[Variant], wanted: str | None) -> str:
    names = [row.name for row in rows]
    if wanted is not None:
        _known(wanted, "--baseline", names)
    if len(rows) < 2:
        raise UsageError("E613", "there is nothing to compare: the scenario has no variants", fix="add variants, or --bounds")
    return wanted or names[0]


def _command(order: Order, out: Path) -> str:
    verb = "sweep" if order.axes else "compare"
    words = ["p2pftl", verb, str(order.file), *(f"--grid {axis}" for axis in order.axes), *(f"--set {one}" for one in order.settings)]
    words += [
        f"--{key} {value}" for key in ("seeds", "baseline", "target", "twins", "reference") if (value := getattr(order, key)) is not None
    ]
    words += [f"--except {order.without}"] if order.without is not None else []
    words += ["--bounds"] if order.bounds else []
    words += ["--unit twins"] if order.unit == "twins" else []
    return " ".join([*words, "--out", str(out)])


def _written(results: Results, about: page.About, out: Path) -> Iterator[str]:
    """Write page and tables, yield what the terminal says. Raises UsageError E510."""
    made = {PAGE: page.page(results, about), TIDY: table.tidy(results), SUMMARY: table.summed(results)}
    for name, text in (made | ({UNITS: units.text(results)} if about.unit == "twins" else {})).items():
        partial = out / f"{name}.tmp.{os.getpid()}"
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(out / name)
        except OSError as error:
            raise UsageError("E510", f"cannot be written (errno {error.errno})", where=str(out / name), fix="free some space") from error
    lead = results.lead
    width = max(len(row.variant) for row in results.tables[lead.key])
    kind = f"synthetic test {lead.name}" if results.synthetic else f"test {lead.name}"
    whose = f" of {results.chosen}" if results.chosen.names else ""
    yield f"{kind}{whose}, {len(results.seeds)} seeds, differences to {results.baseline}"
    for row in results.tables[lead.key]:
        limits = f"[{row.interval[0]:.3f}, {row.interval[1]:.3f}]" if row.interval else ""
        said = f"{signed(row.against.mean)}  {row.verdict.sentence}" if row.against and row.verdict else "the baseline"
        yield f"  {row.variant:<{width}}  {figure(row.mean)} {limits:<16} {said}".rstrip()
    yield from table.headline(results, results.gaps())
    for lost in results.losses(lead.key):
        within = f" [{lost.interval[0]:+.3f}, {lost.interval[1]:+.3f}]" if lost.interval else ""
        yield f"{lost.variant} loses {lost.value:+.3f}{within} against {results.reference}"
    yield from (one.sentence(lead.name, str(results.reference)) for one in results.ratios(lead.key))
    yield from units.said(results) if about.unit == "twins" else ()
    yield from (f"{cell} failed: {reason}" for cell, reason in about.failed.items())
    yield f"report {out / PAGE}"


def _note(out: Path, order: Order, rows: Sequence[Variant], chosen: Sequence[int], baseline: str) -> None:
    """Say in the folder what it is."""
    content = {
        "kind": order.kind, "scenario": str(order.file), "settings": list(order.settings), "grid": list(order.axes),
        "variants": {row.name: row.about for row in rows}, "seeds": list(chosen), "baseline": baseline,
        "bounds": [LOCAL, POOLED] if order.bounds else [], "twins": order.twins, "except": order.without, "reference": order.reference,
    }  # fmt: skip
    (out / MARK).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _held(out: Path, order: Order) -> Iterator[int]:
    """Make the folder, or take one that is a comparison, for us alone. Raises UsageError E510, E601, E602, E616."""
    where = str(out)
    if out.resolve() in (order.file.resolve(), order.file.resolve().parent):
        raise UsageError("E602", "the folder would be where the scenario is", where=where, fix="choose another --out")
    try:
        made = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        if not made and any(out.iterdir()) and not (out / MARK).is_file():
            raise UsageError("E601", "is not empty, and no comparison", where=where, fix="choose another --out")
        (out / MARK).touch()
        lock = os.open(out / MARK, os.O_RDONLY)
    except FileExistsError as error:
        raise UsageError("E601", "is a file, a comparison needs a folder", where=where, fix="choose another --out") from error
    except OSError as error:
        raise UsageError("E510", f"cannot be written (errno {error.errno})", where=where, fix="choose another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise UsageError("E616", "another comparison, or a run of one, is at work here", where=where, fix="wait for it") from error
    try:
        yield lock
    except P2pftlError:
        if made and not any(entry.name != MARK for entry in out.iterdir()):
            (out / MARK).unlink()
            out.rmdir()
        raise
    finally:
        os.close(lock)
