"""No more processes of a machine compute at a time than it has cores: each works to its end instead of sharing caches with the others.

Eight actors that fit at once on two cores take a fifth longer than eight that take turns. A turn is a lock on a file, which the
system gives back when its holder dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

SOON, LATE = 0.001, 0.01  # seconds between two looks at whose turn it is, at first and after a while


class Turns:
    """Turns of the processes that name the same folder. places: so many at a time, 0 for as many as come."""

    def __init__(self, folder: Path, places: int) -> None:
        self._places: list[int] = []  # open as long as this process lives
        with contextlib.suppress(OSError):  # another user's folder: then nobody waits
            self._gate = os.open(folder / "turn", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
            self._places = [os.open(folder / f"turn-{place}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC) for place in range(places)]

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a place and hold it within this block. Blocks do not nest."""
        if not self._places:
            yield
            return
        fcntl.flock(self._gate, fcntl.LOCK_EX)  # the others queue here, and one looks for a place
        try:
            place = self._found()
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(place, fcntl.LOCK_UN)

    def _found(self) -> int:
        pause = SOON
        while True:
            for place in self._places:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return place
            time.sleep(pause)
            pause = min(LATE, pause * 1.05)
