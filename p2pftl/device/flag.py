"""The maintenance flag: what a model that got worse asks of the people at its scanner. It never stops a scanner.

quality falls below its own best, twice in a row -> flag, and a phantom the same day
a phantom passes, that one or a later one        -> cleared: it is not the scanner, look at the images or at the model
quality is back                                  -> cleared
the phantom fails                                -> its verdict decides as on any other day; the flag stays until one passes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it brings torch
    from p2pftl.device.life import Device

TWICE = 2  # evaluations in a row: one alone is scatter
SAME_DAY = 0.125  # of a device day, from the flag to the phantom that it asks for: three hours
TOLD_BY = {"map_50": "mAP@0.5", "accuracy": "accuracy"}  # of a detector, of a classifier; the first that was scored counts


@dataclass(frozen=True)
class Notice:
    """What evaluations had to say at virtual time `t`: a fall to `value` from `best`, or, with `back`, that there is none any more."""

    t: float
    metric: str
    value: float
    best: float
    back: bool = False

    @property
    def text(self) -> str:
        name = TOLD_BY[self.metric]
        if self.back:
            return f"validation {name} is back at {self.value:.2f}"
        return f"validation {name} fell from {self.best:.2f} to {self.value:.2f}"


@dataclass
class Flag:
    """Evaluations of one model, and what its device's log is told of them at the time when it happened.

    drop: how far below its best a model may be, 0 switches all of this off; notices: all that evaluations had to say; heeded: so many
    of them are in the log; look: when the phantom is due that the flag asks for, virtual s; best: since the flag was cleared by a
    phantom; below: evaluations in a row too far below it; fallen: a fall was noticed and is not over.
    """

    drop: float
    notices: list[Notice] = field(default_factory=list)
    heeded: int = 0
    look: float = math.inf
    best: float | None = None
    below: int = 0
    fallen: bool = False

    def scored(self, metrics: Mapping[str, Any], t: float) -> None:
        """Take notice of an evaluation at virtual time `t`, the last so far."""
        metric = next((name for name in TOLD_BY if metrics.get(name) is not None), None)
        if metric is None or not self.drop:
            return
        value = float(metrics[metric])
        self.best = value if self.best is None else max(self.best, value)
        self.below = self.below + 1 if value < self.best - self.drop else 0
        if self.fallen != (self.below >= TWICE) and (self.below == 0 or not self.fallen):
            self.fallen = not self.fallen
            self.notices.append(Notice(t, metric, value, self.best, back=not self.fallen))

    @property
    def due(self) -> float:
        """When `act` comes next, virtual s."""
        coming = self.notices[self.heeded].t if self.heeded < len(self.notices) else math.inf
        return min(coming, self.look)

    def act(self, device: Device) -> None:
        """Do what is due: record that the flag is raised or cleared, or scan the phantom that it asks for."""
        at = self.due
        device.advance(at)
        if at == self.look:
            self.look = math.inf
            device.recheck(at)
            self.passed(device, at)
            return
        notice = self.notices[self.heeded]
        self.heeded += 1
        if not notice.back:
            _record(device, at, up=True, text=notice.text, notice=notice)
            self.look = at + SAME_DAY * device.rules.day_s
        elif raised(device):
            self._clear(device, at, notice.text)

    def passed(self, device: Device, t: float) -> None:
        """After a phantom: clear the flag if it passed. The model is then measured against itself as it is now."""
        if raised(device) and device.log.state.get("qa.status") == "pass":
            self._clear(device, t, "the phantom passes")
            self.best, self.below, self.fallen = None, 0, False

    def memory(self) -> dict[str, Any]:
        """What a later incarnation needs: plain values."""
        notices = [(one.t, one.metric, one.value, one.best, one.back) for one in self.notices]
        return {"notices": notices, "heeded": self.heeded, "best": self.best, "below": self.below, "fallen": self.fallen}

    def foretold(self, memory: Mapping[str, Any]) -> None:
        """Begin anew with the notices of `memory` that are in the log, to live through them again; one of its last moment may not be."""
        self.notices = [Notice(*one) for one in memory["notices"][: memory["heeded"]]]

    def resume(self, memory: Mapping[str, Any]) -> None:
        """Go on from `memory`, which was lived through again."""
        self.notices = [Notice(*one) for one in memory["notices"]]
        self.best, self.below, self.fallen = memory["best"], memory["below"], memory["fallen"]

    def _clear(self, device: Device, t: float, why: str) -> None:
        self.look = math.inf
        _record(device, t, up=False, text=why)


def raised(device: Device) -> str:
    """Why the flag of a device is up, "" if it is not."""
    return str(device.log.state.get("maintenance.flag", ""))


def _record(device: Device, t: float, *, up: bool, text: str, notice: Notice | None = None) -> None:
    figures = {"metric": notice.metric, "value": notice.value, "best": notice.best} if notice else {}
    device.log.record("model_flag", t + device.skew, "log", {"up": up, "text": text, **figures})
