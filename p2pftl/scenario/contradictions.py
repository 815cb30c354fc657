"""What each key allows on its own but not together: names nobody has, weights that are not there, policies that do not mix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

from p2pftl.device.troubles import of_images
from p2pftl.device.tube import DAY
from p2pftl.errors import P2pftlError, nearest
from p2pftl.learning.knowledge import extends
from p2pftl.learning.specs import FeatureCache, ModelSpec
from p2pftl.scenario.encoders import encoder_faults
from p2pftl.scenario.forms import policy_name
from p2pftl.scenario.schema import Scenario
from p2pftl.scenario.yaml_text import Path
from p2pftl.world.device_incidents import CaseMixShift, in_seconds
from p2pftl.world.incidents import DeviceFault
from p2pftl.world.timeline import check_incidents

_GREY = ("images", "npz", "coco_boxes")
_ENUM = ("DEFAULT", "IMAGENET1K_V1")
_OF_CLASSES, _OF_BOXES, _OF_MASKED = ("loss", "accuracy", "balanced_accuracy", "f1"), ("accuracy", "map_50"), ("loss",)  # for gates
_POINT = {
    "E120": ("twin", "link", "groups"), "E121": ("until", "revive_after", "at", "day"), "E122": (), "E123": ("groups",), "E128": ("twin",),
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One contradiction. path: the value to blame, or its key; where: a place that is known already (a line of a topology file)."""

    code: str
    path: Path
    problem: str
    fix: str = ""
    where: str = ""
    key: bool = False


