"""The run folder: checked before anything is computed, filled once the run is planned, gone if it never was."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from p2pftl.device.ledger import FILE as LEDGER
from p2pftl.errors import UsageError
from p2pftl.observe import logbook, record, report, summary

SCENARIO, STATE, MODELS, PREVIEWS, CONTROL, TWINS = "scenario.yaml", "state", "models", "previews", "control", logbook.FOLDER
SOURCE, START = report.SOURCE, "start"
FILES = (SCENARIO, record.FILE, summary.FILE, report.FILE)
FOLDERS = (STATE, MODELS, PREVIEWS, CONTROL, TWINS, SOURCE, START)


class RunFolder:
    """`path`, or runs/NAME-TIME; an earlier run there is written over by `force`, anything else never.

    Raises UsageError E601 when the place is taken, E510 when it cannot be written.
    """

    def __init__(self, path: Path | None, name: str, *, force: bool) -> None:
        self.path = path or _fresh(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        self._made: list[Path] = []
        self._filled = False
        self._check_free(force)
        try:
            self._make()
        except OSError as error:
            self.discard()
            raise UsageError(
                "E510", f"cannot be written (errno {error.errno})", where=str(self.path), fix="choose another --out"
            ) from error

    def fill(self, scenario: str) -> None:
        """Begin: put the resolved `scenario` where an earlier run may have been. Raises UsageError E510."""
        try:
            if not self._filled:
                self._clear()
            self._filled = True
            (self.path / SCENARIO).write_text(scenario, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                "E510", f"cannot be written (errno {error.errno})", where=str(self.path), fix="choose another --out"
            ) from error

    def settle(self) -> None:
        """Remove what only a run in progress needs, and a control run that came to nothing."""
        control = self.path / CONTROL
        for folder in (self.path / STATE, control / STATE if (control / record.FILE).exists() else control):
            shutil.rmtree(folder, ignore_errors=True)

    def discard(self) -> None:
        """Leave nothing of a run that did not begin: whoever mends its scenario can give the same --out again."""
        if self._filled:
            self._clear()
        for folder in reversed(self._made):
            if any(folder.iterdir()):
                return
            folder.rmdir()

    def _check_free(self, force: bool) -> None:
        where, fix = str(self.path), "choose another --out"
        try:
            if not self.path.exists():
                return
            if not self.path.is_dir():
                raise UsageError("E601", "is a file, a run needs a folder", where=where, fix=fix)
            held = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise self._refused("read", error) from error
        if held and not force:
            raise UsageError("E601", "is not empty", where=where, fix=f"{fix}, or --force to write over an earlier run")
        strange = sorted(held & {*FILES, *FOLDERS})
        if (self.path / TWINS / LEDGER).exists():
            raise UsageError("E601", f"holds {TWINS} of real scanners, which no run writes over", where=where, fix=fix)
        if strange and record.FILE not in held and not (self.path / SOURCE / record.FILE).exists():
            raise UsageError("E601", f"holds {strange[0]}, but no run that could be written over", where=where, fix=fix)

    def _refused(self, what: str, error: OSError) -> UsageError:
        return UsageError("E510", f"cannot be {what} (errno {error.errno})", where=str(self.path), fix="choose another --out")

    def _make(self) -> None:
        for folder in reversed([self.path, *self.path.parents]):
            if not folder.is_dir():
                folder.mkdir()
                self._made.append(folder)
        with tempfile.TemporaryFile(dir=self.path):
            """It can be written."""

    def _clear(self) -> None:
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)


def _fresh(folder: Path) -> Path:
    """The folder itself, or the first of folder-2, folder-3 ... that does not exist."""
    number, fresh = 1, folder
    while fresh.exists():
        number += 1
        fresh = folder.with_name(f"{folder.name}-{number}")
    return fresh
