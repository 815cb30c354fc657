"""What goes with a universal encoder or masked images, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from p2pftl.gossip.partners import Nobody
from p2pftl.imaging.domains import Domains
from p2pftl.imaging.split import Iid
from p2pftl.learning.specs import FeatureCache, ModelSpec
from p2pftl.learning.transfer import FedPer, FedRep, Full, Head
from p2pftl.scenario.forms import policy_name
from p2pftl.scenario.schema import Scenario
from p2pftl.scenario.yaml_text import Path

Wrong = tuple[Path, bool, str, str]
GONE = "leave it out"


def encoder_faults(scenario: Scenario) -> Iterator[tuple[Path, str, str]]:
    """Yield the key to blame, the problem, and what mends it."""
    some = [name for name in ("detector", "universal", "masked") if getattr(scenario, name) is not None]
    if len(some) > 1:
        yield (some[1],), f"a run learns one thing, and this one has {' and '.join(some)}", f"keep one: `{some[1]}: null`"
        return
    found: list[Wrong] = [*_domains(scenario), *_cloud(scenario)]
    found += _not_beside(scenario, some[0]) if some and some[0] != "detector" else ()
    found += _universal(scenario) if scenario.universal else _masked(scenario) if scenario.masked else ()
    for path, wrong, problem, fix in found:
        if wrong:
            yield path, problem, fix


def _domains(scenario: Scenario) -> tuple[Wrong, ...]:
    """Label sets of their own need heads of their own."""
    data = scenario.data
    if not isinstance(data.source, Domains):
        return ()
    lone = scenario.universal is None and scenario.masked is None
    fix = "add `universal: {}`, or `masked: {}` to look at no class"
    out = data.source.left_out is not None
    kept = scenario.aggregator != type(scenario.aggregator)() or policy_name("aggregator", scenario.aggregator) != "weighted_mean"
    foreign = scenario.cloud is not None and policy_name("cloud", scenario.cloud.coordinator) != "universal"
    return (
        (("data", "use"), lone, "twins with domains of their own have classes of their own, which one head cannot tell apart", fix),
        (("data", "split"), not isinstance(data.split, Iid), "every twin has its own domain, so nothing is dealt", GONE),
        (("answers",), scenario.answers is True, "every twin has test images of its own, so answers cannot be put side by side", GONE),
        (("aggregator",), out and kept, "a domain is left out, whose twin has nothing to give to it", "use weighted_mean"),
        (("cloud",), out and foreign, "a domain is left out, whose twin uploads nothing and could not be answered", "use cloud: universal"),
        (("gate",), out and scenario.gate is not None, "a domain is left out, whose twin is not to choose by its own images", GONE),
    )  # fmt: skip


def _cloud(scenario: Scenario) -> tuple[Wrong, ...]:
    fuses = scenario.cloud is not None and policy_name("cloud", scenario.cloud.coordinator) == "universal"
    nothing = fuses and scenario.universal is None
    return ((("cloud", "use"), nothing, "it fuses universal encoders, and there are none", "add `universal: {}`"),)


def _not_beside(scenario: Scenario, what: str) -> tuple[Wrong, ...]:
    features = scenario.features.cache and scenario.features != FeatureCache()
    ifca = scenario.cloud is not None and policy_name("cloud", scenario.cloud.coordinator) == "ifca"
    boxed = getattr(scenario.data.source, "boxed", False)
    return (
        (("model",), scenario.model != ModelSpec(), "the encoder is a network of its own", f"say it in `{what}`, leave `model` out"),
        (("data", "use"), boxed, f"{what} learns from whole images, and these come with boxes", "use other data"),
        (("device",), scenario.device is not None, f"a simulated scanner is not put behind the twins of `{what}`", GONE),
        (("arrivals",), scenario.arrivals is not None, f"nothing arrives during a run of `{what}`", GONE),
        (("knowledge",), scenario.knowledge is not None, "it teaches classifiers that have their classes in common", GONE),
        (("features",), features, "nothing is kept of what an encoder made of images", GONE),
        (("compute", "together"), scenario.compute.together, "encoders are fitted one by one", GONE),
        (("cloud",), ifca, "it compares the losses of classifiers that have their classes in common", "use another cloud policy"),
    )  # fmt: skip


def _universal(scenario: Scenario) -> tuple[Wrong, ...]:
    transfer, alone = scenario.transfer, isinstance(scenario.partners, Nobody) and scenario.cloud is None
    private = isinstance(transfer, FedRep) or (isinstance(transfer, FedPer) and transfer.layers == 1) or alone
    fits = isinstance(transfer, FedPer | FedRep | Head | Full)
    return (
        (("transfer",), not (private and fits), "heads that mean different things are not to travel", "use transfer: fedper"),
        (("pooled",), scenario.pooled, "one twin cannot have the heads of all", GONE),
    )  # fmt: skip


def _masked(scenario: Scenario) -> tuple[Wrong, ...]:
    return ((("transfer",), not isinstance(scenario.transfer, Full), "an encoder and its decoder are learnt and shared whole", "use full"),)
