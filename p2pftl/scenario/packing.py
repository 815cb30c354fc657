"""Which participants share a process."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

TWINS_PER_CORE = 2  # processes beyond that win nothing, and each costs a second or two of one core at the start
PROCESS_BYTES = 0.4e9  # of a torch process without data; half of the machine's memory is left to data and others


@dataclass(frozen=True)
class Packing:
    """crews: participants by process; why: one sentence."""

    crews: tuple[tuple[str, ...], ...]
    why: str


def packing(together: Mapping[str, float], alone: Sequence[str], asked: int | Literal["auto"], cores: int) -> Packing:
    """Deal the twins `together` (name -> compute speed) to processes of `asked` twins each; everybody in `alone` has its own.

    Processes get fast and slow twins alike, or one would be done long before the other. auto: one process per twin while
    cores and memory hold them comfortably, else one process per core.
    """
    count = len(together)
    each, why = (_automatic(count, cores), "chosen by auto") if asked == "auto" else (asked, "as asked")
    actors = math.ceil(count / each)
    crews = tuple(tuple(sorted(crew)) for crew in _dealt(together, actors)) + tuple((name,) for name in alone)
    size = "one twin each" if each == 1 else f"up to {each} twins each"
    more = f", {len(alone)} more for the cloud or scripted crashes" if alone else ""
    return Packing(crews, f"{actors} actor{'s' * (actors > 1)}, {size} ({why}, {cores} cores){more}")


def _dealt(speeds: Mapping[str, float], actors: int) -> list[list[str]]:
    """There and back again over the processes, fastest twin first."""
    crews: list[list[str]] = [[] for _ in range(actors)]
    for place, name in enumerate(sorted(speeds, key=lambda name: (-speeds[name], name))):
        lap, at = divmod(place, actors)
        crews[at if lap % 2 == 0 else actors - 1 - at].append(name)
    return crews


def _automatic(count: int, cores: int) -> int:
    fits = count * PROCESS_BYTES <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    return 1 if count <= TWINS_PER_CORE * cores and fits else math.ceil(count / cores)
