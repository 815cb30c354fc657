"""The device logs of a run: `twins/NAME.device.jsonl`, what each twin's scanner went through, for `p2pftl twin`.

A line is what DeviceLog.lines writes, so that `p2pftl twin verify` holds it against the same chain of hashes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pftl.device.show import SUFFIX
from p2pftl.errors import CheckpointError
from p2pftl.events import DeviceLogged, Event

FOLDER = "twins"


class DeviceLogs:
    """Sink that appends new entries to the log of their twin in `folder`; a revived twin tells some again, which are skipped.

    Raises CheckpointError E502 when entries are missing in between, E509 when the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, DeviceLogged):
            return
        known = self.written.get(event.twin, 0)
        fresh = [entry for entry in event.entries if entry["n"] >= known]
        if [entry["n"] for entry in fresh] != list(range(known, known + len(fresh))):
            raise CheckpointError("E502", f"entry {known} of the device log never came", where=f"{event.twin}{SUFFIX}")
        self._append(event.twin, b"".join(map(line, fresh)))
        self.written[event.twin] = known + len(fresh)

    def close(self) -> None:
        """Make what was written last: once, at the end of a run. Raises CheckpointError E509."""
        for twin in sorted(self.written):
            try:
                with self._path(twin).open("ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise self._refused(twin, error) from error

    def _append(self, twin: str, lines: bytes) -> None:
        if not lines:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._path(twin).open("ab") as file:
                file.write(lines)
        except OSError as error:
            raise self._refused(twin, error) from error

    def _path(self, twin: str) -> Path:
        return self.folder / f"{twin}{SUFFIX}"

    def _refused(self, twin: str, error: OSError) -> CheckpointError:
        return CheckpointError(
            "E509", f"the device log cannot be written (errno {error.errno})", where=f"{twin}{SUFFIX}", fix="free some space"
        )


def line(entry: Mapping[str, Any]) -> bytes:
    """An entry as it stands in the file: one spelling only, as device/log has it."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode() + b"\n"
