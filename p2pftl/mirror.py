"""The device behind a twin as its learning feels it: what it learns from, whether its update may go, what its peers are told.

    noted = mirror.advance(t, round)
    task.fit(vector, round, mirror.scene(), memory)
    frame = header(signs=mirror.signs) if not mirror.withheld else empty

Device days and arrivals are lived in the order of their times, the device day first. Peers get `signs` and nothing else;
events, with all of the device's log, stay with the run that the twin belongs to.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from p2pftl.device.coupling import Coupling
from p2pftl.device.flag import Flag, raised
from p2pftl.device.health import shared
from p2pftl.device.lifecycle import quarantined
from p2pftl.device.state import State
from p2pftl.errors import CheckpointError
from p2pftl.events import Adapting, DeviceChanged, DeviceLogged, Event, StudiesArrived, StudiesWithdrawn
from p2pftl.gossip.seams import Signs
from p2pftl.learning.task import Scene

if TYPE_CHECKING:  # they bring torch
    from p2pftl.device.life import Device
    from p2pftl.imaging.archive import Archive, Stock

HEALTH = ("calibration", "noise", "uniformity", "tube", "data_freshness")
REJOINED = 0.5
"""Quality at most, from a change until the model is as good as before it."""

PROTOCOL = ("noise", "noise texture", "sharpness", "slice thickness", "tube voltage")
"""What of a fingerprint a new kernel, software or protocol changes. Uniformity is not among them: that is a fault's mark."""
LEAST_MAD = (0.05, 0.01, 0.01, 0.05, 0.05)
"""Floors: half of three day-to-day standard deviations of ln noise, ten of the frequencies; 5 % of the thickness, 1 kV."""
STOPPED = -1  # rounds left of an adaptation that a fault of the device broke off: it begins anew once the device is sound
JUMP, USUAL, ENOUGH = 2.0, 20, 5  # MADs that are a jump; passing phantoms that say what is usual: at most, and at least


@dataclass
class Watch:
    """Tells a changed protocol from the scatter of days. usual: fingerprints of the last passing phantoms; doubt: the first one off."""

    usual: list[tuple[float, ...]] = field(default_factory=list)
    doubt: tuple[float, ...] = ()

    def seen(self, mark: tuple[float, ...], passes: bool) -> tuple[str, ...]:
        """Take one phantom; return what changed if it is the second in a row that is off, both having passed."""
        if not mark or not passes:
            self.doubt = ()
            return ()
        changed = self._changed(mark)
        if not changed:
            self.usual, self.doubt = [*self.usual, mark][-USUAL:], ()
            return ()
        if not self.doubt:
            self.doubt = mark
            return ()
        self.usual, self.doubt = [self.doubt, mark], ()
        return changed

    def _changed(self, mark: tuple[float, ...]) -> tuple[str, ...]:
        if len(self.usual) < ENOUGH:
            return ()
        found = []
        for place, (name, least) in enumerate(zip(PROTOCOL, LEAST_MAD, strict=True)):
            known = [one[place] for one in self.usual]
            centre = statistics.median(known)
            spread = max(least, statistics.median(abs(one - centre) for one in known))
            if abs(mark[place] - centre) > JUMP * spread:
                found.append(name)
        return tuple(found)


