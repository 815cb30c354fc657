"""The physics between twins: pure look-ups of what a frame meets on its way, and of who is up when."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias

from p2pftl.draw import draw
from p2pftl.world.incidents import Busy, Crash, Cut, DeviceFault, Down, Effect, Incident, Slow, Split
from p2pftl.world.links import LEAST, Link
from p2pftl.world.topology import CLOUD, Pair, Topology

Change: TypeAlias = tuple[float, Incident, Literal["began", "ended"]]

_GRAVITY = ("left", "receiver crashed", "receiver down")
"""What a sender is told first when a receiver is gone for several reasons."""


@dataclass(frozen=True)
class Transit:
    """What became of one frame: when it arrives (None if lost, and why), how many copies arrive, when the second does."""

    arrives: float | None
    lost: str = ""
    copies: int = 1
    second: float | None = None


@dataclass(frozen=True)
class World:
    """Links, incidents and time as every participant sees them: frozen, picklable, the same answer to the same question.

    common: what a link is unless the topology says otherwise; cloud: the links to the coordinator (None: common).
    """

    topology: Topology
    common: Link
    incidents: tuple[Incident, ...] = ()
    cloud: Link | None = None
    seed: int = 0

    def link(self, src: str, dst: str) -> Link:
        """The link from `src` to `dst`, incidents aside."""
        if CLOUD in (src, dst):
            return self.cloud or self.common
        return self._own.get((src, dst), self.common)

    def fastest(self, src: str, dst: str) -> float:
        """Seconds that no frame from `src` to `dst` ever undercuts; at least one microsecond."""
        return max(self.link(src, dst).latency, LEAST)

    def transit(self, src: str, dst: str, sent_at: float, size: int, round: int, seq: int) -> Transit:
        """What happens to a frame of `size` bytes sent at `sent_at`; drawn by (src, dst, round, seq).

        Incidents slow a frame by their state when it is sent. It is lost to a cut or a partition that is active at any
        moment of its flight, to chance, to a receiver that is down, crashed or gone when it arrives, and to a crash of
        the receiver during the flight. A duplicate comes up to one latency later.
        """
        link, factor = self.link(src, dst), self._slow_factor(src, dst, sent_at)
        dropped, late, twice, again = 1.0, 0.0, 1.0, 0.0
        if link.loss or link.jitter or link.duplication:
            dropped, late, twice, again = draw(self.seed, "link", src, dst, round, seq).random(4).tolist()
        delay = max(link.latency, LEAST) * factor + late * link.jitter + size / link.bandwidth * factor
        arrives = sent_at + delay
        lost = self._severed(src, dst, sent_at, arrives) or ("loss" if dropped < link.loss else "")
        if lost:
            return Transit(None, lost)
        why = self._deaf(dst, sent_at, arrives)
        first = None if why else arrives
        if twice >= link.duplication:
            return Transit(first, why)
        second = arrives + LEAST + again * max(link.latency, link.jitter)
        if self._severed(src, dst, sent_at, second) or self._deaf(dst, sent_at, second):
            return Transit(first, why)
        return Transit(first, "", 2, second) if first is not None else Transit(second)

    def back(self, name: str, t: float) -> float | None:
        """None if `name` is up at `t`, else the time at which it is up again (inf if never)."""
        away = self._away.get(name)
        if away is None:
            return None
        position = bisect_right(away, (t, math.inf)) - 1
        return away[position][1] if position >= 0 and t < away[position][1] else None

    def slowdown(self, name: str, t: float) -> float:
        """Factor on `name`'s computing time at `t`, at least 1."""
        return math.prod(busy.factor for busy in self._effects.busy.get(name, ()) if busy.start <= t < busy.stop)

    def faults(self, name: str) -> tuple[DeviceFault, ...]:
        """What happens to `name`'s scanner, in the order of the scenario."""
        return tuple(self._effects.faults.get(name, ()))

    def crashes(self, name: str) -> tuple[Crash, ...]:
        """The scripted crashes of `name`, earliest first."""
        return tuple(sorted((i for i in self.incidents if isinstance(i, Crash) and i.twin == name), key=lambda crash: crash.at))

    def changes(self, name: str) -> tuple[Change, ...]:
        """What begins and ends on `name`'s timeline; an incident of several is told by the first it names, once."""
        return self._told.get(name, ())

    def timeline(self) -> list[dict[str, Any]]:
        """All incidents by time, for plan and report: kind, twins, at, until (None: for ever), text."""
        rows = []
        for incident in self.incidents:
            began, ended = incident.spans()
            until = None if ended == math.inf else ended
            rows.append({"kind": incident.kind, "twins": list(incident.concerns()), "at": began, "until": until, "text": incident.text()})
        return sorted(rows, key=lambda row: row["at"])

    def _slow_factor(self, src: str, dst: str, t: float) -> float:
        if not self._effects.slow:
            return 1.0
        return math.prod(slow.factor for slow in self._effects.slow.get(frozenset((src, dst)), ()) if slow.start <= t < slow.stop)

    def _severed(self, src: str, dst: str, start: float, stop: float) -> str:
        """Why nothing passes between the two in [start, stop], or ""."""
        effects = self._effects
        if effects.cut and any(cut.start <= stop and start < cut.stop for cut in effects.cut.get(frozenset((src, dst)), ())):
            return "cut"
        for split, side in effects.splits:
            if split.start <= stop and start < split.stop and side.get(src, -1) != side.get(dst, -1):
                return "partition"
        return ""

    def _deaf(self, name: str, sent_at: float, arrives: float) -> str:
        """Why `name` does not hear a frame sent then and arriving then, or ""."""
        reasons = set()
        for down in self._effects.down.get(name, ()):
            crashed_meanwhile = down.why == "receiver crashed" and sent_at < down.start <= arrives
            if crashed_meanwhile or down.start <= arrives < down.stop:
                reasons.add(down.why)
        return min(reasons, key=lambda why: (_GRAVITY.index(why) if why in _GRAVITY else 0, why), default="")

    @cached_property
    def _own(self) -> dict[Pair, Link]:
        return {pair: own.on(self.common) for pair, own in self.topology.links.items()}

    @cached_property
    def _effects(self) -> _Effects:
        return _sorted_out([effect for incident in self.incidents for effect in incident.effects()])

    @cached_property
    def _away(self) -> dict[str, list[tuple[float, float]]]:
        return {name: _joined(downs) for name, downs in self._effects.down.items()}

    @cached_property
    def _told(self) -> dict[str, tuple[Change, ...]]:
        told: defaultdict[str, list[Change]] = defaultdict(list)
        for incident in self.incidents:
            began, ended = incident.spans()
            teller = incident.concerns()[0]
            told[teller].append((began, incident, "began"))
            if began < ended < math.inf:
                told[teller].append((ended, incident, "ended"))
        return {name: tuple(sorted(changes, key=lambda change: change[0])) for name, changes in told.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered: a world travels to every actor."""
        return {item.name: self.__dict__[item.name] for item in fields(self)}


@dataclass(frozen=True)
class _Effects:
    """The effects by whom they concern, in the order of the scenario."""

    down: Mapping[str, Sequence[Down]]
    busy: Mapping[str, Sequence[Busy]]
    faults: Mapping[str, Sequence[DeviceFault]]
    cut: Mapping[frozenset[str], Sequence[Cut]]
    slow: Mapping[frozenset[str], Sequence[Slow]]
    splits: Sequence[tuple[Split, Mapping[str, int]]]


def _sorted_out(effects: Sequence[Effect]) -> _Effects:
    down: defaultdict[str, list[Down]] = defaultdict(list)
    busy: defaultdict[str, list[Busy]] = defaultdict(list)
    faults: defaultdict[str, list[DeviceFault]] = defaultdict(list)
    cut: defaultdict[frozenset[str], list[Cut]] = defaultdict(list)
    slow: defaultdict[frozenset[str], list[Slow]] = defaultdict(list)
    splits = []
    for effect in effects:
        match effect:
            case Down():
                down[effect.twin].append(effect)
            case Busy():
                busy[effect.twin].append(effect)
            case DeviceFault():
                faults[effect.twin].append(effect)
            case Cut():
                cut[effect.ends].append(effect)
            case Slow():
                slow[effect.ends].append(effect)
            case Split():
                splits.append((effect, _sides(effect)))
    return _Effects(dict(down), dict(busy), dict(faults), dict(cut), dict(slow), splits)


def _sides(split: Split) -> dict[str, int]:
    """Group of every name in one; the cloud sides with the first group unless it is named."""
    return {CLOUD: 0} | {name: position for position, group in enumerate(split.groups) for name in group}


def _joined(downs: Sequence[Down]) -> list[tuple[float, float]]:
    """Non-empty windows by time, those that overlap or touch made one."""
    joined: list[tuple[float, float]] = []
    for start, stop in sorted((down.start, down.stop) for down in downs if down.start < down.stop):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
