"""What goes wrong, said once: where, what was found, what is allowed, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class P2pftlError(Exception):
    """The only exception a user meets; printed as one line, exit code 2.

    `code` is the catalogue number ("E109"), `where` a place ("quickstart.yaml:12:3") or "",
    `problem` what was found and what is allowed, `fix` how to mend it.
    Never put a raw DICOM value, patient text or another exception's message into any of them.
    """

    def __init__(self, code: str, problem: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(code, problem)
        self.code = code
        self.problem = problem
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{self.code} {place}{self.problem}" + (f"; {self.fix}" if self.fix else "")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.problem, self.where, self.fix)


def _rebuild(kind: type[P2pftlError], code: str, problem: str, where: str, fix: str) -> P2pftlError:
    return kind(code, problem, where=where, fix=fix)


class ScenarioError(P2pftlError):
    """A scenario that cannot be run as written (E1xx)."""


class TopologyError(P2pftlError):
    """A graph that cannot carry the scenario (E2xx)."""


class DataError(P2pftlError):
    """A study, image or manifest that cannot be used (E3xx)."""


class FrameRefused(P2pftlError):
    """A frame that is not merged (E4xx); counted per sender, never fatal."""


class CheckpointError(P2pftlError):
    """A saved state that cannot be trusted (E5xx)."""


class UsageError(P2pftlError):
    """A command that cannot be carried out here (E6xx)."""


def nearest(found: str, allowed: Iterable[str]) -> str:
    """Say what `found` may have meant: "did you mean rounds?", else "allowed: a, b, c"."""
    options = sorted(set(allowed))
    matches = difflib.get_close_matches(found, options, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else "allowed: " + ", ".join(options)
