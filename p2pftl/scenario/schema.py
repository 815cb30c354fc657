"""What a scenario is, as types: the one thing a user writes and the rest of the package reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from annotated_types import Ge, Gt, Interval, Len, Lt
from pydantic import AfterValidator, WithJsonSchema

from p2pftl.cloud.seams import Coordinator
from p2pftl.device import protocol as phantoms
from p2pftl.device.coupling import Coupling
from p2pftl.device.qa import QaPolicy
from p2pftl.device.rules import Ageing, Rules, Workload
from p2pftl.device.tube import Wear
from p2pftl.gossip.seams import Aggregator, Codec, Gate, Mixing, Pace, Partners
from p2pftl.imaging.archive import Arrivals
from p2pftl.imaging.cohort import Source, Split
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.knowledge import Knowledge
from p2pftl.learning.specs import Compute, FeatureCache, ModelSpec, Recipe
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.scenario.forms import Default, Policy, Section, fault, form
from p2pftl.scenario.source import SourceTask
from p2pftl.world.incidents import Incident
from p2pftl.world.links import Link

if TYPE_CHECKING:
    from p2pftl.learning.transfer import Transfer
    from p2pftl.world.topology import Topology
else:
    Transfer = Any

VERSION = 1
LARGEST_SEED = 2**63 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Network(Protocol):
    """A topology policy: a description from which the graph is built."""

    def build(self, seed: int) -> Topology: ...


def _slug(name: str) -> str:
    if not NAME.fullmatch(name):
        raise fault("E125", "cannot name a folder", "use letters, digits, '.', '_' and '-', up to 64, the first a letter or digit")
    return name


def _supported(version: int) -> int:
    if version > VERSION:
        raise fault("E133", f"written for a newer p2pftl; this one reads version {VERSION}", "upgrade p2pftl")
    return version


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise fault("E118", f"{twice[0]} is listed twice", "list each seed once", found=False)
    return seeds


Seed = Annotated[int, Interval(ge=0, le=LARGEST_SEED)]
Fraction = Annotated[float, Gt(0), Lt(0.9)]


@dataclass(frozen=True)
class DataSection:
    """Which studies there are and who holds them.

    source: the data policy; split: how patients are dealt to twins; test: share of patients that nobody trains on, common to all;
    validation: share of each twin's own patients that it does not train on; opposed: twins whose readers number the classes backwards,
    in all that they hold and are tested on, so that of two classes each is called by the other's name.
    """

    source: Source
    split: Annotated[Split, Policy("split")] = field(default_factory=Default("split", "iid"))
    test: Fraction = 0.2
    validation: Fraction = 0.2
    opposed: tuple[str, ...] = ()


@dataclass(frozen=True)
class CloudSection:
    """The optional coordinator, a participant without a shard.

    coordinator: its policy; every: rounds between uploads; wait: virtual seconds a twin waits for the answer; deadline: virtual
    seconds after the first upload at which the cloud answers whom it heard; links: its links, null for the scenario's own.
    """

    coordinator: Coordinator
    every: Annotated[int, Ge(1)] = 1
    wait: Annotated[float, Gt(0)] = 60.0
    deadline: Annotated[float, Gt(0)] = 30.0
    links: Annotated[Link, Section()] | None = None


@dataclass(frozen=True)
class Every:
    """How often: every so many rounds.

    every: rounds from one to the next.
    """

    every: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True)
class DeviceSection:
    """A simulated scanner behind every twin.

    day_s: virtual seconds in a device's day; history: device days lived before the run begins; measure: phantoms drawn from their
    sampling distribution, or scanned and analysed as images; quarantine: leave out studies of a quarantine window and withhold the
    update meanwhile; adapt: rounds in which a changed protocol is answered by training normalisation and head alone; regain: how
    far below its accuracy before a change a twin may be and count in full again; drop: how far below its best a model may fall, twice in
    a row, before a maintenance flag asks for a phantom, 0 for no flag; protocol: how the phantom is scanned, null for
    each scanner's clinical settings; qa: limits and charts; workload: patients of a day; ageing: what changes by itself;
    wear: constants of the tube.
    """

    day_s: Annotated[float, Interval(ge=1e-3, le=1e9)] = 86_400.0
    history: Annotated[int, Interval(ge=0, le=10_000)] = 25
    measure: Literal["sampled", "image"] = "sampled"
    quarantine: bool = True
    adapt: Annotated[int, Ge(0)] = 1
    regain: Annotated[float, Interval(ge=0, le=1)] = 0.02
    drop: Annotated[float, Interval(ge=0, le=1)] = 0.15
    protocol: Annotated[phantoms.Protocol, Section()] | None = None
    qa: QaPolicy = field(default_factory=QaPolicy)
    workload: Workload = field(default_factory=Workload)
    ageing: Ageing = field(default_factory=Ageing)
    wear: Wear = field(default_factory=Wear)

    def __post_init__(self) -> None:
        """Raises ScenarioError E118 for a phantom that does not fit."""
        self.rules(Scanner())

    def rules(self, scanner: Scanner) -> Rules:
        """How the device lives whose clinical settings are `scanner`'s."""
        return Rules(
            day_s=self.day_s, measure=self.measure, protocol=self.protocol or phantoms.Protocol.of(scanner), policy=self.qa,
            workload=self.workload, ageing=self.ageing, wear=self.wear, history=self.history,
        )  # fmt: skip

    @property
    def coupling(self) -> Coupling:
        """How far the device reaches into the learning."""
        return Coupling(self.quarantine, self.adapt, self.regain, self.drop)


