"""The live view in a terminal, and the replay of a recorded run on the same screen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from p2pftl.events import Event, RunPlanned
from p2pftl.observe import record
from p2pftl.observe.board import Board, Row
from p2pftl.observe.fleet import Scanner
from p2pftl.observe.plain import Plain, Quiet, View, counted
from p2pftl.observe.units import NOTHING, clock, figure, seconds, size, some

BARS = "▁▂▃▄▅▆▇█"
SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TICKER = 5
REFRESH = 4  # per second
STATES = {
    "fitting": ("●", "cyan"),
    "waiting": ("○", "dim"),
    "merged": ("◆", "blue"),
    "done": ("✔", "green"),
    "down": ("▼", "yellow"),
    "not yet": ("·", "dim"),
    "left": ("◁", "dim"),
    "crashed": ("✖", "bold red"),
    "lost": ("✖", "bold red"),
}
TONES = {"bad": ("✖", "red"), "warn": ("▲", "yellow"), "good": ("✔", "green"), "info": ("·", "dim")}
LIVES = {  # word and colour of a scanner's lifecycle
    "commissioning": ("new", "dim"),
    "baseline": ("baseline", "cyan"),
    "active": ("active", "green"),
    "warn": ("warn", "yellow"),
    "quarantined": ("QUARANT.", "bold red"),
    "maintenance": ("service", "magenta"),
    "verifying": ("verify", "cyan"),
    "offline": ("OFFLINE", "red"),
    "retired": ("retired", "dim"),
}
PARTS = ("calibration", "noise", "uniformity", "tube", "data_freshness")
TROUBLE = {"lost": 0, "crashed": 1, "down": 2, "left": 3, "not yet": 4}


class Live:
    """Sink that keeps a screen up to date. A call folds the event; drawing happens REFRESH times a second in rich's own thread."""

    def __init__(self, console: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.board = Board()
        self.console = console or Console()
        self._now = now
        self._born = now()
        self._first: float | None = None
        self._ended: float | None = None
        self._status = "planning"
        self._aside: tuple[str, int, int] | None = None
        self._url = ""
        self._lock = threading.Lock()
        self._screen = Screen(
            console=self.console, get_renderable=self._drawn, refresh_per_second=REFRESH, transient=False, vertical_overflow="crop"
        )

    def __call__(self, event: Event) -> None:
        with self._lock:
            if not isinstance(event, RunPlanned):  # after the plan the actors start, which is worth saying
                self._first = self._now() if self._first is None else self._first
                self._status = ""
            self.board.feed(event)
            if self.board.status:
                self._ended = self._now()

    def status(self, text: str) -> None:
        with self._lock:
            self._status = text

    def progress(self, what: str, done: int, of: int) -> None:
        with self._lock:
            self._aside = (what, done, of) if done < of else None

    def dashboard(self, url: str) -> None:
        with self._lock:
            self._url = url

    def __enter__(self) -> Live:
        self._screen.start(refresh=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._status = "" if self.board.rows else self._status
        self._screen.stop()

    def _drawn(self) -> RenderableType:
        with self._lock:
            return self.draw(self.console.width, self.console.height)

    def draw(self, width: int, height: int) -> RenderableType:
        """The whole screen, at most `height` - 1 lines of `width` cells."""
        board = self.board
        head: list[RenderableType] = [self._title(width), self._bar(width)]
        if not board.rows:
            return Group(*head)
        spare = height - 6 - bool(self._url) - (board.cloud is not None) - len(board.rows)
        ticker = self._ticker(max(2, min(TICKER, spare)))
        foot: list[RenderableType] = [Text(""), *ticker] if ticker else []
        if self._url:
            foot.append(Text(f" dashboard {self._url}", style="dim", no_wrap=True, overflow="ellipsis"))
        room = height - 1 - len(head) - len(foot) - 2 - (board.cloud is not None)
        rows = _Rows(board, width, max(1, room))
        return Group(*head, Text(""), rows.table(), *rows.rest(), *foot)

    def _wall(self) -> float:
        return (self._ended if self._ended is not None else self._now()) - self._born

    def _title(self, width: int) -> RenderableType:
        board, plan = self.board, self.board.plan
        left = Text(" p2pftl", style="bold cyan")
        if plan is not None:
            left.append(f"  {plan.name}", style="bold default")
            kind = plan.facts.get("topology", {}).get("kind", "")
            words = [f"{len(board.rows):,} twins" + (f", {kind}" if kind else ""), f"seed {plan.seed}"]
            words += ["no exchange"] if plan.facts.get("exchange") is False else []
            words += ["synthetic data"] if plan.synthetic else []
            left.append("  " + " · ".join(words), style="not bold dim")
        right = Text.assemble(("virtual ", "dim"), (seconds(board.now), "bold"), ("  wall ", "dim"), clock(self._wall()))
        if not board.status and board.rows:
            right.append("  ETA ", style="dim")
            right.append(clock(self._eta()))
        return _split(left, right, width)

    def _bar(self, width: int) -> RenderableType:
        board = self.board
        if self._status:
            spin = SPIN[int(self._now() * 8) % len(SPIN)]
            text = Text.assemble((f" {spin} ", "cyan"), self._status)
            if self._aside is None:
                return text
            what, done, of = self._aside
            text.append_text(Text.assemble(f"  {what} ", (f"{done}/{of} ", "bold")))
            return _split(text, _progress(done / of, max(8, width - text.cell_len - 2)), width)
        right = Text()
        spread = board.spread(board.split)
        if spread is not None:
            right.append(f" {board.split} {board.lead.name} ", style="dim")
            right.append(figure(spread[0]), style="bold")
            right.append(f" ({figure(spread[1], 2)}–{figure(spread[2], 2)})" if width >= 90 else "", style="dim")
        right.append(f"  {size(board.bytes)} sent", style="default")
        if width >= 90:
            right.append(f", {board.lost:,} lost, {board.refused:,} refused", style="dim")
        if board.fleet.arrived and width >= 100:
            right.append(f"  {board.fleet.arrived:,} new images", style="default")
        ending = f" {board.status}" if board.status else ""
        left = Text(f" round {board.mean_round}/{board.rounds}{ending} ")
        left.append_text(_progress(board.progress, max(8, width - left.cell_len - right.cell_len - 2)))
        return _split(left, right, width)

    def _eta(self) -> float | None:
        share = self.board.progress
        return (self._now() - self._first) * (1 - share) / share if self._first is not None and share > 0 else None

    def _ticker(self, length: int) -> list[RenderableType]:
        lines: list[RenderableType] = []
        for note in list(self.board.notes)[-length:]:
            mark, style = TONES[note.tone]
            line = Text(f" {seconds(note.t):>9} ", style="dim", no_wrap=True, overflow="ellipsis")
            line.append(f"{mark} ", style=f"not dim {style}")
            lines.append(line.append(counted(note), style="not dim"))
        return lines


class _Rows:
    """The table: which columns fit the width, which twins fit the height."""

    def __init__(self, board: Board, width: int, room: int) -> None:
        self.board, self.width, self.room = board, width, room
        self.split = board.split
        values = [value for row in board.rows.values() for value in row.trace.get(self.split, ())[-30:]]
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)
        self.name = min(max(len(row.name) for row in board.everyone()), 16)
        self.scanners = any(row.scanner for row in board.rows.values())
        self.spark = 14 if width >= 130 else 9 if width >= 100 else 7
        self.chosen = _interesting(board, self.split, room)

    def table(self) -> Table:
        width, rounds = self.width, 2 * len(f"{self.board.rounds}") + 1
        fleet, wide = self.board.fleet.known, width >= 110
        held = any(scanner.held is not None for scanner in self.board.fleet.scanners.values())
        scanners = self.scanners and (width >= 80 or not fleet)
        table = Table(box=None, padding=(0, 1), show_edge=False, header_style="dim", pad_edge=True)
        columns = [
            ("twin", self.name, "left", True),
            ("scanner", 0, "left", scanners),
            ("state", 12, "left", True),
            ("round", max(5, rounds), "right", True),
            ("device", 14 if wide else 10, "left", fleet),
            ("images", 6, "right", width >= 130 and held),
            ("loss", 5, "right", width >= (100 if fleet else 72)),
            (f"{'val.' if self.split == 'validation' else self.split} {self.board.lead.name}", 6 + self.spark, "left", True),
            ("partners", min(24, max(8, width - (142 if fleet else 104))), "left", width >= (150 if fleet else 110)),
            ("sent", 7, "right", width >= (92 if fleet else 66)),
            ("stale", 7, "right", width >= (124 if fleet else 94)),
        ]
        left = width - sum(cells + 2 for _, cells, _, shown in columns if shown)
        longest = max([len(row.scanner) for row in self.board.rows.values()] or [0])
        self.short = left < longest
        columns[1] = ("scanner", max(7, min(longest, left)), "left", scanners)
        self.shown = [column for column in columns if column[3]]
        for title, cells, justify, _ in self.shown:
            table.add_column(title, width=cells, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis")
        for row in self.chosen:
            self._add(table, row)
        if self.board.cloud is not None:
            self._add(table, self.board.cloud)
        return table

    def rest(self) -> list[RenderableType]:
        """One line about the twins for whom there is no room."""
        names = {row.name for row in self.chosen}
        others = [row for row in self.board.rows.values() if row.name not in names]
        if not others:
            return []
        states = ", ".join(f"{count:,} {state}" for state, count in Counter(row.state for row in others).most_common())
        known = [value for row in others if (value := row.accuracy(self.split)) is not None]
        spread = f"; {self.split} {self.board.lead.name} {figure(min(known), 2)}–{figure(max(known), 2)}" if known else ""
        return [Text(f" … and {len(others):,} more: {states}{spread}", style="dim", no_wrap=True, overflow="ellipsis")]

    def _add(self, table: Table, row: Row) -> None:
        mark, style = STATES.get(row.state, STATES["waiting"])
        again = f" #{row.incarnation}" if row.incarnation > 1 else ""
        cells: dict[str, RenderableType] = {
            "twin": Text(row.name, style="bold"),
            "scanner": _short(row.scanner) if self.short else row.scanner,
            "state": Text.assemble((f"{mark} ", style), (row.state, style), (again, "bold magenta")),
            "round": f"{row.round}/{self.board.rounds}",
            "device": _device(self.board.fleet.of(row.name), self.width >= 110),
            "images": _held(self.board.fleet.of(row.name)),
            "loss": figure(row.loss),
            self.board.lead.name: self._accuracy(row),
            "partners": Text(_partners(row.partners), style="dim"),
            "sent": size(row.sent),
            "stale": seconds(row.staleness),
        }
        if row is self.board.cloud:
            cells |= self._cloud(row, mark, style)
        table.add_row(*(cells[title.split(" ")[-1]] for title, *_ in self.shown))

    def _cloud(self, row: Row, mark: str, style: str) -> dict[str, RenderableType]:
        policy = self.board.plan.facts.get("cloud") if self.board.plan else None
        last = f"last {some(self.board.cloud_last, 'twin')}" if self.board.cloud_merges else ""
        return {
            "scanner": Text(_policy(policy), style="dim"),
            "state": Text("○ ready" if row.state == "waiting" else f"{mark} {row.state}", style=style),
            "round": str(self.board.cloud_merges),
            "device": "",
            "images": "",
            "loss": "",
            self.board.lead.name: Text(last, style="dim"),
            "stale": "",
        }

    def _accuracy(self, row: Row) -> Text:
        value = row.accuracy(self.split)
        if value is None:
            return Text(NOTHING, style="dim")
        return Text.assemble((figure(value), "bold"), " ", (_spark(row.trace[self.split][-self.spark :], self.low, self.high), "cyan"))


def view(quiet: bool = False, console: Console | None = None) -> View:
    """The view that fits: Quiet if asked for, Live in a terminal that can show it, else Plain."""
    if quiet:
        return Quiet()
    console = console or Console()
    fits = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf") and console.width >= 60
    return Live(console) if fits else Plain()


def replay(run: Path, speed: float | None = None, screen: View | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a recorded run again, `speed` times as fast as it was (None: as it was, 0: at once).

    `run`: the folder of the run, or its events.msgpack. Raises CheckpointError E501, E505.
    """
    path = run / record.FILE if run.is_dir() else run
    pace = 1.0 if speed is None else speed
    with screen or view() as shown:
        start = time.monotonic()
        for wall, event in record.read(path):
            ahead = wall / pace - (time.monotonic() - start) if pace > 0 else 0.0
            if ahead > 0:
                sleep(ahead)
            shown(event)


def _interesting(board: Board, split: str, room: int) -> list[Row]:
    """The rows to show, in order of name: all if there is room, else the troubled and the weakest."""
    rows = list(board.rows.values())
    if len(rows) <= room:
        return rows

    def worth(row: Row) -> tuple[int, float, str]:
        value = row.accuracy(split)
        return TROUBLE.get(row.state, 9), 2.0 if value is None else value, row.name

    chosen = {row.name for row in sorted(rows, key=worth)[: max(1, room - 1)]}
    return [row for row in rows if row.name in chosen]


def _device(scanner: Scanner | None, wide: bool) -> Text:
    """Where its life stands, and how healthy it is: one bar for the worst part, or one for each of PARTS; "?" for what is not known."""
    if scanner is None or not scanner.lifecycle:
        return Text(NOTHING, style="dim")
    word, style = LIVES.get(scanner.lifecycle, (scanner.lifecycle[:8], ""))
    shown = [scanner.health.get(part) for part in PARTS] if wide else [scanner.lowest]
    return Text.assemble((f"{word:<8}", style), " ", *(_level(value) for value in shown))


def _level(value: float | None) -> tuple[str, str]:
    if value is None:
        return "?", "dim"
    return BARS[min(7, max(0, int(8 * value)))], "green" if value > 0.5 else "yellow" if value > 0.2 else "red"


def _held(scanner: Scanner | None) -> str:
    return NOTHING if scanner is None or scanner.held is None else f"{scanner.held:,}"


def _spark(values: list[float], low: float, high: float) -> str:
    span = (high - low) or 1.0
    return "".join(BARS[min(7, max(0, int(8 * (value - low) / span)))] for value in values)


def _progress(share: float, width: int) -> Text:
    full = int(share * width)
    return Text.assemble(("━" * full, "cyan"), ("━" * (width - full), "bright_black"))


def _partners(names: tuple[str, ...]) -> str:
    """Names with their common beginning said once: "ct-02 08 cloud"."""
    words, last = [], ""
    for name in names:
        stem, dash, tail = name.rpartition("-")
        words.append(tail if dash and stem == last else name)
        last = stem if dash else ""
    return " ".join(words)


def _short(scanner: str) -> str:
    """The vendor by three letters: "SIE bone 0.5x"."""
    vendor, _, rest = scanner.partition(" ")
    return f"{vendor[:3]} {rest}"


def _policy(policy: object) -> str:
    if not isinstance(policy, Mapping):
        return ""
    every = policy.get("every")
    return f"{policy.get('use', '')}" + (f" every {every}" if every else "")


def _split(left: Text, right: Text, width: int) -> Text:
    """One line: `left` and `right` at the two ends; `left` gives way."""
    left = left.copy()
    left.truncate(max(0, width - right.cell_len - 2), overflow="ellipsis")
    gap = max(1, width - left.cell_len - right.cell_len - 1)
    line = Text.assemble(left, " " * gap, right)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
