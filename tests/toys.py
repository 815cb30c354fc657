"""Small worlds and tasks in which the right answer is known."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from p2pftl.agenda import Parcel, Participant
from p2pftl.cloud.cloud import Cloud
from p2pftl.cloud.fedavg import FedAvg
from p2pftl.draw import draw
from p2pftl.events import Event, pack
from p2pftl.gossip.aggregators import WeightedMean
from p2pftl.gossip.codecs import Dense
from p2pftl.gossip.mixing import Metropolis
from p2pftl.gossip.pace import Synchronous
from p2pftl.gossip.partners import All
from p2pftl.imaging.cohort import Cohort, Sample, Shard
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.task import Learnt, Memory, Scene, Work
from p2pftl.observe.record import Digest
from p2pftl.params import Layout, Vector
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor, incident_events
from p2pftl.swarm.local import LocalSwarm
from p2pftl.swarm.seams import Delivered, Swarm
from p2pftl.terms import CloudTerms, Terms
from p2pftl.world.incidents import Crash, Join, Leave, Outage, Partition, SlowLink, SlowScanner
from p2pftl.world.links import Link
from p2pftl.world.topologies import Ring
from p2pftl.world.topology import CLOUD, Topology
from p2pftl.world.world import World

LAYOUT = Layout(("body.weight", "head.weight"), ((4, 3), (5,)), ("weight", "weight"), (0, 1))

LARGE = Layout(("body.weight", "head.weight"), ((200, 200), (10_000,)), ("weight", "weight"), (0, 1))


@dataclass(frozen=True)
class Pull:
    """Each twin is pulled towards its own random goal by `rate`; rate 0 is pure mixing. Starts from its own random point."""

    name: str
    seed: int = 1
    rate: float = 0.0
    samples: int = 10
    layout: Layout = LAYOUT

    def initial(self) -> Vector:
        return draw(self.seed, "start", self.name).standard_normal(self.layout.size).astype(np.float32)

    def work(self, round: int, scene: Scene) -> Work:
        held = len(scene.cohorts.get("train", range(self.samples)))
        return Work(() if scene.adapt else self.layout.names, held, held)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        goal = draw(self.seed, "goal", self.name).standard_normal(self.layout.size).astype(np.float32)
        moved = (vector + self.rate * (goal - vector)).astype(np.float32)
        return Learnt(moved, float(np.square(goal - moved).mean()), self.samples, 1, 1.0)

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        return {"accuracy": float(vector.mean())} if split == "test" else {}


@dataclass(frozen=True)
class Large(Pull):
    """Sends frames of 200 kB, which Ray carries by reference."""

    layout: Layout = LARGE


@dataclass(frozen=True)
class Heavy(Pull):
    """Keeps a velocity and a step count between rounds, as an optimiser does."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        kept = memory or {"velocity": np.zeros(self.layout.size, np.float32), "step": np.zeros(1, np.float32)}
        goal = draw(self.seed, "goal", self.name).standard_normal(self.layout.size).astype(np.float32)
        velocity = (0.9 * kept["velocity"] + self.rate * (goal - vector)).astype(np.float32)
        learnt = {"velocity": velocity, "step": kept["step"] + 1}
        return Learnt(vector + velocity, float(np.square(velocity).mean()), self.samples, 1, 1.0, learnt)