@dataclass(frozen=True)
class Scenario:
    """A peer-to-peer transfer-learning scenario of CT-scanner twins.

    name: names the run folder, the file's name if not given; rounds: gossip rounds of every twin; topology: who can talk to whom;
    data: which studies there are and who holds them; seed: all randomness comes from it, one is chosen if not given;
    model: backbone and first weights; source: the scenario that is run first, from whose model this one starts, null for none;
    detector: what finds things, instead of a model that tells images apart, null for none; universal: an encoder that all share under
    a head of each twin's own, instead of a model, null for none; masked: masked images instead of classes, null for none;
    fit: how a twin fits its shard in a round; compute: in which numbers, and on which device; features: what is kept of what
    frozen layers made of images; transfer: what is trained, what is shared; knowledge: how a twin learns from the models it heard,
    null for not at all;
    aggregator: how heard updates are merged into the own model; codec: how a model is written into a frame; partners: which
    neighbours are sent to; pace: when a round closes; mixing: weights of the neighbours; gate: measures what each exchange gains,
    and may refuse it, null for neither; cloud: the optional coordinator, null for none;
    links: latency, bandwidth and faults of every link; twins: scanners that differ from the standard one, by name;
    incidents: what happens to the world, and when; evaluate: how often models are scored; checkpoint: how often twins are saved;
    device: a simulated scanner behind every twin, null for none; arrivals: studies acquired during the run, null for a fixed set;
    control: also run without any exchange and report the margin;
    pooled: one twin trains on what all train on, the upper bound; previews: pictures of slices in
    the report, null for synthetic data only; answers: what each final model says of every test image, in the events, for statistics
    over patients, null for synthetic data only; models: which parameters of each twin's final model are written to the run
    folder, all, those that were ever trained or shared, or none; twins_per_actor: twins that share a process, or auto;
    variants: named changes of this scenario to compare; seeds: seeds to compare with; version: of this format.
    """

    name: Annotated[str, AfterValidator(_slug), WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})]
    rounds: Annotated[int, Interval(ge=1, le=1_000_000)]
    topology: Annotated[Network, Policy("topology")]
    data: Annotated[DataSection, Policy("data", slot="source")]
    seed: Seed
    model: Annotated[ModelSpec, Section()] = field(default_factory=ModelSpec)
    source: Annotated[SourceTask, Section()] | None = None
    detector: Annotated[DetectorSpec, Section()] | None = None
    universal: Annotated[UniversalSpec, Section()] | None = None
    masked: Annotated[MaskedSpec, Section()] | None = None
    fit: Annotated[Recipe, Section()] = field(default_factory=Recipe)
    compute: Annotated[Compute, Section()] = field(default_factory=Compute)
    features: Annotated[FeatureCache, Section()] = field(default_factory=FeatureCache)
    transfer: Annotated[Transfer, Policy("transfer")] = field(default_factory=Default("transfer", "full"))
    knowledge: Annotated[Knowledge, Policy("knowledge")] | None = None
    aggregator: Annotated[Aggregator, Policy("aggregator")] = field(default_factory=Default("aggregator", "weighted_mean"))
    codec: Annotated[Codec, Policy("codec")] = field(default_factory=Default("codec", "dense"))
    partners: Annotated[Partners, Policy("partners")] = field(default_factory=Default("partners", "all"))
    pace: Annotated[Pace, Policy("pace")] = field(default_factory=Default("pace", "synchronous"))
    mixing: Annotated[Mixing, Policy("mixing")] = field(default_factory=Default("mixing", "metropolis"))
    gate: Annotated[Gate, Policy("gate")] | None = None
    cloud: Annotated[CloudSection, Policy("cloud", slot="coordinator")] | None = None
    links: Annotated[Link, Section()] = field(default_factory=Link)
    twins: dict[str, Annotated[Scanner, Section()]] = field(default_factory=dict)
    incidents: tuple[Annotated[Incident, Policy("incident", key="kind")], ...] = ()
    evaluate: Every = Every()
    checkpoint: Every = Every()
    device: Annotated[DeviceSection, Section()] | None = None
    arrivals: Annotated[Arrivals, Section()] | None = None
    control: bool = False
    pooled: bool = False
    previews: bool | None = None
    answers: bool | None = None
    models: Literal["all", "trained", "none"] = "all"
    twins_per_actor: Annotated[int, Ge(1)] | Literal["auto"] = "auto"
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: Annotated[tuple[Seed, ...], Len(0, 1000), AfterValidator(_distinct)] = ()
    version: Annotated[int, Ge(1), AfterValidator(_supported), WithJsonSchema({"const": VERSION})] = VERSION
    seed_chosen: bool = field(default=False, compare=False, metadata={"key": False})

    @property
    def network(self) -> DetectorSpec | UniversalSpec | MaskedSpec | ModelSpec:
        """What learns."""
        return self.detector or self.universal or self.masked or self.model


def schema() -> Mapping[str, Any]:
    """Return the JSON schema of a scenario file with all policies installed here, for editors."""
    described = form(Scenario).model_json_schema()
    optional = {"name", "seed"}  # load() chooses them
    described["required"] = [key for key in described["required"] if key not in optional]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described, "title": "p2pftl scenario"}
