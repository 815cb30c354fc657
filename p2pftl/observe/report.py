"""The report of a run: one HTML file that needs no network, and a short text."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path

from p2pftl.errors import CheckpointError
from p2pftl.observe import record, sections, story, summary, traffic
from p2pftl.observe.history import History, fold
from p2pftl.observe.markup import tag, words
from p2pftl.observe.sections import Told
from p2pftl.observe.summary import Document

FILE = "report.html"
KEYS = frozenset({
    "name", "seed", "digest", "executor", "rounds", "virtual_seconds", "wall_seconds",
    "bytes_sent", "frames", "degraded", "status", "twins", "mean",
})  # fmt: skip
# No script, no font, no picture from elsewhere: the browser is told so, whatever a run's names may contain.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write(run: Path) -> Path:
    """Build report.html of the run folder `run` and return its path.

    Reads events.msgpack, summary.json (worked out anew when absent), previews/<twin>.png and control/events.msgpack if there are any.
    Raises CheckpointError E501 or E505 when the events cannot be read, E510 when the report cannot be written.
    """
    told = _told(run)
    parts = (
        sections.headline(told),
        sections.learning(told),
        sections.network(told),
        sections.incidents(told),
        traffic.frames(told),
        sections.confusions(told),
        sections.twins(told),
        sections.slices(told),
        sections.again(told),
    )
    target = run / FILE
    partial = target.with_name(f"{FILE}.tmp.{os.getpid()}")
    try:
        partial.write_text(_page(told.document["name"], "\n".join(parts)), encoding="utf-8")
        partial.replace(target)
    except OSError as error:
        raise CheckpointError(
            "E510", "the report cannot be written", where=str(target), fix="is the folder yours and the disk not full?"
        ) from error
    return target


def markdown(run: Path) -> str:
    """The run in a page of Markdown. Raises CheckpointError E501 or E505."""
    told = _told(run)
    return story.markdown(told.document, told.history)


def _told(run: Path) -> Told:
    history = fold(record.read(run / record.FILE))
    other = run / "control" / record.FILE
    control = fold(record.read(other)) if other.is_file() else None
    named = {name: run / "previews" / f"{name}.png" for name in history.board.rows}
    previews = [(name, file) for name, file in named.items() if file.is_file()]
    return Told(_document(run, history, control), history, control, history.rank(), previews)


def _document(run: Path, history: History, control: History | None) -> Document:
    """summary.json as it is, or worked out from the events where a run was killed before it could write it."""
    try:
        found: Document = json.loads((run / summary.FILE).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.keys() >= KEYS:
            return found
    except (OSError, ValueError):
        pass
    mine, other = summary.Summary(history.board), summary.Summary(control.board) if control else None
    digest = record.digest(event for _, event in record.read(run / record.FILE))
    return mine.document(digest=digest, executor="", wall_seconds=history.wall, control=other)


def _page(name: str, body: str) -> str:
    style = files("p2pftl.observe").joinpath("report.css").read_text(encoding="utf-8")
    head = (
        tag("meta", charset="utf-8"),
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", words(f"{name or 'run'}: p2pftl report")),
        tag("style", style),
    )
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", tag("main", body)), lang="en") + "\n"