@dataclass(frozen=True)
class Poison(Pull):
    """From round 2 on the first twin's vector holds a NaN, whatever it is given."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        learnt = super().fit(vector, round, scene, memory)
        if self.name == "ct-01" and round >= 2:
            learnt.vector[3] = math.nan
        return learnt


@dataclass(frozen=True)
class Together(Pull):
    """All start from one model; in round 0 alone each moves by `rate` towards its own goal, afterwards there is only mixing."""

    layout: Layout = LARGE

    def initial(self) -> Vector:
        return draw(self.seed, "start").standard_normal(self.layout.size).astype(np.float32)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        return super().fit(vector, round, scene, memory) if round == 0 else Learnt(vector, 0.0, self.samples, 1, 0.0)


@dataclass(frozen=True)
class Frozen(Together):
    """Only the head is trained and shared."""

    def work(self, round: int, scene: Scene) -> Work:
        return Work(self.layout.names[1:], self.samples, self.samples)

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        learnt, (start, _) = Pull.fit(self, vector, round, scene, memory), self.layout.spans[1]
        moved = np.concatenate([vector[:start], learnt.vector[start:]])
        return Learnt(moved, learnt.loss, self.samples, 1, 0.2)


@dataclass(frozen=True)
class Judged(Pull):
    """Says how it does on the validation studies, too."""

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        return {"accuracy": 0.9}


@dataclass(frozen=True)
class Mortal(Pull):
    """The first twin's process is killed whenever it fits round 2."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        if self.name == "ct-01" and round == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(vector, round, scene, memory)


@dataclass(frozen=True)
class Leaky(Pull):
    """Fails with what must not be told."""

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        raise ValueError("PatientName DOE^JANE")


@dataclass(frozen=True)
class Grey:
    """A data source of grey 2 x 2 images that hold their sample's number."""

    def read(self, samples: Sequence[Sample]) -> Cohort:
        pixels = np.array([sample.index for sample in samples], np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
        return Cohort(pixels, np.array([sample.label for sample in samples], np.int64), "grey")

    def anatomy(self, samples: Sequence[Sample], slice_mm: float) -> None:
        return None


@dataclass(frozen=True)
class Ward:
    """Makes a twin's mirror: a device that knew 25 days before the run, one day per virtual `day_s`, and ten patients' studies.

    troubles: by twin, days as the device counts them; scanners: by twin; arrivals: None for no archive.
    """

    troubles: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    scanners: Mapping[str, Any] = field(default_factory=dict)
    coupling: Any = None
    arrivals: Any = None
    day_s: float = 1.0
    seed: int = 1

    def __call__(self, name: str) -> Any:
        from p2pftl.device.life import Device
        from p2pftl.device.rules import Ageing, Rules
        from p2pftl.imaging.archive import Archive
        from p2pftl.mirror import Mirror

        rules, scanner = Rules(day_s=self.day_s, history=25, ageing=Ageing(day_hu=0.2)), self.scanners.get(name, Scanner())
        device = Device.new(name, seed=self.seed, scanner=scanner, rules=rules, troubles=self.troubles.get(name, ()))
        shard = Shard(*(tuple(Sample("", row, row % 2, f"p{row}") for row in rows) for rows in (range(8), range(8, 10), ())))
        cohorts = {"train": Grey().read(shard.train), "validation": Grey().read(shard.validation)}
        archive = Archive(name, self.seed, shard, Grey(), cohorts, scanner, self.arrivals) if self.arrivals else None
        return Mirror(name, device, archive, self.coupling)


@dataclass(frozen=True)
class Toy:
    """A recruit for swarms: builds twins (and a cloud) over the toy task; picklable."""

    terms: Terms
    world: World
    rate: float = 0.0
    speeds: Mapping[str, float] = field(default_factory=dict)
    task: Callable[..., Any] = Pull
    mirror: Callable[[str], Any] | None = None

    def __call__(self, name: str) -> Participant:
        from p2pftl.twin import Twin

        if name == CLOUD:
            return Cloud(FedAvg(), self.terms, self.world, self.task(self.terms.everyone[0], self.terms.seed, self.rate).layout)
        about = {"train": 10, "validation": 0, "test": 0, "patients": 10, "labels": (), "scanner": {}}
        task = self.task(name, self.terms.seed, self.rate)
        mirror = self.mirror(name) if self.mirror else None
        return Twin(name, task, self.terms, self.world, mirror=mirror, speed=self.speeds.get(name, 1.0), about=about)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.terms.everyone, CLOUD) if self.terms.cloud else self.terms.everyone


