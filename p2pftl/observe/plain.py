"""What is said where there is no terminal: one ASCII line per round of the whole swarm, and one per incident."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

from p2pftl import events as fact
from p2pftl.events import Event
from p2pftl.observe.board import Board, Note
from p2pftl.observe.units import clock, figure, seconds, size, some

OUT_OF_ORDER = {  # what of a scanner's life is worth a word each round
    "warn": "in doubt", "quarantined": "quarantined", "maintenance": "in maintenance", "verifying": "being verified", "offline": "offline",
}  # fmt: skip
MARK = {"bad": "!!", "warn": "! ", "good": "+ ", "info": "  "}


class View(Protocol):
    """A sink that a person looks at. Live, Plain and Quiet are its three forms."""

    def __call__(self, event: Event) -> None: ...

    def status(self, text: str) -> None:
        """Say what is waited for, before the first event or between two runs."""
        ...

    def progress(self, what: str, done: int, of: int) -> None:
        """Say how far something else is that goes on meanwhile, until done == of."""
        ...

    def dashboard(self, url: str) -> None:
        """Say where the Ray dashboard is."""
        ...

    def __enter__(self) -> View: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Plain:
    """Lines on `stream`."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self.board = Board()
        self._stream = stream or sys.stdout
        self._now = now
        self._start = now()
        self._told = 0
        self._noted = 0
        self._held: Note | None = None
        self._status = ""
        self._quarter = 0

    def __call__(self, event: Event) -> None:
        board = self.board
        board.feed(event)
        if isinstance(event, fact.RunPlanned):
            self._say(opening(board))
            return
        if board.noted != self._noted:
            self._release()
            self._noted, self._held = board.noted, board.notes[-1]
            if not self._held.kind:
                self._release()
        elif self._held is not None and board.notes:
            self._held = board.notes[-1]
        if isinstance(event, fact.RoundDone | fact.TwinDone | fact.TwinLost):
            self._round()
        elif isinstance(event, fact.RunFinished):
            self._release()
            self._say(closing(board))

    def status(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self._say(text)

    def progress(self, what: str, done: int, of: int) -> None:
        quarter = 4 * done // of if of else 4
        if quarter > self._quarter:
            self._quarter = quarter
            self._say(f"{what} {done}/{of}")

    def dashboard(self, url: str) -> None:
        self._say(f"dashboard {url}")

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def _round(self) -> None:
        reached = self.board.mean_round
        if reached > self._told:
            self._told = reached
            self._release()
            self._say(f"[{seconds(self.board.now):>9}] {standing(self.board)} (wall {clock(self._now() - self._start)})")

    def _release(self) -> None:
        """Say the note that was held back to see how often it comes."""
        note, self._held = self._held, None
        if note is not None:
            self._say(f"[{seconds(note.t):>9}] {MARK[note.tone]}{counted(note)}")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Quiet:
    """Nothing but what was really lost, on `stream` (standard error)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.board = Board()
        self._stream = stream or sys.stderr

    def __call__(self, event: Event) -> None:
        self.board.feed(event)
        if isinstance(event, fact.TwinLost) or (isinstance(event, fact.Crashed) and not event.scripted):
            print(self.board.notes[-1].text, file=self._stream, flush=True)

    def status(self, text: str) -> None:
        """Say nothing."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Say nothing."""

    def dashboard(self, url: str) -> None:
        """Say nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to give back."""


def opening(board: Board) -> str:
    """What is about to run, in one line."""
    plan = board.plan
    if plan is None:
        return "a run whose plan is not known"
    kind = plan.facts.get("topology", {}).get("kind", "")
    words = [
        f"{plan.name}: {some(len(board.rows), 'twin')}" + (f" on {kind}" if kind else ""),
        some(plan.rounds, "round"),
        *(["with a cloud"] if board.cloud is not None else []),
        *(["without exchange"] if plan.facts.get("exchange") is False else []),
        f"seed {plan.seed}",
        *(["synthetic data"] if plan.synthetic else []),
    ]
    return ", ".join(words)


def standing(board: Board) -> str:
    """How the swarm stands after a round: "round 3/12: accuracy 0.61 (0.48 to 0.70, test), loss 0.91, 3.2 MB sent"."""
    words = []
    spread = board.spread(board.split)
    if spread is not None:
        words.append(f"{board.lead.name} {figure(spread[0])} ({figure(spread[1])} to {figure(spread[2])}, {board.split})")
    loss = board.mean_loss()
    if loss is not None:
        words.append(f"loss {figure(loss)}")
    words.append(f"{size(board.bytes)} sent")
    if board.lost:
        words.append(f"{board.lost} lost")
    if board.refused:
        words.append(f"{board.refused} refused")
    if board.tally.refused:
        words.append(f"{board.tally.refused} kept out by the gate")
    if board.fleet.arrived:
        words.append(f"{board.fleet.arrived:,} new images")
    words += _scanners(board)
    return f"round {board.mean_round}/{board.rounds}: " + ", ".join(words)


def _scanners(board: Board) -> list[str]:
    """How many scanners are not as they should be, by what they are."""
    lives = Counter(scanner.lifecycle for scanner in board.fleet.scanners.values())
    return [f"{lives[life]} {said}" for life, said in OUT_OF_ORDER.items() if lives[life]]


def closing(board: Board) -> str:
    """How it ended, in one line."""
    ending = {"done": "done", "degraded": "done, but something was lost", "interrupted": "interrupted"}.get(board.status, board.status)
    return f"{ending} at {seconds(board.now)} virtual: {standing(board)}"


def counted(note: Note) -> str:
    """A note and how often it came."""
    return note.text if note.count == 1 else f"{note.text} ({note.count} times)"
