"""Which machine of a cluster each crew lives on, and its share of a GPU: spread by what the machines have, data where they lie."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from p2pftl.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Machine:
    """One machine of a Ray cluster. named: its custom resources; a twin's name among them says that its data lie there."""

    id: str
    cores: float
    gpus: float = 0.0
    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Place:
    """Where a crew lives. bound: the custom resource that ties it to its machine, "" if it may move."""

    machine: str
    gpu: float = 0.0
    bound: str = ""


def bound_apart(crews: Sequence[Sequence[str]], machines: Collection[Machine]) -> list[tuple[str, ...]]:
    """Split crews so that whoever's data lie on a machine shares a process only with others of that machine."""
    parts: list[tuple[str, ...]] = []
    for crew in crews:
        groups: dict[frozenset[str], list[str]] = {}
        for name in crew:
            groups.setdefault(frozenset(one.id for one in machines if name in one.named), []).append(name)
        parts += [tuple(group) for group in groups.values()]
    return parts


def place(crews: Sequence[Sequence[str]], machines: Sequence[Machine], device: Device = "auto") -> list[Place]:
    """Give each crew a machine, so that members per GPU (per core where there is none, or for "cpu") are as even as can be.

    A crew of `bound_apart` whose data lie somewhere goes there. Raises UsageError E611 for "cuda" without any GPU.
    """
    gpus = device != "cpu" and any(one.gpus for one in machines)
    if device == "cuda" and not gpus:
        raise UsageError("E611", "the device is cuda, and no machine of this Ray cluster has a GPU", fix="device: auto")
    weights = {one.id: one.gpus if gpus else one.cores for one in machines}
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1.0)
    load = dict.fromkeys(weights, 0)
    found: dict[int, Place] = {}
    for k in sorted(range(len(crews)), key=lambda k: (not _homes(crews[k][0], machines), -len(crews[k]), k)):
        homes = _homes(crews[k][0], machines)
        options = homes or [name for name, weight in weights.items() if weight]
        chosen = min(options, key=lambda name: ((load[name] + len(crews[k])) / (weights[name] or 1.0), name))
        load[chosen] += len(crews[k])
        found[k] = Place(chosen, bound=crews[k][0] if homes else "")
    places = [found[k] for k in range(len(crews))]
    shares = _shares(places, machines) if gpus else {}
    return [Place(one.machine, shares.get(one.machine, 0.0), one.bound) for one in places]


def share(crews: int, gpus: float) -> float:
    """Return the fraction of a GPU for each of `crews` actors, so that Ray can lay them all on `gpus`: whole actors per GPU."""
    if not gpus or not crews:
        return 0.0
    if gpus < 1:
        return math.floor(gpus / crews * 1e4) / 1e4
    return math.floor(1e4 / math.ceil(crews / math.floor(gpus))) / 1e4


def _homes(name: str, machines: Collection[Machine]) -> list[str]:
    return [one.id for one in machines if name in one.named]


def _shares(places: Collection[Place], machines: Collection[Machine]) -> Mapping[str, float]:
    return {one.id: share(sum(place.machine == one.id for place in places), one.gpus) for one in machines}
