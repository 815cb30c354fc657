"""Building a participant where it will live: it reads its own shard there, and pixels never travel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pftl.agenda import Participant
from p2pftl.cloud.cloud import Cloud
from p2pftl.cloud.seams import Coordinator
from p2pftl.device.troubles import of_images
from p2pftl.draw import number
from p2pftl.imaging.archive import Arrivals
from p2pftl.imaging.boxes import BoxCohort
from p2pftl.imaging.cohort import Cohort, Sample, Shard, Source
from p2pftl.imaging.previews import write_preview
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.knowledge import Discriminant, Prototypes, Proxy, extends
from p2pftl.learning.specs import Compute, FeatureCache, ModelSpec, Recipe
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.params import Layout
from p2pftl.scenario.devices import troubles
from p2pftl.scenario.schema import DeviceSection
from p2pftl.terms import Terms
from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

if TYPE_CHECKING:  # it brings torch
    from p2pftl.learning.classification import Classification
    from p2pftl.learning.task import Task
    from p2pftl.mirror import Mirror

FOUND = "-found"  # after a twin's name: the picture of what its detector found at the end


@dataclass(frozen=True)
class Recruiter:
    """Called by name in a participant's own process; models and the common test set are made once per process.

    previews: folder for pictures of each twin's studies, None for none; device: what stands behind every twin, None for nothing;
    arrivals: studies acquired during the run, None for none; labels: names of the classes; detector, universal, masked: what learns
    instead of `model`; own: twin -> its classes where they are its own, as its test images are then; out: twins that only listen;
    opposed: twins that number the classes backwards.
    """

    terms: Terms
    world: World
    source: Source
    shards: Mapping[str, Shard]
    scanners: Mapping[str, Scanner]
    classes: int
    layout: Layout
    model: ModelSpec
    compute: Compute
    recipe: Recipe
    features: FeatureCache
    transfer: Any
    coordinator: Coordinator | None
    simulated: bool
    previews: Path | None
    device: DeviceSection | None = None
    arrivals: Arrivals | None = None
    labels: tuple[str, ...] = ()
    detector: DetectorSpec | None = None
    universal: UniversalSpec | None = None
    masked: MaskedSpec | None = None
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    out: frozenset[str] = frozenset()
    opposed: frozenset[str] = frozenset()
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, name: str) -> Participant:
        if name == CLOUD:
            assert self.coordinator is not None
            return Cloud(self.coordinator, self.terms, self.world, self.layout)
        return self._twin(name)

    def _twin(self, name: str) -> Participant:
        from p2pftl.learning.engine import prepare_torch

        prepare_torch()  # before anything imports torch
        from p2pftl.twin import Twin

        shard = self.shards[name]
        cohorts = {"train": self._named(name, self.source.read(shard.train)), "validation": self._named(name, self._read(shard.validation))}
        tested = name if self.own else "opposed" if name in self.opposed else ""
        cohorts["test"] = self._once(f"test {tested}", lambda: self._named(name, self._read(shard.test)))
        if self.previews is not None:
            write_preview(cohorts["train"], self.previews / f"{name}.png")
        scanner = self.scanners[name]
        task = self._task(name, cohorts)
        told = about(shard, scanner, self.classes, simulated=self.simulated, opposed=name in self.opposed)
        mirror = self._mirror(name, cohorts)
        return Twin(name, task, self.terms, self.world, mirror=mirror, speed=scanner.speed, about=told)

    def _task(self, name: str, cohorts: Mapping[str, Any]) -> Task:
        if self.detector:
            return self._detection(name, cohorts)
        if self.universal:
            return self._private(name, cohorts, self.universal)
        return self._masked(name, cohorts, self.masked) if self.masked else self._classification(name, cohorts)

    def _private(self, name: str, cohorts: Mapping[str, Cohort], spec: UniversalSpec) -> Task:
        from p2pftl.learning.universal.heads import PrivateHead
        from p2pftl.learning.universal.model import Universal

        seed, classes = self.terms.seed, len(self.own.get(name, self.labels))
        model = self._once("model", lambda: Universal(spec.encoder, self.classes, seed, self.compute, spec.weights))
        start = self._once("start", model.take)
        listens = name in self.out
        return PrivateHead(name, model, start, cohorts, self.recipe, self.transfer, seed, classes, listens=listens)

    def _masked(self, name: str, cohorts: Mapping[str, Cohort], spec: MaskedSpec) -> Task:
        from p2pftl.learning.universal.masked import MaskedImages
        from p2pftl.learning.universal.model import Universal

        seed = self.terms.seed
        model = self._once("model", lambda: Universal(spec.encoder, 0, seed, self.compute, spec.weights))
        start, listens, classes = self._once("start", model.take), name in self.out, len(self.own.get(name, ()))
        return MaskedImages(name, model, start, cohorts, self.recipe, self.transfer, seed, spec.masking, listens, classes)

    def _classification(self, name: str, cohorts: Mapping[str, Cohort]) -> Task:
        from p2pftl.learning.classification import Classification
        from p2pftl.learning.features import Features
        from p2pftl.learning.models import Model

        model = self._once("model", lambda: Model(self.model, self.classes, self.terms.seed, self.compute))
        start = self._once("start", model.take)
        features = self._once("features", lambda: Features(model, self.features))
        knowledge, mate = self.terms.knowledge, None
        if knowledge is not None and not extends(knowledge):
            mate = self._once("mate", lambda: Model(replace(self.model, weights=None), self.classes, self.terms.seed, self.compute))
        task = Classification(
            name, model, start, cohorts, self.recipe, self.transfer, self.terms.seed, self.classes, features, knowledge, mate
        )  # fmt: skip
        return self._extended(task)

    def _extended(self, task: Classification) -> Task:
        """`task`, with what the knowledge policy keeps behind the model."""
        policy = self.terms.knowledge
        if isinstance(policy, Proxy):
            from p2pftl.learning.models import Model
            from p2pftl.learning.proxy import ProxyLearning

            seed = number(self.terms.seed, "proxy")
            network = self._once("proxy", lambda: Model(policy.spec(self.model), self.classes, seed, self.compute))
            return ProxyLearning(task, policy, self.layout, network, self._once("first proxy", network.take))
        if isinstance(policy, Prototypes):
            from p2pftl.learning.prototypes import PrototypeLearning

            return PrototypeLearning(task, policy, self.layout)
        if isinstance(policy, Discriminant):
            from p2pftl.learning.discriminant import DiscriminantLearning

            return DiscriminantLearning(task, policy, self.layout)
        return task

    def _detection(self, name: str, cohorts: Mapping[str, Any]) -> Task:
        """cohorts: of images with boxes, as every data source reads them that a detector is allowed with."""
        from p2pftl.learning.detection.model import Detector, initial
        from p2pftl.learning.detection.task import Detection

        spec, seed = self.detector, self.terms.seed
        assert spec is not None
        start = self._once("start", lambda: initial(spec, self.classes, seed))
        model = self._once("model", lambda: Detector(spec, self.classes, seed, start=start))
        picture = self.previews and self.previews / f"{name}{FOUND}.png"
        last = self.terms.rounds - 1
        return Detection(name, model, start, cohorts, self.recipe, self.transfer, seed, picture=picture, last=last)

    def _mirror(self, name: str, cohorts: Mapping[str, Cohort]) -> Mirror | None:
        """The device and the studies behind a twin, None where nothing befalls either."""
        if self.device is None and self.arrivals is None:
            return None
        from p2pftl.device.life import Device
        from p2pftl.imaging.archive import Archive
        from p2pftl.mirror import Mirror

        scanner, faults, seed = self.scanners[name], self.world.faults(name), self.terms.seed
        device = coupling = None
        if self.device is not None:
            befalls, coupling = troubles(faults, self.device), self.device.coupling
            device = Device.new(name, seed=seed, scanner=scanner, rules=self.device.rules(scanner), troubles=befalls)
        moments = [(fault.start, fault.kind) for fault in faults if of_images(fault.kind, fault.params)]
        archive = Archive(
            name, seed, self.shards[name], self.source, cohorts, scanner, self.arrivals,
            classes=self.labels, moments=moments, previews=self.previews,
        )  # fmt: skip
        return Mirror(name, device, archive, coupling)

    def _named(self, name: str, cohort: Cohort) -> Cohort:
        """The cohort with its classes numbered as `name` does."""
        return replace(cohort, labels=self.classes - 1 - cohort.labels) if name in self.opposed else cohort

    def _read(self, samples: tuple[Sample, ...]) -> Cohort:
        if samples:
            return self.source.read(samples)
        empty = self.source.read(self.shards[self.terms.everyone[0]].train[:1])
        none: dict[str, Any] = {"pixels": empty.pixels[:0], "labels": empty.labels[:0]}
        if isinstance(empty, BoxCohort):
            none |= {"boxes": (), "kinds": ()}
        return replace(empty, **none)

    def _once(self, what: str, make: Any) -> Any:
        if what not in self._kept:
            self._kept[what] = make()
        return self._kept[what]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to one process."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "_kept"} | {"_kept": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def about(shard: Shard, scanner: Scanner, classes: int, *, simulated: bool, opposed: bool = False) -> dict[str, Any]:
    """What a twin tells of itself: counts and configuration, no key of any patient.

    simulated: the studies were acquired with `scanner`; of others only what their headers or manifest say is known; opposed: it
    numbers the classes backwards.
    """
    labels = Counter(classes - 1 - sample.label if opposed else sample.label for sample in shard.train)
    seen = sorted({sample.scanner for sample in (*shard.train, *shard.validation)} - {""})
    return {
        "train": len(shard.train),
        "validation": len(shard.validation),
        "test": len(shard.test),
        "patients": len({sample.patient for sample in (*shard.train, *shard.validation)}),
        "labels": tuple(labels[k] for k in range(classes)),
        "scanner": asdict(scanner) if simulated else {"seen": ", ".join(seen), "speed": scanner.speed},
    }
