"""The report of a run: one HTML file that needs no network, a page per scanner beside it where twins have one, and a short text."""

from __future__ import annotations

import json
import os
import re
from importlib.resources import files
from pathlib import Path

from p2pftl.device.troubles import KINDS
from p2pftl.errors import CheckpointError
from p2pftl.observe import beside, confusion, ledger, logbook, pages, record, scanners, sections, story, summary, traffic
from p2pftl.observe.history import History, fold
from p2pftl.observe.markup import tag, words
from p2pftl.observe.pages import Subject
from p2pftl.observe.sections import Told
from p2pftl.observe.summary import Document

FILE = "report.html"
SOURCE = "source"  # folder of the run of a source task
KEYS = frozenset({
    "name", "seed", "digest", "executor", "rounds", "virtual_seconds", "wall_seconds",
    "bytes_sent", "frames", "degraded", "status", "twins", "mean",
})  # fmt: skip
# No script, no font, no picture from elsewhere: the browser is told so, whatever a run's names may contain.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write(run: Path) -> Path:
    """Build report.html of the run folder `run` and return its path; twins/<twin>.html for twins that have a device.

    Reads events.msgpack, summary.json (worked out anew when absent), previews/<twin>.png, previews/<twin>-<incident>.png and
    control/events.msgpack if there are any.
    Raises CheckpointError E501 or E505 when the events cannot be read, E510 when the report cannot be written.
    """
    told = _told(run)
    named = scanners.chosen(told)
    parts = (
        sections.headline(told),
        sections.learning(told),
        sections.network(told),
        ledger.exchanges(told),
        sections.incidents(told),
        scanners.section(told, named),
        beside.section(told, named),
        traffic.frames(told),
        confusion.confusions(told),
        sections.twins(told),
        sections.slices(told),
        sections.again(told),
    )
    target = run / FILE
    title = told.document["name"] or "run"
    try:
        for name in named:
            page = pages.body(Subject(told, name), _pictures(run, told, name))
            _put(run / logbook.FOLDER / f"{name}.html", _page(f"{name}, {title}", page))
        _put(target, _page(title, "\n".join(parts)))
    except OSError as error:
        raise CheckpointError(
            "E510", "the report cannot be written", where=str(target), fix="is the folder yours and the disk not full?"
        ) from error
    return target


def _pictures(run: Path, told: Told, name: str) -> list[tuple[str, Path]]:
    """What there is to see of a twin: a slice of each class at the start, and slices before and after each incident."""
    files = [("at the start, one slice of each class", run / "previews" / f"{name}.png")]
    wanted = re.compile(rf"{re.escape(name)}-({'|'.join(sorted(KINDS))})(-\d+)?\.png")
    beside = [file for file in sorted((run / "previews").glob(f"{name}-*.png")) if file.stem not in told.history.board.rows]
    found = [(match, file) for file in beside if (match := wanted.fullmatch(file.name))]
    files += [(f"{match[1].replace('_', ' ')}{match[2] or ''}: before and after, and what changed", file) for match, file in found]
    files.append(("at the end: findings in green, as many surest detections in orange", run / "previews" / f"{name}-found.png"))
    return [(what, file) for what, file in files if file.is_file()]


def _put(target: Path, text: str) -> None:
    """Write so that a reader finds the old file or the new one."""
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f"{target.name}.tmp.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)


def markdown(run: Path) -> str:
    """The run in a page of Markdown. Raises CheckpointError E501 or E505."""
    told = _told(run)
    return story.markdown(told.document, told.history)


def _told(run: Path) -> Told:
    history = fold(record.read(run / record.FILE))
    other = run / "control" / record.FILE
    control = fold(record.read(other)) if other.is_file() else None
    previews = [(name, file) for name in history.board.rows if (file := _preview(run, name)).is_file()]
    return Told(_document(run, history, control), history, control, history.rank(), previews, _source(run))


def _source(run: Path) -> str:
    """Where the report of the source task is, if it was run here."""
    place = f"{SOURCE}/{FILE}"
    return place if (run / place).is_file() else ""


def _preview(run: Path, name: str) -> Path:
    """What a twin's detector found at the end, or what the twin began with."""
    found = run / "previews" / f"{name}-found.png"
    return found if found.is_file() else run / "previews" / f"{name}.png"


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
        tag("title", words(f"{name}: p2pftl report")),
        tag("style", style),
    )
    return "<!doctype html>\n" + tag("html", tag("head", *head), tag("body", tag("main", body)), lang="en") + "\n"
