"""How far a comparison is: a table of cells on a terminal, else a line for each cell that ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from p2pftl.compare.cells import Cell
from p2pftl.compare.work import Ended
from p2pftl.interrupts import unheard
from p2pftl.observe.lead import ACCURACY, told_by, wanted
from p2pftl.observe.units import clock, figure

WIDEST = 12  # seeds side by side


class Screen:
    """Told of cells, in what order ever. of: all of them; jobs: so many run at a time; quiet: say nothing."""

    def __init__(
        self, of: Sequence[Cell], jobs: int, *, quiet: bool, console: Console | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.of, self.jobs, self.quiet, self._now = of, jobs, quiet, now
        self.console = console or Console()
        self.lead = wanted(of[-1].scenario) if of else ACCURACY  # the first may be source tasks
        self.shown: dict[tuple[str, int], tuple[str, str]] = {}
        self.running: dict[tuple[str, int], float] = {}
        self.took: list[float] = []
        self._start = now()
        table = self.console.is_terminal and not quiet and (self.console.encoding or "").lower().startswith("utf")
        self._live = Live(console=self.console, get_renderable=self._drawn, refresh_per_second=4, transient=True) if table else None

    def kept(self, cell: Cell) -> None:
        """A cell was done before."""
        self._settle(cell, "kept", self._result(cell))

    def __call__(self, running: Sequence[Cell], ended: Ended | None) -> None:
        now = self._now()
        self.running = {_place(cell): self.running.get(_place(cell), now) for cell in running}
        if ended is None:
            return
        state = {0: "done", 3: "degraded"}.get(ended.code, "failed")
        self.took.append(ended.seconds)
        self._settle(ended.cell, state, self._result(ended.cell))
        if self._live is None and not self.quiet:
            what = ended.reason if state == "failed" else f"{wanted(ended.cell.scenario).name} {self._result(ended.cell)}"
            place = f"{ended.cell.variant} seed {ended.cell.seed}"
            self._line(f"[{len(self.shown)}/{len(self.of)}] {place}: {state}, {what}, {clock(ended.seconds)}")
        elif self._live is not None and state == "failed":
            self._line(f"{ended.cell.variant} seed {ended.cell.seed} failed: {ended.reason}")

    def __enter__(self) -> Screen:
        kept = sum(state == "kept" for state, _ in self.shown.values())
        if not self.quiet:
            again = f", {kept} of them done before" if kept else ""
            self._line(f"{len(self.of)} runs{again}, {self.jobs} at a time")
        if self._live is not None:
            with unheard():
                self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def _settle(self, cell: Cell, state: str, text: str) -> None:
        self.shown[_place(cell)] = state, text

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @staticmethod
    def _result(cell: Cell) -> str:
        found = cell.summary
        return figure(found["mean"].get(told_by(found).key) if found else None)

    def _drawn(self) -> Table:
        seeds = sorted({cell.seed for cell in self.of})
        left = len(self.of) - len(self.shown)
        mean = sum(self.took) / len(self.took) if self.took else None
        rest = f", about {clock(mean * left / self.jobs)} left" if mean is not None and left else ""
        said = f"{len(self.shown)} of {len(self.of)} runs, {clock(self._now() - self._start)}{rest}; Ctrl-C stops, the same command goes on"
        table = Table(caption=said, caption_justify="left", box=None, pad_edge=False)
        table.add_column(f"test {self.lead.name}", no_wrap=True)
        for seed in seeds[:WIDEST]:
            table.add_column(f"seed {seed}", justify="right", no_wrap=True)
        for variant in dict.fromkeys(cell.variant for cell in self.of):
            table.add_row(variant, *(self._cell((variant, seed)) for seed in seeds[:WIDEST]))
        return table

    def _cell(self, place: tuple[str, int]) -> Text:
        if place in self.running:
            return Text(f"● {clock(self._now() - self.running[place])}", "cyan")
        state, text = self.shown.get(place, ("", "·"))
        return {
            "done": Text(text, "green"), "kept": Text(text), "degraded": Text(f"▲ {text}", "yellow"), "failed": Text("✖", "bold red"),
        }.get(state, Text(text, "dim"))  # fmt: skip


def _place(cell: Cell) -> tuple[str, int]:
    return cell.variant, cell.seed
