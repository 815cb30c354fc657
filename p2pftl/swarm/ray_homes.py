"""The actors of a swarm: where each lives, how it starts, and how it ends for certain."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from p2pftl.swarm import leftovers
from p2pftl.swarm.placing import Device, Place, place
from p2pftl.swarm.ray_actor import CrewActor, Whereabouts, machine
from p2pftl.swarm.ray_cluster import Cluster

SILENCE = 60.0  # seconds for an actor to say where it is, or to be gone
ROOM = 120.0  # seconds for a new process to come up on a cluster that may be full
SLIVER = 0.001  # how much of its own resource a crew takes: only where it lies matters


@dataclass
class Home:
    """An actor, and what the driver knows of it.

    deaths: of those it descends from; known: version of the moves it was told; where: None until it was asked.
    """

    actor: Any
    place: Place
    deaths: int = 0
    known: int = -1
    where: Whereabouts | None = None


class Homes:
    """The actors of one driver by number. Numbers are not given out again."""

    def __init__(self, cluster: Cluster, device: Device) -> None:
        self.cluster = cluster
        self.device = device
        self.open: dict[int, Home] = {}
        self._titles: Counter[str] = Counter()
        self._count = 0

    def __getitem__(self, number: int) -> Home:
        return self.open[number]

    def settle(self, crews: Sequence[Sequence[str]], lived: dict[str, int]) -> list[int]:
        """Return a home per crew: the one where its first member lived if that still answers, or a new one; end the rest."""
        free = self.answering(self.open)
        numbers = []
        for crew, where in zip(crews, place(crews, self.cluster.machines(), self.device), strict=True):
            number = lived.get(crew[0], -1)
            if number not in free:
                number = self.build(crew[0], where)
            free.discard(number)
            numbers.append(number)
        for number in [number for number in self.open if number not in numbers]:
            self.end(number)
        return numbers

    def build(self, name: str, where: Place, deaths: int = 0) -> int:
        """A new process, titled after `name` and, from its second on, their number: Ray frees a dead actor's title only later."""
        self._titles[name] += 1
        title = name if self._titles[name] == 1 else f"{name}.{self._titles[name]}"
        options: dict[str, Any] = {
            "name": title, "num_cpus": 0, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 4,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(where.machine, soft=False),
        }  # fmt: skip
        if where.gpu:
            options["num_gpus"] = where.gpu
        if where.bound:
            options |= {"resources": {where.bound: SLIVER}, "scheduling_strategy": "DEFAULT"}
        self._count += 1
        cores = next((one.cores for one in self.cluster.machines() if one.id == where.machine), 0.0)
        self.open[self._count] = Home(ray.remote(CrewActor).options(**options).remote(round(cores)), where, deaths)
        return self._count

    def rebuild(self, names: Sequence[str], home: Home) -> int | None:
        """A new process for `names` of a dead one: where it was, else elsewhere; None if their data lie on no machine that is up."""
        machines, was = self.cluster.machines(), home.place
        if was.bound and not any(was.bound in one.named for one in machines):
            return None
        if not was.bound and was.machine not in {one.id for one in machines}:
            load = Counter(other.place.machine for other in self.open.values())
            best = min(machines, key=lambda one: ((load[one.id] + 1) / (one.cores or 0.1), one.id))
            free = ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
            was = Place(best.id, was.gpu if free >= was.gpu else 0.0)
        return self.build(names[0], was, home.deaths + 1)

    def answering(self, numbers: Collection[int]) -> set[int]:
        """Those that say where they are, in time; a long fit keeps none of them from it."""
        asked = {self.open[number].actor.whereabouts.remote(): number for number in numbers}
        if not asked:
            return set()
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=SILENCE)
        return {asked[ref] for ref in done if self._heard(asked[ref], ref)}

    def where(self, number: int, patience: float = SILENCE) -> Whereabouts:
        """Where it runs. Raises RayError if it does not say so."""
        home = self.open[number]
        if home.where is None:
            home.where = ray.get(home.actor.whereabouts.remote(), timeout=patience)
        return home.where

    def end(self, number: int) -> bool:
        """End a process, and wait until it is gone; False if it stays."""
        home = self.open.pop(number)
        with contextlib.suppress(Exception):
            ray.kill(home.actor)
        if home.where is None:
            return True
        near = home.where.machine == machine()
        if near and not _ends(home.where.process):
            return False
        return (near and home.where.ray_machine == ray.get_runtime_context().get_node_id()) or _unheard(home.actor)

    def lost(self, home: Home) -> str:
        """Say what is gone with it."""
        up = {one.id for one in self.cluster.machines()}
        return "its process is gone" if home.where is None or home.where.ray_machine in up else "its machine is gone"

    def _heard(self, number: int, ref: Any) -> bool:
        try:
            self.open[number].where = ray.get(ref)
        except RayError:
            return False
        return True


def _ends(process: leftovers.Process) -> bool:
    """Wait until a process of this machine is gone; SIGKILL it if Ray did not."""
    for patience in range(200):
        if not leftovers.alive(process):
            return True
        if patience >= 100:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process[0], signal.SIGKILL)
        time.sleep(0.01)
    return False


def _unheard(actor: Any) -> bool:
    """Wait until Ray says that an actor is gone: of a lost machine it does so once it is sure, after some seconds."""
    until = time.monotonic() + SILENCE
    while time.monotonic() < until:
        try:
            ray.get(actor.whereabouts.remote(), timeout=1.0)
        except ActorUnavailableError:
            time.sleep(0.1)
        except RayActorError:
            return True
        except RayError:
            continue
        time.sleep(0.01)
    return False
