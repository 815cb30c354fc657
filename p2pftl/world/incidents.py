"""What a scenario lets happen to the world, each written as the effects it has.

An incident of your own is one more frozen dataclass with these four methods; the world looks at effects only. What
happens to scanners is in device_incidents.py.
Times are virtual seconds; `until: null` means for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

from annotated_types import Ge, Gt, Interval

At = Annotated[float, Ge(0)]
Until = Annotated[float, Gt(0)] | None
Factor = Annotated[float, Interval(ge=1, le=1e6)]
Span = tuple[float, float]


@dataclass(frozen=True)
class Down:
    """`twin` neither computes nor hears in [start, stop); why: what a lost frame's sender is told."""

    twin: str
    start: float
    stop: float
    why: str


@dataclass(frozen=True)
class Cut:
    """Nothing passes between the two ends in [start, stop)."""

    ends: frozenset[str]
    start: float
    stop: float


@dataclass(frozen=True)
class Split:
    """Nothing passes between different groups in [start, stop); who is in none forms one more group."""

    groups: tuple[frozenset[str], ...]
    start: float
    stop: float


@dataclass(frozen=True)
class Slow:
    """Latency and transfer between the two ends take `factor` times as long for frames sent in [start, stop)."""

    ends: frozenset[str]
    start: float
    stop: float
    factor: float


@dataclass(frozen=True)
class Busy:
    """`twin` computes `factor` times slower in [start, stop)."""

    twin: str
    start: float
    stop: float
    factor: float


@dataclass(frozen=True)
class DeviceFault:
    """Something of `kind` happens to `twin`'s scanner in [start, stop), inf where it has no end of its own; params: what and how much."""

    twin: str
    kind: str
    start: float
    stop: float
    params: Mapping[str, Any] = field(default_factory=dict)


Effect = Down | Cut | Split | Slow | Busy | DeviceFault


class Incident(Protocol):
    """Something scripted that happens to the world. concerns: the participants it names, the first tells it."""

    kind: ClassVar[str]

    def text(self) -> str:
        """One plain sentence: who, what, when."""
        ...

    def spans(self) -> Span:
        """(began, ended), ended = inf if it never does; equal for an instant."""
        ...

    def concerns(self) -> tuple[str, ...]: ...

    def effects(self) -> tuple[Effect, ...]: ...


@dataclass(frozen=True)
class Outage:
    """A twin, or the cloud, is switched off and comes back with what it knew."""

    kind: ClassVar[str] = "outage"
    twin: str
    at: At
    until: Until = None

    def text(self) -> str:
        return _capital(f"{_name(self.twin)} is off {_when(self)}.")

    def spans(self) -> Span:
        return _spans(self)

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        return (Down(self.twin, *_spans(self), "receiver down"),)


@dataclass(frozen=True)
class Partition:
    """The network falls apart into groups; twins not named form one further group, the cloud sides with the first."""

    kind: ClassVar[str] = "partition"
    groups: tuple[tuple[str, ...], ...]
    at: At
    until: Until = None

    def text(self) -> str:
        return f"The network is split into {' | '.join(_few(group) for group in self.groups)} | any others {_when(self)}."

    def spans(self) -> Span:
        return _spans(self)

    def concerns(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group)

    def effects(self) -> tuple[Effect, ...]:
        return (Split(tuple(frozenset(group) for group in self.groups), *_spans(self)),)


@dataclass(frozen=True)
class SlowLink:
    """A link takes `factor` times as long, both ways."""

    kind: ClassVar[str] = "slow_link"
    link: tuple[str, str]
    at: At
    until: Until = None
    factor: Factor = 10.0

    def text(self) -> str:
        return f"The link {_link(self.link)} is {self.factor:g} times slower {_when(self)}."

    def spans(self) -> Span:
        return _spans(self)

    def concerns(self) -> tuple[str, ...]:
        return self.link

    def effects(self) -> tuple[Effect, ...]:
        return (Slow(frozenset(self.link), *_spans(self), self.factor),)


@dataclass(frozen=True)
class CutLink:
    """A link carries nothing, either way."""

    kind: ClassVar[str] = "cut_link"
    link: tuple[str, str]
    at: At
    until: Until = None

    def text(self) -> str:
        return f"The link {_link(self.link)} is cut {_when(self)}."

    def spans(self) -> Span:
        return _spans(self)

    def concerns(self) -> tuple[str, ...]:
        return self.link

    def effects(self) -> tuple[Effect, ...]:
        return (Cut(frozenset(self.link), *_spans(self)),)


@dataclass(frozen=True)
class SlowScanner:
    """A twin computes `factor` times slower."""

    kind: ClassVar[str] = "slow_scanner"
    twin: str
    at: At
    until: Until = None
    factor: Factor = 10.0

    def text(self) -> str:
        return f"{self.twin} computes {self.factor:g} times slower {_when(self)}."

    def spans(self) -> Span:
        return _spans(self)

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        return (Busy(self.twin, *_spans(self), self.factor),)


@dataclass(frozen=True)
class Join:
    """A twin is not there before `at`."""

    kind: ClassVar[str] = "join"
    twin: str
    at: At

    def text(self) -> str:
        return _capital(f"{_name(self.twin)} joins at {instant(self.at)}.")

    def spans(self) -> Span:
        return self.at, self.at

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        return (Down(self.twin, 0.0, self.at, "receiver down"),)


@dataclass(frozen=True)
class Leave:
    """A twin leaves for good."""

    kind: ClassVar[str] = "leave"
    twin: str
    at: At

    def text(self) -> str:
        return _capital(f"{_name(self.twin)} leaves for good at {instant(self.at)}.")

    def spans(self) -> Span:
        return self.at, math.inf

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        return (Down(self.twin, self.at, math.inf, "left"),)


@dataclass(frozen=True)
class Crash:
    """A participant's process is killed; its supervisor revives it from its last saved state `revive_after` seconds later."""

    kind: ClassVar[str] = "crash"
    twin: str
    at: At
    revive_after: Annotated[float, Gt(0)] = 5.0

    def text(self) -> str:
        return _capital(f"{_name(self.twin)} crashes at {instant(self.at)} and is revived {instant(self.revive_after)} later.")

    def spans(self) -> Span:
        return self.at, self.at + self.revive_after

    def concerns(self) -> tuple[str, ...]:
        return (self.twin,)

    def effects(self) -> tuple[Effect, ...]:
        return (Down(self.twin, *self.spans(), "receiver crashed"),)


class _Lasting(Protocol):
    @property
    def at(self) -> float: ...
    @property
    def until(self) -> float | None: ...


def period(began: float, ended: float) -> str:
    """How a sentence says from when to when."""
    return f"from {instant(began)} on" if ended == math.inf else f"from {instant(began)} to {instant(ended)}"


def instant(seconds: float) -> str:
    """How a sentence says a time."""
    return f"{seconds:.10g} s"


def _spans(incident: _Lasting) -> Span:
    return incident.at, math.inf if incident.until is None else incident.until


def _when(incident: _Lasting) -> str:
    return period(*_spans(incident))


def _name(name: str) -> str:
    return "the cloud" if name == "cloud" else name


def _capital(sentence: str) -> str:
    return "The" + sentence[3:] if sentence.startswith("the ") else sentence


def _link(ends: Sequence[str]) -> str:
    return " - ".join(_name(end) for end in ends)


def _few(names: Iterable[str]) -> str:
    listed = [_name(name) for name in names]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
