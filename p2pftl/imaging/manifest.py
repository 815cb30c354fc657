"""A table of studies: `file,label[,patient][,split][,scanner]`, one line per image."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pftl.errors import DataError, nearest
from p2pftl.imaging.files import natural, refusal, regular

SIZE_CAP = 64 * 2**20  # bytes
TEXT_CAP = 200  # characters of a label, patient or scanner

_SPLITS = {"": "", "train": "train", "training": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}


@dataclass(frozen=True)
class Row:
    """One line of a manifest. patient, split, scanner are "" where the table has no such column."""

    where: str
    file: Path
    label: str
    patient: str = field(default="", repr=False)
    split: str = ""
    scanner: str = ""


def read_manifest(manifest: str, root: str | None) -> list[Row]:
    """Read the table; `file` counts from `root`, or from the table's own folder.

    UTF-8 with or without BOM, LF or CRLF, other columns are ignored. Raises DataError E301, E307, E308 for the table
    itself, E333 for a missing label, E334 for anything else wrong in it; `where` is file:line.
    """
    path = Path(manifest).expanduser()
    if regular(path, manifest) > SIZE_CAP:
        raise DataError("E334", f"is larger than {SIZE_CAP >> 20} MB", where=manifest)
    folder = Path(root).expanduser() if root else path.parent
    rows: list[Row] = []
    first: dict[Path, str] = {}
    for number, cells in _table(_text(path, manifest), manifest):
        row = _row(cells, f"{manifest}:{number}", folder)
        if row.file in first:
            raise DataError("E334", f"this file already stands in line {first[row.file]}", where=row.where, fix="keep one of the lines")
        first[row.file] = str(number)
        rows.append(row)
    if not rows:
        raise DataError("E334", "lists no file", where=manifest, fix="add lines below file,label")
    for column in ("patient", "scanner"):
        empty = [row.where for row in rows if not getattr(row, column)]
        if empty and len(empty) < len(rows):
            raise DataError(
                "E334", f"{column} is empty here but not elsewhere", where=empty[0], fix=f"fill {column} in every line or in none"
            )
    return rows


def class_numbers(
    names: Sequence[str], wanted: Sequence[str] | None, places: Sequence[str], root: str
) -> tuple[tuple[str, ...], list[int]]:
    """Return (class names, label number per image): numbers in numeric order, names in natural order, or as `wanted`.

    Raises DataError E302 (fewer than two classes) or E333 (a label outside `wanted`).
    """
    classes = tuple(wanted) if wanted else tuple(sorted(set(names), key=natural))
    if len(classes) < 2 or len(set(names)) < 2:
        raise DataError("E302", f"{len(set(names))} class(es) with images; at least 2 are needed", where=root, fix="add a class")
    number = {name: i for i, name in enumerate(classes)}
    for name, where in zip(names, places, strict=True):
        if name not in number:
            raise DataError("E333", "label is not one of the named classes", where=where, fix=nearest(name, classes))
    return classes, [number[name] for name in names]


def opaque(keys: Sequence[str]) -> list[str]:
    """Return p0001, p0002, ... for the distinct `keys` in natural order; the keys themselves stay behind."""
    ranked = {key: f"p{i:04d}" for i, key in enumerate(sorted(set(keys), key=natural), 1)}
    return [ranked[key] for key in keys]


def _text(path: Path, manifest: str) -> str:
    problem: DataError | None = None
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as failure:
        problem = refusal(failure, manifest)
    except UnicodeDecodeError as failure:
        problem = DataError("E334", f"is not UTF-8 (byte {failure.start})", where=manifest, fix="save the table as CSV UTF-8")
    raise problem


def _table(text: str, manifest: str) -> list[tuple[int, dict[str, str]]]:
    if "\0" in text:
        raise DataError("E334", "holds NUL bytes", where=manifest, fix="save the table as CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""))
    lines: list[tuple[int, list[str]]] = []
    broken = False
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    except csv.Error:
        broken = True
    if broken:
        raise DataError("E334", "is not well-formed CSV", where=f"{manifest}:{reader.line_num}", fix="check the quotes")
    head = [name.lower() for name in lines[0][1]] if lines else []
    for column in ("file", "label"):
        if column not in head:
            raise DataError(
                "E334", f"has no column {column}", where=f"{manifest}:1", fix="first line: file,label[,patient][,split][,scanner]"
            )
    doubled = [name for name, n in Counter(head).items() if n > 1 and name]
    if doubled:
        raise DataError("E334", "names a column twice", where=f"{manifest}:1", fix="keep one of them")
    for number, cells in lines[1:]:
        if len(cells) != len(head):
            raise DataError("E334", f"has {len(cells)} cells, the first line {len(head)}", where=f"{manifest}:{number}", fix="quote commas")
    return [(number, dict(zip(head, cells, strict=True))) for number, cells in lines[1:]]


def _row(cells: dict[str, str], where: str, folder: Path) -> Row:
    if not cells["file"]:
        raise DataError("E334", "file is empty", where=where, fix="name an image")
    if not cells["label"]:
        raise DataError("E333", "label is empty", where=where, fix="name a class or delete the line")
    split = _SPLITS.get(cells.get("split", "").lower())
    if split is None:
        raise DataError("E334", "split is none of train, val, test", where=where, fix="write train, val, test or nothing")
    if any(len(cells.get(column, "")) > TEXT_CAP for column in ("label", "patient", "scanner")):
        raise DataError("E334", f"label, patient or scanner has more than {TEXT_CAP} characters", where=where)
    file = Path(os.path.normpath(folder / cells["file"]))
    if not file.is_relative_to(os.path.normpath(folder)):
        raise DataError(
            "E334", "file lies outside the data folder", where=where, fix="paths count from data.path, or from the table's folder"
        )
    return Row(where, file, cells["label"], cells.get("patient", ""), split, cells.get("scanner", ""))