def toy(
    topology: Topology | None = None,
    *,
    rounds: int = 5,
    link: Link | None = None,
    incidents: Sequence[Any] = (),
    cloud: CloudTerms | None = None,
    rate: float = 0.0,
    speeds: Mapping[str, float] | None = None,
    seed: int = 1,
    task: Callable[..., Any] = Pull,
    mirror: Callable[[str], Any] | None = None,
    **policies: Any,
) -> Toy:
    """A toy run: ring of eight, synchronous plain averaging unless told otherwise."""
    topology = topology or Ring(twins=8).build(seed)
    chosen: dict[str, Any] = {
        "aggregator": WeightedMean(),
        "codec": Dense(),
        "mixing": Metropolis(),
        "pace": Synchronous(),
        "partners": All(),
    }
    terms = Terms(run="toy", seed=seed, rounds=rounds, everyone=topology.names, cloud=cloud, **(chosen | policies))
    world = World(topology, link or Link(), tuple(incidents), seed=seed)
    return Toy(terms, world, rate, dict(speeds or {}), task, mirror)


def storm(**policies: Any) -> Toy:
    """Everything that can be scripted, in one run of eight twins and a cloud."""
    incidents = (
        Outage("ct-02", 1.2, 3.4),
        Outage(CLOUD, 2.0, 6.0),
        Crash("ct-03", 2.3, 1.5),
        Crash(CLOUD, 7.1, 0.7),
        Join("ct-04", 1.9),
        Leave("ct-05", 6.3),
        Partition((("ct-06", "ct-07"),), 3.0, 5.0),
        SlowLink(("ct-01", "ct-02"), 1.0, 4.0, 7.0),
        SlowScanner("ct-08", 0.5, 4.5, 3.0),
    )
    link = Link(latency=0.05, bandwidth=1e5, jitter=0.2, loss=0.1, duplication=0.2)
    speeds = {"ct-01": 0.5, "ct-06": 2.0, "ct-08": 3.0}
    cloud = CloudTerms(every=3, wait=2.0, deadline=1.0)
    return toy(rounds=9, link=link, incidents=incidents, cloud=cloud, rate=0.2, speeds=speeds, seed=7, **policies)


@dataclass
class Outcome:
    events: list[Event]
    vectors: dict[str, Vector]
    degraded: list[str]

    @property
    def digest(self) -> str:
        """Fingerprint of events and final vectors."""
        made = Digest()
        for event in self.events:
            made.feed(pack(event))
        for name in sorted(self.vectors):
            made.feed(self.vectors[name].tobytes())
        return made.hex

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


def play(run: Toy, folder: Path, *, shuffle: int | None = None) -> Outcome:
    """Run a toy to its end in this process; `shuffle`: seed of the order in which answers and deliveries come."""
    return conduct(run, LocalSwarm(shuffle=None if shuffle is None else np.random.default_rng(shuffle)), folder)


def conduct(
    run: Toy, swarm: Swarm, folder: Path, *, crews: Sequence[Sequence[str]] | None = None, watch: Callable[[Event], None] | None = None
) -> Outcome:
    """Run a toy to its end on `swarm`, in `crews` (default: all in one); `watch` is told every event."""
    first = swarm.start(run, crews or [run.names], Vault(folder))
    conductor = Conductor(run.world, swarm, first, incident_events(run.world.timeline()))
    events = []
    for event in conductor:
        events.append(event)
        if watch:
            watch(event)
    kept = [name for name in run.terms.everyone if not conductor.seats[name].gone]
    return Outcome(events, {name: swarm.vector(name) for name in kept}, conductor.degraded)


class Wire(LocalSwarm):
    """Remembers every frame that is delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Parcel] = []

    def _deliver(self, turn: int) -> Delivered:
        self.frames.append(self._flying[turn])
        return super()._deliver(turn)
