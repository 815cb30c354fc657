"""A compiled scenario: graph, who holds which data, timeline and predicted cost, before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from p2pftl.cloud.seams import Equipped
from p2pftl.draw import number
from p2pftl.exchange import partners
from p2pftl.gossip.frames import Header, seal
from p2pftl.gossip.partners import Nobody
from p2pftl.gossip.seams import MARKS, Signs
from p2pftl.imaging.cohort import Catalogue, Progress, Sample, Shard
from p2pftl.imaging.domains import Domains, shards_of
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.amount import samples_seen
from p2pftl.learning.detection.spec import said
from p2pftl.learning.knowledge import carried, extended, extends, of_model
from p2pftl.learning.outline import Outline, outline
from p2pftl.learning.specs import Compute, ModelSpec
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.params import Layout, length
from p2pftl.policies import name_of
from p2pftl.scenario.contradictions import day_s
from p2pftl.scenario.devices import check_devices, told, unseen
from p2pftl.scenario.packing import Packing, neighbourly, packing
from p2pftl.scenario.recruit import Recruiter, about
from p2pftl.scenario.schema import Scenario
from p2pftl.terms import CloudTerms, Terms
from p2pftl.world.device_incidents import in_seconds
from p2pftl.world.layout import positions
from p2pftl.world.topology import CLOUD, Topology, still
from p2pftl.world.world import World

SAMPLED_ROUNDS = 16
POOL = "pool"
PARTS = ("train", "validation", "test")
POLICIES = ("transfer", "knowledge", "aggregator", "codec", "partners", "pace", "mixing", "gate")


@dataclass(frozen=True)
class Plan:
    """What a run needs, compiled.

    shards: twin -> its samples (before `prepared`, a phantom's files need not exist); apart: where the scenario pools all studies,
    the plan of the twins that acquired them; source: what the source task came to, None without one; outlined: what is known of the
    network, None if this process is to find out.
    """

    scenario: Scenario
    topology: Topology
    world: World
    terms: Terms
    catalogue: Catalogue
    scanners: Mapping[str, Scanner]
    shards: Mapping[str, Shard]
    apart: Plan | None = None
    source: Mapping[str, Any] | None = None
    outlined: Outline | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every participant."""
        return (*self.topology.names, CLOUD) if self.terms.cloud else self.topology.names

    @property
    def layout(self) -> Layout:
        """Where the model's tensors lie. Raises ScenarioError E127."""
        return extended((self.outlined or self.outline()).layout, self.scenario.model, self.scenario.knowledge)

    @property
    def compute(self) -> Compute:
        """The scenario's, its precision without auto: the processes of one run must agree on it."""
        device = "cpu" if self.scenario.detector else self.scenario.compute.device
        return replace(self.scenario.compute, precision=(self.outlined or self.outline()).precision, device=device)

    @property
    def outline(self) -> Callable[[], Outline]:
        """Finds out what only torch can tell of the network, in any process. Raises ScenarioError E127 when called."""
        return partial(outline, self.scenario.network, len(self.catalogue.classes), self.scenario.compute, self.scenario.model.backbone)

    def outlined_as(self, found: Outline) -> Plan:
        """The same plan, which need not find out itself. Raises P2pftlError where this network cannot be trained as written."""
        plan = replace(self, outlined=found, apart=self.apart and replace(self.apart, outlined=found))
        plan.transfer.plan(self.scenario.rounds - 1, plan.layout)
        return plan

    @property
    def transfer(self) -> Any:
        """What is trained and travels of `layout`."""
        return carried(self.scenario.transfer, self.scenario.knowledge)

    def packing(self, cores: int) -> Packing:
        """Who shares a process. A participant that crashes on schedule, and the cloud, live alone: a crash takes a process."""
        alone = [name for name in self.names if name == CLOUD or self.world.crashes(name)]
        together = {name: self.scanners[name].speed for name in neighbourly(self.topology) if name not in set(alone)}
        return packing(together, alone, self.scenario.twins_per_actor, cores)

    def prepared(self, progress: Progress) -> Plan:
        """Make on disk what the data source needs; `progress(done, of)` reports. Raises P2pftlError for what cannot run as written."""
        if self.apart is not None:
            return self.apart.prepared(progress).pooled()
        scenario, source = self.scenario, self.scenario.data.source
        shards = source.prepare(self.shards, self.scanners, scenario.seed, progress)
        if scenario.cloud and isinstance(scenario.cloud.coordinator, Equipped):
            own = {sample.place for shard in shards.values() for part in PARTS for sample in getattr(shard, part)}
            ready = scenario.cloud.coordinator.equipped(scenario.seed, source.size, scenario.network.weights, own, progress)
            scenario = replace(scenario, cloud=replace(scenario.cloud, coordinator=ready))
        return replace(self, shards=shards, scenario=scenario)

    def recruiter(self, previews: Path | None) -> Recruiter:
        """Return what builds the participants in their own processes."""
        scenario = self.scenario
        wanted = self.catalogue.synthetic if scenario.previews is None else scenario.previews  # never of real data unasked
        return Recruiter(
            terms=self.terms, world=self.world, source=scenario.data.source, shards=self.shards, scanners=self.scanners,
            classes=len(self.catalogue.classes), layout=self.layout, model=scenario.model, compute=self.compute, recipe=scenario.fit,
            features=scenario.features, transfer=scenario.transfer, coordinator=scenario.cloud.coordinator if scenario.cloud else None,
            simulated=self.simulated, device=scenario.device, arrivals=scenario.arrivals, labels=self.catalogue.classes,
            previews=previews if wanted else None, detector=scenario.detector, universal=scenario.universal, masked=scenario.masked,
            own=self.catalogue.own, out=self.out, opposed=self.opposed,
        )  # fmt: skip

    def starting(self, first: ModelSpec | UniversalSpec | MaskedSpec, source: Mapping[str, Any]) -> Plan:
        """The same plan with the weights of `first`, which the source task made; `source`: its facts."""
        apart = self.apart and self.apart.starting(first, source)
        key = {UniversalSpec: "universal", MaskedSpec: "masked"}.get(type(first), "model")
        changed: dict[str, Any] = {key: first}
        return replace(self, scenario=replace(self.scenario, **changed), source=source, apart=apart)

    def without_exchange(self) -> Plan:
        """The same plan with nobody to talk to: what each twin learns alone."""
        scenario = _on_their_own(replace(self.scenario, partners=Nobody(), cloud=None))
        terms = replace(self.terms, partners=Nobody(), cloud=None, knowledge=scenario.knowledge)
        return replace(self, scenario=scenario, terms=terms)

    def pooled(self) -> Plan:
        """All studies in one place: one twin trains on what these train on, as fast as they are together, with nobody to talk to.

        Test images and first model are the same; links, cloud and incidents play no part. The upper bound of a comparison.
        """
        parts = ("train", "validation")
        names = [name for name in self.topology.names if name not in self.out]
        whole = {part: tuple(sample for name in names for sample in getattr(self.shards[name], part)) for part in parts}
        topology = still("pooled", (POOL,), ())
        scenario = _on_their_own(replace(self.scenario, partners=Nobody(), cloud=None, incidents=(), device=None, arrivals=None))
        return replace(
            self, scenario=scenario, topology=topology, apart=self,
            world=World(topology, scenario.links, (), None, scenario.seed),
            terms=replace(self.terms, everyone=topology.names, partners=Nobody(), cloud=None, knowledge=scenario.knowledge),
            scanners={POOL: Scanner(speed=sum(scanner.speed for scanner in self.scanners.values()))},
            shards={POOL: Shard(**whole, test=self._tests())},
        )  # fmt: skip

    @property
    def out(self) -> frozenset[str]:
        """Twins from whose images nobody learns."""
        source, twins = self.scenario.data.source, self.topology.names
        if not isinstance(source, Domains) or self.apart:
            return frozenset()
        return frozenset(name for name in twins if source.is_left_out(name, twins))

    @property
    def opposed(self) -> frozenset[str]:
        """Twins that number the classes backwards; all studies in one place are read by one reader."""
        return frozenset() if self.apart else frozenset(self.scenario.data.opposed)

    @property
    def simulated(self) -> bool:
        """The studies were acquired with the scanners of these very twins."""
        return self.catalogue.synthetic and self.apart is None

    def facts(self) -> dict[str, Any]:
        """Everything a person should know before it starts; the report shows it, `p2pftl plan` prints it."""
        scenario = self.scenario
        network, parameters = scenario.network, of_model(self.layout).size
        behind = self.layout.size - parameters
        return {
            "twins": {name: self._twin(name) for name in self.topology.names},
            "edges": self._edges(),
            "positions": {name: [round(x, 4), round(y, 4)] for name, (x, y) in positions(self.topology).items()},
            "topology": self._graph(),
            "cloud": self._cloud(),
            "incidents": self.world.timeline(),
            "predicted": self.predicted(),
            "model": {
                "backbone": network.backbone, "parameters": parameters, "shared": self._shared(0), **({"behind": behind} if behind else {}),
                "weights": None if network.weights is None else Path(network.weights).name, "digest": self.layout.digest,
                "precision": self.compute.precision, "adapters": scenario.model.adapters,
                **({"detector": said(scenario.detector)} if scenario.detector else {}),
                **({"kind": "universal"} if scenario.universal else {"kind": "masked"} if scenario.masked else {}),
            },
            "policies": {seam: name_of(policy) for seam in POLICIES if (policy := getattr(scenario, seam)) is not None},
            "data": {
                "use": name_of(scenario.data.source), "split": name_of(scenario.data.split), "synthetic": self.catalogue.synthetic,
                "classes": list(self.catalogue.classes), "images": len(self.catalogue.samples),
                "patients": len({sample.patient for sample in self.catalogue.samples}), "test": len(self._tests()),
                **self._tested(),
            },
            "exchange": not (isinstance(scenario.partners, Nobody) and scenario.cloud is None),
            **({"source": dict(self.source)} if self.source else {}),
        }  # fmt: skip

    def predicted(self) -> dict[str, Any]:
        """Bytes and virtual seconds without incidents, losses and jitter."""
        rounds, cloud = self.scenario.rounds, self.terms.cloud
        (frame, header), sent = self._frame_bytes("update"), self._frames_a_round()
        there = max((self._transit(a, b, frame) for a, b in self._pairs()), default=0.0) if sent else 0.0
        fit = max(self._fit_seconds(name) for name in self.topology.names)
        total = sent * rounds
        size = total * frame
        seconds = (fit + there) * rounds if self.terms.pace.lockstep else fit * rounds + there
        if cloud:
            visits = rounds // cloud.every
            whole, _ = self._frame_bytes("upload")
            back = 2 * max(self._transit(name, CLOUD, whole) for name in self.topology.names)
            both = 2 * visits * len(self.topology.names)
            total, size = total + both, size + both * whole
            seconds += visits * (max(0.0, back - there) if self.terms.pace.lockstep else back)
        return {
            "bytes": round(size), "virtual_seconds": round(seconds, 3), "frame_bytes": frame, "header_bytes": header, "frames": round(total)
        }  # fmt: skip

    # ------------------------------------------------------------------ parts of the facts

    def _twin(self, name: str) -> dict[str, Any]:
        found = about(
            self.shards[name], self.scanners[name], len(self.catalogue.classes), simulated=self.simulated, opposed=name in self.opposed
        )
        labels = dict(zip(self.catalogue.classes, found.pop("labels"), strict=True))
        device = told(self.scenario.device, self.scanners[name]) if self.scenario.device else None
        return {**found, **self._domain(name), "labels": labels, "neighbours": list(self.topology.neighbours(name, 0)), "device": device}

    def _domain(self, name: str) -> dict[str, Any]:
        """Whose domain it is, and what its classes are called, where every twin has its own."""
        source = self.scenario.data.source
        if not isinstance(source, Domains) or self.apart:
            return {}
        twins = self.topology.names
        told = {"domain": source.held_by(twins)[name], "classes": list(self.catalogue.own[name])}
        return told | {"left_out": name in self.out}

    def _tested(self) -> dict[str, list[int]]:
        """Of each common test image a number for its patient, 0 for the first that comes, and its class; nothing else of anybody."""
        if not self.terms.answers:
            return {}
        test, numbers = self._any_shard().test, dict[str, int]()
        patients = [numbers.setdefault(sample.patient, len(numbers)) for sample in test]
        return {"test_patients": patients, "test_labels": [int(sample.label) for sample in test]}

    def _cloud(self) -> dict[str, Any] | None:
        cloud = self.scenario.cloud
        return None if cloud is None else {"use": name_of(cloud.coordinator), "every": cloud.every, "wait": cloud.wait}

    def _graph(self) -> dict[str, Any]:
        topology = self.topology
        rounds = 1 if topology.static else min(topology.period or SAMPLED_ROUNDS, SAMPLED_ROUNDS)
        from p2pftl.gossip.spectrum import facts  # here: it brings scipy, which Ray need not wait for

        found = facts([topology.graph(k) for k in range(rounds)], self.scenario.mixing)
        degree = found.pop("degree")
        return {
            "kind": topology.kind, **found, "degree_min": degree["min"], "degree_mean": degree["mean"], "degree_max": degree["max"],
            "mixing": name_of(self.scenario.mixing), "static": topology.static, "directed": topology.directed,
            "notes": [*topology.notes, *found["notes"], *self.catalogue.notes, *self._late(), *self._hasty(), *self._unseen()],
        }  # fmt: skip

    def _late(self) -> list[str]:
        """Incidents that may come after the end. Only a prediction, so they are noted, not refused."""
        end = self.predicted()["virtual_seconds"]
        late = [row for row in self.world.timeline() if row["at"] > end]
        return [f"E119 {row['kind']} at {row['at']:g} s may never happen: the run is predicted to end at {end:.0f} s" for row in late]

    def _hasty(self) -> list[str]:
        """A cloud that waits for who is late may answer after those who were early have given up."""
        cloud = self.scenario.cloud
        if cloud is None or cloud.wait > cloud.deadline:
            return []
        late = f"cloud.deadline {cloud.deadline:g} s is not below cloud.wait {cloud.wait:g} s"
        return [f"{late}: where one upload is lost, the others have gone on when the cloud answers"]

    def _unseen(self) -> list[str]:
        return unseen(self.scenario, self.world, self.catalogue)

    def _edges(self) -> list[list[Any]]:
        return [[a, b, self._link(a, b)] for a, b in sorted(self.topology.graph(0).edges)]

    def _link(self, a: str, b: str) -> dict[str, float]:
        link = self.world.link(a, b)
        return {"latency": link.latency, "bandwidth": link.bandwidth, "loss": link.loss}

    def _pairs(self) -> list[tuple[str, str]]:
        return list(self.topology.graph(0).edges)

    def _transit(self, a: str, b: str, size: int) -> float:
        return self.world.fastest(a, b) + size / self.world.link(a, b).bandwidth

    def _frame_bytes(self, kind: str) -> tuple[int, int]:
        """Size of a frame of the last round, header included, and of its header."""
        terms, shared = self.terms, self.layout.ranges(self.transfer.plan(self.scenario.rounds - 1, self.layout).shared)
        codec = terms.codecs[kind]
        payload = codec.encode(np.zeros(length(shared), np.float32))
        first = self.topology.names[0]
        header = Header(
            run=terms.run, kind=kind, sender=first, incarnation=1, receiver=first, round=terms.rounds - 1, seq=terms.rounds,
            codec=type(codec).__name__, layout=self.layout.digest, ranges=shared, samples=len(self.shards[first].train), age=0.0,
            mass=1.0, degree=1, closes=0.0, met=-1, sent_at=0.0, answers=-1, signs=self._signs(first), sha256=bytes(32),
        )  # fmt: skip
        head = len(seal(header, payload))
        return head + payload.nbytes, head

    def _signs(self, name: str) -> Signs:
        return Signs((0.0,) * MARKS, 1.0, "active", self.scanners[name].kernel) if self.scenario.device else Signs()

    def _frames_a_round(self) -> float:
        rounds = range(min(self.scenario.rounds, SAMPLED_ROUNDS))
        return sum(len(partners(self.topology, self.terms, name, k)[0]) for k in rounds for name in self.topology.names) / len(rounds)

    def _fit_seconds(self, name: str) -> float:
        lesson, held = self.transfer.plan(0, self.layout), len(self.shards[name].train)
        samples = samples_seen(self.scenario.fit, lesson, held)
        if extends(self.scenario.knowledge):
            samples = self.scenario.knowledge.cost(samples, held)
        return samples * self.terms.seconds_per_sample / self.scanners[name].speed

    def _shared(self, round: int) -> int:
        return length(self.layout.ranges(self.transfer.plan(round, self.layout).shared))

    def _tests(self) -> tuple[Sample, ...]:
        """Test images: common to all twins, or of all twins' domains."""
        if not self.catalogue.own:
            return self._any_shard().test
        return tuple(sample for shard in self.shards.values() for sample in shard.test)

    def _any_shard(self) -> Shard:
        return self.shards[self.topology.names[0]]


def compile_plan(scenario: Scenario) -> Plan:
    """Compile `scenario`. Raises ScenarioError, TopologyError or DataError when it cannot run as written.

    Quick, because nothing here needs the network itself: what only that can tell is raised by `Plan.outlined_as`.
    """
    scenario = _on_their_own(scenario)
    topology = scenario.topology.build(scenario.seed)
    scanners = {name: scenario.twins.get(name, Scanner()) for name in topology.names}
    catalogue = scenario.data.source.catalogue(scanners, scenario.seed)
    incidents = in_seconds(scenario.incidents, day_s(scenario))
    check_devices(scenario, incidents, catalogue, scanners)
    data = scenario.data
    shards = shards_of(data.source, catalogue, topology.names, data.split, data.test, data.validation, scenario.seed)
    cloud = scenario.cloud
    terms = Terms(
        run=f"{scenario.name}-{number(scenario.seed, 'run', scenario.name, bits=32):08x}", seed=scenario.seed, rounds=scenario.rounds,
        everyone=topology.names, aggregator=scenario.aggregator, codec=scenario.codec, mixing=scenario.mixing, pace=scenario.pace,
        partners=scenario.partners, knowledge=scenario.knowledge, gate=scenario.gate,
        cloud=CloudTerms(cloud.every, cloud.wait, cloud.deadline) if cloud else None,
        evaluate=scenario.evaluate.every, seconds_per_sample=scenario.fit.seconds_per_sample,
        answers=tellable(scenario, catalogue),
    )  # fmt: skip
    links = (cloud.links or scenario.links) if cloud else None
    world = World(topology, scenario.links, incidents, links, scenario.seed)
    plan = Plan(scenario, topology, world, terms, catalogue, scanners, shards)
    return plan.pooled() if scenario.pooled else plan


def tellable(scenario: Scenario, catalogue: Catalogue) -> bool:
    """Whether answers are told: of real patients only if asked for, and only where test images and their classes are common to all."""
    wanted = catalogue.synthetic if scenario.answers is None else scenario.answers
    return wanted and not catalogue.own and scenario.masked is None and not scenario.data.opposed


def _on_their_own(scenario: Scenario) -> Scenario:
    """Without a knowledge policy that keeps entries behind the model where nobody is there to share them with: plain learning."""
    alone = isinstance(scenario.partners, Nobody) and scenario.cloud is None
    return replace(scenario, knowledge=None) if alone and extends(scenario.knowledge) else scenario
