"""Saved states on disk: a file is complete and hash-valid, or it does not exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2pftl.errors import CheckpointError


@dataclass(frozen=True)
class Vault:
    """One file per participant below `folder`, written aside and renamed, so that a kill never leaves half of one.

    every: save each so many completed rounds (the start counts as one).
    """

    folder: Path
    every: int = 1

    def save(self, name: str, state: bytes | memoryview) -> None:
        """Keep `state` as the newest of `name`. Raises CheckpointError E509 when the disk refuses."""
        target = self._file(name)
        with self._disk(name):
            target.parent.mkdir(parents=True, exist_ok=True)
            aside = target.with_suffix(f".{os.getpid()}.tmp")
            aside.write_bytes(state)
            os.replace(aside, target)

    def load(self, name: str) -> bytes:
        """Return the newest state of `name`. Raises CheckpointError E501 if there is none that can be read."""
        try:
            return self._file(name).read_bytes()
        except OSError as error:
            raise CheckpointError("E501", f"no saved state of {name} (errno {error.errno})") from None

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.state"

    @contextmanager
    def _disk(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                "E509", f"the state of {name} cannot be written (errno {error.errno})", fix="free some disk space or choose another --out"
            ) from error