def contradictions(scenario: Scenario, text: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with `scenario`, written as `text`: E120 to E123, E127, E128, and what its topology raises (E2xx)."""
    yield from _weights(scenario)
    yield from _fit(text)
    yield from _mixed(scenario)
    yield from _gated(scenario)
    yield from _behind(scenario)
    yield from _detector(scenario)
    yield from _encoders(scenario)
    yield from _opposed(scenario)
    yield from _devices(scenario)
    yield from _crashes(scenario)
    yield from _names(scenario, text)


def _weights(scenario: Scenario) -> Iterator[Fault]:
    weights = scenario.model.weights
    if weights in _ENUM and scenario.model.backbone == "compact":
        problem = "the compact backbone has no torchvision weights"
        yield Fault("E127", ("model", "weights"), problem, "use null, a .safetensors file or another backbone")
    if scenario.model.head and weights is None:
        yield Fault("E128", ("model", "head"), "there are no weights it could come from", "give model.weights, or leave it out")
    yield from _usable(weights, ("model", "weights"))


def _usable(weights: str | None, path: Path) -> Iterator[Fault]:
    """The text of `weights` can name a source of weights."""
    if weights is None:
        return
    if weights.endswith(".safetensors"):
        if not File(weights).is_file():
            yield Fault("E127", path, "no such file", _beside(File(weights)))
    elif re.search(r"\.(pt|pth|bin|pkl|ckpt)$", weights):
        yield Fault("E127", path, "pickled weights are never loaded", "save them as .safetensors")
    elif weights not in _ENUM:
        yield Fault("E127", path, "must be null, a .safetensors file or a torchvision name", nearest(weights, _ENUM))


def _beside(file: File) -> str:
    try:
        there = [item.name for item in file.parent.iterdir() if item.suffix == ".safetensors"]
    except OSError:
        return "the folder does not exist either"
    return nearest(file.name, there) if there else "the folder holds no .safetensors file"


def _fit(text: Mapping[str, Any]) -> Iterator[Fault]:
    fit = text.get("fit") or {}
    if fit.get("steps") is not None and fit.get("epochs") is not None:
        yield Fault("E128", ("fit", "steps"), "epochs and steps are both given", "keep one of them")


def _mixed(scenario: Scenario) -> Iterator[Fault]:
    if getattr(scenario.aggregator, "whole", False) and not getattr(scenario.transfer, "fixed", True):
        name, transfer = policy_name("aggregator", scenario.aggregator), policy_name("transfer", scenario.transfer)
        problem = f"{name} keeps one mass for all it shares, but {transfer} shares more layers as rounds pass"
        yield Fault(
            "E128", ("transfer",), problem, "use another aggregator, or a transfer policy that shares the same layers in every round"
        )
    if getattr(scenario.aggregator, "whole", False) and scenario.cloud is not None:
        name = policy_name("aggregator", scenario.aggregator)
        problem = f"the cloud's answer replaces a model, and {name} would lose the mass that belongs to it"
        yield Fault("E128", ("cloud",), problem, "use cloud: null, or another aggregator")
    if getattr(scenario.aggregator, "whole", False) and getattr(scenario.codec, "partial", False):
        name, codec = policy_name("aggregator", scenario.aggregator), policy_name("codec", scenario.codec)
        problem = f"{name} moves the mass of a whole model, and {codec} sends a part of it"
        yield Fault("E128", ("codec",), problem, "use a codec that sends everything, or another aggregator")
    if policy_name("transfer", scenario.transfer) == "adapters" and not scenario.model.adapters:
        problem = "it trains adapters, and the model has none"
        yield Fault("E128", ("transfer",), problem, "give the model some, model: {adapters: 8}, or use transfer: head")


def _gated(scenario: Scenario) -> Iterator[Fault]:
    """A gate needs a merge that can do without an update, and a metric that is told."""
    gate, aggregator = scenario.gate, policy_name("aggregator", scenario.aggregator)
    if gate is None:
        return
    if gate.sifts and getattr(scenario.aggregator, "whole", False):
        problem = f"{aggregator} would lose the mass of what it refuses"
        yield Fault("E128", ("gate",), problem, "use gate: watch, or another aggregator")
    if gate.sifts and aggregator == "keep_own":
        yield Fault("E128", ("gate",), "keep_own merges nothing, so that nothing can gain", "leave it out, or use another aggregator")
    told = _OF_BOXES if scenario.detector else _OF_MASKED if scenario.masked else _OF_CLASSES
    if gate.metric in (*_OF_CLASSES, *_OF_BOXES) and gate.metric not in told:
        yield Fault("E128", ("gate", "metric"), f"{gate.metric} is not measured here", f"use metric: {' or '.join(told)}")


def _behind(scenario: Scenario) -> Iterator[Fault]:
    """What does not go with a knowledge policy that keeps entries of its own behind the model's."""
    knowledge, transfer = scenario.knowledge, policy_name("transfer", scenario.transfer)
    if not extends(knowledge):
        return
    name, private = policy_name("knowledge", knowledge), not getattr(knowledge, "beside", False)
    other = getattr(knowledge, "backbone", None) is not None and transfer != "full"
    still = name == "prototypes" and transfer == "head"
    found: tuple[tuple[Path, bool, str, str], ...] = (
        (("cloud",), scenario.cloud is not None, f"{name} is for twins among themselves, and a cloud averages models", "use cloud: null"),
        (
            ("codec",), name == "discriminant" and policy_name("codec", scenario.codec) != "dense",
            "it inverts a matrix of what was told, and this codec rounds it", "use codec: dense",
        ),
        (
            ("codec",), getattr(scenario.codec, "partial", False),
            f"what {name} adds must travel whole, and this codec sends a part", "use another codec",
        ),
        (
            ("aggregator",), policy_name("aggregator", scenario.aggregator) == "keep_own",
            f"what is heard must be merged for {name} to arrive, and keep_own merges nothing", "use adopt or weighted_mean",
        ),
        (("gate",), scenario.gate is not None and private, "it judges by the model, which stays private here", "leave it out"),
        (("transfer",), other, "a proxy of another backbone is shared as a whole", "use full, or leave knowledge.backbone out"),
        (("transfer",), still, "it leaves the embeddings as they came, and prototypes pull at them", "use another transfer policy"),
    )  # fmt: skip
    for path, wrong, problem, fix in found:
        if wrong:
            yield Fault("E128", path, problem, fix)


def _detector(scenario: Scenario) -> Iterator[Fault]:
    """A detector needs boxes and the other way round; what is built on a classifier's features or loss is not for it."""
    detector, data = scenario.detector, policy_name("data", scenario.data.source)
    boxed = getattr(scenario.data.source, "boxed", False)
    if detector is None:
        if boxed:
            yield Fault("E128", ("data", "use"), f"{data} has boxes, and nothing looks for them", "add `detector: {}`, or use other data")
        return
    if not boxed:
        yield Fault(
            "E128", ("detector",), f"it learns from boxes, and data: {data} has none", "use phantom_boxes, dicom_boxes or coco_boxes"
        )
    yield from _usable(detector.weights, ("detector", "weights"))
    for path, wrong, problem, fix in _not_beside_a_detector(scenario):
        if wrong:
            yield Fault("E128", path, problem, fix)


def _not_beside_a_detector(scenario: Scenario) -> tuple[tuple[Path, bool, str, str], ...]:
    """Where something stands, whether it is wrong beside a detector, why, and what mends it."""
    compute, cloud, arrivals = scenario.compute, scenario.cloud, scenario.arrivals is not None
    features = scenario.features.cache and scenario.features != FeatureCache()
    ifca = cloud is not None and policy_name("cloud", cloud.coordinator) == "ifca"
    gone = "leave it out"
    return (
        (("model",), scenario.model != ModelSpec(), "the detector has a backbone of its own", "say it in `detector`, leave `model` out"),
        (("arrivals",), arrivals, "nobody draws boxes around what arrives, and a detector needs them", gone),
        (("knowledge",), scenario.knowledge is not None, "it teaches classifiers, and this is a detector", gone),
        (("features",), features, "nothing is kept of what a detector's layers made of images", gone),
        (("compute", "together"), compute.together, "detectors are fitted one by one", gone),
        (("compute", "precision"), compute.precision == "bf16", "a detector is computed in 32 bits", "use fp32"),
        (("compute", "device"), compute.device == "cuda", "a detector is computed on the processor", "use cpu or auto"),
        (("fit", "views"), scenario.fit.views is not None, "a detector sees each image moved anew", gone),
        (("fit", "loss"), scenario.fit.loss != "cross_entropy", "a detector has losses of its own", gone),
        (("cloud",), ifca, "it compares the losses of classifiers, and this is a detector", "use another cloud policy"),
    )


def _encoders(scenario: Scenario) -> Iterator[Fault]:
    for key in ("universal", "masked"):
        if (spec := getattr(scenario, key)) is not None:
            yield from _usable(spec.weights, (key, "weights"))
    for path, problem, fix in encoder_faults(scenario):
        yield Fault("E128", path, problem, fix)


def _opposed(scenario: Scenario) -> Iterator[Fault]:
    """Whose readers number the classes backwards classifies studies that are read once."""
    if not scenario.data.opposed:
        return
    for key in ("detector", "universal", "masked", "device", "arrivals"):
        if getattr(scenario, key) is not None:
            yield Fault(
                "E128", (key,), "it does not go with data.opposed, which is for classifiers of studies that stay", "leave one of them out"
            )


def _devices(scenario: Scenario) -> Iterator[Fault]:
    """Incidents of scanners need a device behind the twins, and studies that can show them."""
    data = policy_name("data", scenario.data.source)
    for at, incident in enumerate(in_seconds(scenario.incidents, day_s(scenario))):
        kind = policy_name("incident", incident) or incident.kind
        faults = [effect for effect in incident.effects() if isinstance(effect, DeviceFault)]
        if not faults:
            continue
        path: Path = ("incidents", at, "kind")
        if any(of_images(fault.kind, fault.params) for fault in faults) and data in _GREY:
            problem = f"{kind} changes CT numbers, but data: {data} holds grey images without them"
            yield Fault("E128", path, problem, "use phantom or dicom data")
        elif scenario.device is None:
            problem = f"{kind} happens to a device, but there is none behind the twins"
            yield Fault("E128", path, problem, "add `device: {}`")
        elif isinstance(incident, CaseMixShift) and scenario.arrivals is None:
            problem = f"{kind} changes who comes, but no study comes during the run"
            yield Fault("E128", path, problem, "add `arrivals: {}`")


def _crashes(scenario: Scenario) -> Iterator[Fault]:
    """A process that is dead cannot be killed."""
    dead: dict[str, list[tuple[float, float]]] = {}
    for at, incident in enumerate(scenario.incidents):
        if policy_name("incident", incident) != "crash":
            continue
        name, (start, stop) = str(getattr(incident, "twin", "")), incident.spans()
        for first, last in dead.get(name, []):
            if start < last and first < stop:
                problem = f"{name} crashes while it is dead from {first:g} s to {last:g} s"
                yield Fault("E121", ("incidents", at, "at"), problem, "crash it again after it is revived")
        dead.setdefault(name, []).append((start, stop))


def _names(scenario: Scenario, text: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        topology = scenario.topology.build(scenario.seed)
    except P2pftlError as error:
        yield Fault(error.code, ("topology",), error.problem, error.fix, error.where)
        return
    for name in scenario.twins:
        if name not in topology.names:
            yield Fault("E120", ("twins", name), "the topology has no such twin", _nearest(name, topology.names), key=True)
    for place, name in enumerate(scenario.data.opposed):
        if name not in topology.names:
            yield Fault("E120", ("data", "opposed", place), f"the topology has no twin {name}", _nearest(name, topology.names))
    try:
        check_incidents(in_seconds(scenario.incidents, day_s(scenario)), topology, cloud=scenario.cloud is not None)
    except P2pftlError as error:
        path = _blamed(error, text)
        cloud = error.code == "E120" and "'cloud'" in error.problem and scenario.cloud is None
        yield Fault(error.code, path, error.problem, "the scenario has no cloud; add cloud: {use: fedavg}" if cloud else error.fix)


def day_s(scenario: Scenario) -> float:
    """Virtual seconds of a device day."""
    return scenario.device.day_s if scenario.device else DAY


def _blamed(error: P2pftlError, text: Mapping[str, Any]) -> Path:
    found = re.fullmatch(r"incidents\[(\d+)\]", error.where)
    if not found:
        return ("incidents",)
    at = int(found[1])
    written = text["incidents"][at]
    key = next((key for key in _POINT.get(error.code, ()) if key in written), None)
    return ("incidents", at, key) if key else ("incidents", at)


def _nearest(name: str, names: tuple[str, ...]) -> str:
    hint = nearest(name, names)
    return hint if hint.startswith("did") or len(names) <= 12 else f"allowed: {names[0]} to {names[-1]}"