class Mirror:
    """One twin's device and studies, either of which may be missing."""

    def __init__(
        self, name: str, device: Device | None = None, archive: Archive | None = None, coupling: Coupling | None = None
    ) -> None:  # fmt: skip
        self.name, self.device, self.archive, self.coupling = name, device, archive, coupling or Coupling()
        self.watch = Watch()
        self.t = -math.inf
        self.round = -1
        self.logged = 0  # entries of the device's log that were told
        self.told: tuple[Any, ...] = ()  # lifecycle, quality and status that were told last
        self.windows: dict[float, Mapping[str, Any]] = {}  # of quarantine as they were told, in virtual seconds, by their begin in the log
        self.change = ""  # what the model has to adapt to, and is adapting to
        self.adapting, self.returning = False, False
        self.left = 0  # rounds of adaptation after this one, or STOPPED
        self.accuracy: float | None = None  # on the validation studies, while nothing was changing
        self.flag = Flag(self.coupling.drop if device else 0.0)
        self._scene = Scene()

    # ------------------------------------------------------------------ what the twin asks

    def advance(self, t: float, round: int) -> list[Event]:
        """Live all device days and arrivals up to virtual time `t`, in `round`; return what there is to tell, all of it told at `t`."""
        found = self._live(t)
        if round != self.round:
            found += self._turn(t, round)
        found += self._changed(t)
        log = self.device.log.entries if self.device else []
        entries = tuple(_told(json.loads(entry.line())) for entry in log[self.logged :])
        self.logged = len(log)
        return [DeviceLogged(t=t, twin=self.name, entries=entries), *found] if entries else found

    @property
    def signs(self) -> Signs:
        """All that peers may know of the device."""
        if self.device is None:
            return Signs()
        found = shared(self.device.log.state)
        return Signs(tuple(found["fingerprint"] or ()), self._quality(), found["lifecycle"], found["kernel_group"])

    @property
    def withheld(self) -> str:
        """Why the update of this round may not go; "" if it may."""
        if self.adapting:
            return f"adapting: {self.change}"
        if self.device is None or not self.coupling.quarantine or self._quality() > 0:
            return ""
        return f"{self.device.log.state.lifecycle}: {self._reason()}"

    def scene(self) -> Scene:
        """What to learn from now; the same object while nothing changed."""
        stock = self._stock() if self.archive else None
        version = stock.version if stock else 0
        if (version, self.adapting) != (self._scene.version, self._scene.adapt) or (stock and not self._scene.cohorts):
            self._scene = Scene(version, stock.cohorts if stock else {}, self.adapting)
        return self._scene

    def scored(self, metrics: Mapping[str, Any], t: float) -> None:
        """Take notice of what the model is worth on the validation studies at virtual time `t`."""
        accuracy = metrics.get("accuracy")
        if not (self.adapting or self.returning or self.change):  # else it is known why the model is not what it was
            self.flag.scored(metrics, t)
        if accuracy is None:
            return
        if self.returning and (self.accuracy is None or accuracy >= self.accuracy - self.coupling.regain):
            self.returning = False
        if not (self.adapting or self.returning or self.change or self.watch.doubt):
            self.accuracy = accuracy

    def memory(self) -> dict[str, Any]:
        """What a later incarnation needs to go on from here: plain values."""
        return {
            "t": self.t, "round": self.round, "told": self.told, "change": self.change, "adapting": self.adapting, "left": self.left,
            "returning": self.returning, "accuracy": self.accuracy, "flag": self.flag.memory(),
            "head": self.device.log.head if self.device else "", "arrived": self.archive.count if self.archive else 0,
        }  # fmt: skip

    def resume(self, memory: Mapping[str, Any]) -> None:
        """Live again to where `memory` was taken. Raises CheckpointError E502 when that is not the same life."""
        self.flag.foretold(memory["flag"])
        self._live(memory["t"])
        head, arrived = self.device.log.head if self.device else "", self.archive.count if self.archive else 0
        if (head, arrived) != (memory["head"], memory["arrived"]) and memory["t"] > -math.inf:
            raise CheckpointError("E502", f"the life of {self.name} does not come out as it was saved", fix="run the scenario again")
        self.logged = len(self.device.log) if self.device and memory["t"] > -math.inf else 0
        for name in ("round", "change", "adapting", "left", "returning", "accuracy"):
            setattr(self, name, memory[name])
        self.flag.resume(memory["flag"])
        self.told = tuple(memory["told"])

    # ------------------------------------------------------------------ days and arrivals

    @property
    def _dawn(self) -> float:
        """When the next device day begins, virtual s."""
        return (self.device.day - self.device.rules.history) * self.device.rules.day_s if self.device else math.inf

    def _live(self, t: float) -> list[Event]:
        self.t = max(self.t, t)
        found: list[Event] = []
        images, coming = 0, self.archive.next if self.archive else math.inf
        while min(self._dawn, coming, self.flag.due) <= t:
            if self._dawn <= min(coming, self.flag.due):
                found += self._day(t)
                continue
            if self.device and self.flag.due < coming:
                self.flag.act(self.device)
                found += [*self._withdrawn(t), *self._changed(t)]
                continue
            images += self._arrival(coming)
            coming = self.archive.next if self.archive else math.inf
        if self.device and t >= 0:
            self.device.advance(t)
        if images:
            found.append(StudiesArrived(t=t, twin=self.name, images=images, held=self._stock().held))
        return found

    def _day(self, t: float) -> list[Event]:
        """Live one device day. The days before the run are remembered in the log alone."""
        assert self.device is not None
        begun, last = self._dawn, self.device.log.state.get("qa.last.t")
        self.device.advance(begun)
        state = self.device.log.state
        if state.get("qa.last.t") != last:
            status = state.get("qa.status")
            self.flag.passed(self.device, begun)
            changed = self.watch.seen(tuple(shared(state)["fingerprint"] or ()), status == "pass")
            if changed and begun >= 0 and self.coupling.adapt:
                self.change = ", ".join(changed) + " changed"
        if self.left > 0 and not self._sound():
            self.left = STOPPED
        return [*self._withdrawn(t), *self._changed(t)] if begun >= 0 else []

    def _arrival(self, at: float) -> int:
        """Acquire the study due at `at`, or lose it because the scanner stands still; return its images."""
        assert self.archive is not None
        if self.device is None:
            return self.archive.take().images
        device = self.device
        device.advance(at)
        return self.archive.take(device.truth.scanner, device.condition, accept=device.working, labels=device.labels).images

    def _withdrawn(self, t: float) -> Iterator[Event]:
        """Quarantine windows that opened or closed, and how many images were newly left out. One that closed before the run is none."""
        assert self.device is not None
        if not self.coupling.quarantine:
            return
        for window in self.device.log.state.quarantine:
            since, until, skew = window["since"], window["until"], self.device.skew
            known = self.windows.get(since)
            if (known is None and until is not None and until <= 0) or (known is not None and known["until"] is not None):
                continue
            if known is None:
                out = self._left_out()
                known = self.windows[since] = {"since": since - skew, "until": None, "reason": window["reason"]}
                yield StudiesWithdrawn(t=t, twin=self.name, images=max(0, self._left_out() - out), **known)
            if until is not None:
                self.windows[since] = {**known, "until": until - skew}
                yield StudiesWithdrawn(t=t, twin=self.name, images=0, **self.windows[since])

    def _changed(self, t: float) -> Iterator[Event]:
        """Lifecycle, quality and status, if one of them is not what was told last."""
        if self.device is None:
            return
        state = self.device.log.state
        now: tuple[Any, ...] = (state.lifecycle, self._quality(), state.get("qa.status", "stale"))
        now += (flag,) if (flag := raised(self.device)) else ()
        if now != self.told:
            self.told = now
            health = {name: state.get(f"health.{name}") for name in HEALTH}
            yield DeviceChanged(
                t=t, twin=self.name, lifecycle=now[0], quality=now[1], status=now[2], reason=self._reason(), health=health
            )  # fmt: skip

    def _reason(self) -> str:
        assert self.device is not None
        if self.adapting or self.returning:
            return self.change or "until the model is as good as before"
        state, flag = self.device.log.state, raised(self.device)
        why = str(state.get("lifecycle.reason", "installed"))
        if self._device_quality() > 0:
            why = str(state.get("qa.reason", "")) or flag or why
        return why if not flag or flag in why else f"{why}; {flag}"

    # ------------------------------------------------------------------ adapting to a change

    def _turn(self, t: float, round: int) -> Iterator[Event]:
        """A new round begins: start, go on with, or end an adaptation."""
        self.round = round
        if self.adapting and self.left <= 0:
            self.adapting, self.returning = False, self.accuracy is not None
            self.change = self.change if self.left == STOPPED else ""
            self.left = 0
        if self.adapting:
            self.left -= 1
        elif self.change and self._sound():
            self.adapting, self.left = True, self.coupling.adapt - 1
        if self.adapting:
            yield Adapting(t=t, twin=self.name, round=round, reason=self.change)

    def _sound(self) -> bool:
        """Whether the model may adapt to what the device is now: never to a broken one."""
        assert self.device is not None
        return self._device_quality() > 0 and self.device.log.state.get("qa.status") != "fail"

    def _quality(self) -> float:
        """As peers are told it."""
        if self.adapting:
            return 0.0
        return min(self._device_quality(), REJOINED) if self.returning else self._device_quality()

    def _device_quality(self) -> float:
        assert self.device is not None
        return float(shared(self.device.log.state)["q"])

    # ------------------------------------------------------------------ studies

    def _stock(self) -> Stock:
        assert self.archive is not None
        return self.archive.stock(self._in_quarantine)

    def _left_out(self) -> int:
        return self._stock().left_out if self.archive else 0

    def _in_quarantine(self, at: float) -> bool:
        return bool(self.windows) and quarantined(State(quarantine=tuple(self.windows.values())), at)


def _told(value: Any) -> Any:
    """JSON as an event holds it, tuples for lists: so that it is the same before and after packing."""
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    return tuple(_told(item) for item in value) if isinstance(value, list) else value
