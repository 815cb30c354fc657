"""Ctrl-C, SIGTERM and a closed terminal: a run ends at a place of its own choosing, never half-way through a record."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
GRACE = 3.0  # seconds that tidying up after one signal is left alone by the next


@contextmanager
def unheard() -> Iterator[None]:
    """Let signals wait; threads that are started meanwhile (numpy's, a screen's) never take one, which leaves all to this thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Interrupts:
    """The signals that end a run, from `with` to its end; does nothing outside the main thread.

    Within `open()` a signal raises KeyboardInterrupt at once, elsewhere it is noted and the next `open()` raises it.
    Once raised, what follows is tidying up, and is left alone for GRACE seconds. came: the signals so far.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._before: dict[signal.Signals, Any] = {}
        self._open = False
        self._over = False
        self._calm_until = 0.0

    def afresh(self) -> None:
        """A second run follows one that was tidied up."""
        self._over, self._calm_until = False, 0.0

    @property
    def code(self) -> int:
        """Exit code of a run that was interrupted: 128 + number of the first signal, 0 if none came."""
        return 128 + self.came[0] if self.came else 0

    def install(self) -> None:
        """Answer signals. `nohup` stays what it is."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number != signal.SIGINT and before is signal.SIG_IGN:
                continue
            self._before.setdefault(number, before)
            signal.signal(number, self._answer)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let a signal end what happens here."""
        self._open = True
        try:
            self._raise_due()
            yield
            self._raise_due()  # what happened here may have swallowed it
        except KeyboardInterrupt:
            self._over = True
            raise
        finally:
            self._open = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let signals wait outside the process while Ray starts, then take them: raises KeyboardInterrupt.

        Meanwhile Ray puts answers of its own in place of ours, in Python and in C++; an interruption there is lost, or aborts
        the process at its end. Children must not inherit the hold, for they end by SIGTERM; and they leave the terminal's
        process group, so that Ctrl-C reaches nobody but us.
        """
        held = [True]

        def on_its_own() -> None:
            if held:
                os.setpgid(0, 0)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

        os.register_at_fork(after_in_child=on_its_own)
        try:
            with unheard():
                try:
                    yield
                finally:
                    held.clear()
                    self.install()
            self._raise_due()
        except KeyboardInterrupt:
            self._over = True
            raise

    def patiently(self, act: Callable[[], None]) -> None:
        """Do `act`, which finishes by force when it is called again: a signal later than GRACE seconds makes it hurry."""
        self._calm_until, self._over = time.monotonic() + GRACE, True
        try:
            with self.open():
                act()
        except KeyboardInterrupt:
            act()

    def _raise_due(self) -> None:
        if self.came and not self._over:
            raise KeyboardInterrupt

    def _answer(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)
        if self._open and time.monotonic() >= self._calm_until:
            self._calm_until = time.monotonic() + GRACE
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
