"""Files of a study folder: found without following traps, named without names, compared by content."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Catalogue


@dataclass(frozen=True)
class Finding:
    """Something a reader let pass but a person should know: code, what, how often. Holds no header text."""

    code: str
    problem: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.code} {self.problem}" + (f" ({self.count} times)" if self.count > 1 else "")


@dataclass(frozen=True)
class Survey:
    """A catalogue and what was noticed while making it."""

    catalogue: Catalogue
    findings: tuple[Finding, ...]


def place(root: str | Path, number: int, of: int) -> str:
    """Name a file by its rank in natural path order: file names can hold a patient's name."""
    return f"{root}: file {number} of {of} (sorted by path)"


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which "case 2" precedes "case 10"."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


def walk(root: str | Path) -> list[Path]:
    """Return every regular file below `root` in natural path order, hidden ones left out.

    Links are followed. Raises DataError E301 (no such folder), E307 (not permitted), E308 (a link loop, pipe or device).
    """
    folder = Path(root).expanduser()
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise DataError("E301", "is not a folder", where=str(root), fix="give the folder that holds the files")
    except OSError as failure:
        problem = refusal(failure, str(root))
    else:
        return sorted(_below(folder, str(root), set()), key=lambda path: natural(str(path.relative_to(folder))))
    raise problem


def _below(folder: Path, root: str, seen: set[tuple[int, int]]) -> Iterator[Path]:
    problem: DataError | None = None
    entries: list[os.DirEntry[str]] = []
    try:
        about = folder.stat()
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not entry.name.startswith((".", "__MACOSX"))]
        kinds = [entry.stat().st_mode for entry in entries]
    except OSError as failure:
        problem = refusal(failure, root)
    if problem:
        raise problem
    if (about.st_dev, about.st_ino) in seen:
        raise DataError("E308", "one folder is reached twice, through a link", where=root, fix="remove the link")
    seen.add((about.st_dev, about.st_ino))
    for entry, mode in zip(entries, kinds, strict=True):
        if stat.S_ISDIR(mode):
            yield from _below(Path(entry.path), root, seen)
        elif stat.S_ISREG(mode):
            yield Path(entry.path)
        else:
            raise DataError("E308", "holds a pipe, socket or device; only files are read", where=root, fix="remove it")


def regular(path: Path, where: str) -> int:
    """Return the size of a regular file in bytes. Raises DataError E301, E307 or E308, so that opening it cannot hang."""
    try:
        about = path.stat()
    except OSError as failure:
        problem = refusal(failure, where)
    else:
        if stat.S_ISREG(about.st_mode):
            return about.st_size
        problem = DataError("E308", "is not a regular file", where=where, fix="give a file")
    raise problem


def refusal(failure: OSError, where: str) -> DataError:
    """Translate what the operating system said, without its text: that holds the path."""
    if isinstance(failure, FileNotFoundError | NotADirectoryError):
        return DataError("E301", "no such file or folder", where=where, fix="paths count from the scenario file")
    if isinstance(failure, PermissionError):
        return DataError("E307", "may not be read", where=where, fix="give this user read permission")
    if failure.errno == errno.ELOOP:
        return DataError("E308", "a link leads to itself", where=where, fix="remove the link")
    name = errno.errorcode.get(failure.errno or 0, "unknown reason")
    return DataError("E307", f"cannot be read ({name})", where=where)


def same_content(paths: Sequence[Path]) -> list[list[int]]:
    """Return groups (>= 2) of indices of byte-identical files; only files of equal size are read.

    Raises OSError when one of them vanished meanwhile.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for i, path in enumerate(paths):
        by_size[path.stat().st_size].append(i)
    by_hash: dict[bytes, list[int]] = defaultdict(list)
    for alike in by_size.values():
        for i in alike if len(alike) > 1 else ():
            with paths[i].open("rb") as file:
                by_hash[hashlib.file_digest(file, "sha256").digest()].append(i)
    return [group for group in by_hash.values() if len(group) > 1]


def left_out(codes: Sequence[str]) -> tuple[Finding, ...]:
    """One finding per code of the files that `broken: skip` left out."""
    return tuple(Finding(code, f"{n} file(s) left out", n) for code, n in sorted(Counter(codes).items()))


def squared(picture: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Return [size, size] float32 with antialiasing: the mean over whole blocks where they fit, else a triangle filter."""
    rows, columns = picture.shape
    if (rows, columns) == (size, size):
        return picture
    if rows % size == 0 and columns % size == 0:
        return np.asarray(Image.fromarray(picture).reduce((columns // size, rows // size)), np.float32)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR), np.float32)
