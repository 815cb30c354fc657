"""The two ends of a comparison: everybody learns alone, and all studies lie in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

from p2pftl.compare.cells import LONGEST, Bound, Variant
from p2pftl.errors import UsageError
from p2pftl.gossip.partners import Nobody
from p2pftl.learning.amount import samples_seen
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.scenario.schema import Scenario
from p2pftl.world.topology import CLOUD

LOCAL, POOLED = "local", "pooled"
EXCHANGE = ("aggregator", "codec", "pace", "mixing")
DEVICES = ("device", "arrivals")


def with_bounds(rows: Sequence[Variant]) -> list[Variant]:
    """Add what is missing of `local` and `pooled`, made of the first row; a variant of that name must be what it is called.

    Raises UsageError E617.
    """
    known = {row.name: row for row in rows}
    first = rows[0].scenario
    for name, is_one in ((LOCAL, _is_local), (POOLED, _is_pooled)):
        if name in known and not is_one(known[name].scenario):
            raise UsageError("E617", f"the variant {name} is not what --bounds calls so", fix="give the variant another name")
    bounds: dict[str, Bound] = {LOCAL: "lower", POOLED: "upper"}
    marked = [replace(row, bound=bounds.get(row.name, "")) for row in rows]
    if LOCAL not in known:
        marked.append(Variant(LOCAL, local(first), "no exchange: the lower bound", "lower"))
    if POOLED not in known:
        marked.append(Variant(POOLED, pooled(first), "all studies in one place: the upper bound", "upper", matched=True))
    return marked


def local(scenario: Scenario) -> Scenario:
    """Nobody talks to anybody; what else happens to the twins still does, but not what happens to the cloud alone."""
    kept = tuple(incident for incident in scenario.incidents if not _of_cloud(incident))
    return _named(replace(scenario, partners=Nobody(), cloud=None, incidents=kept, **_defaults(EXCHANGE)), LOCAL)


def pooled(scenario: Scenario) -> Scenario:
    """One twin with all studies, seen as often as all twins together see theirs: with epochs that is so, steps are as many
    as show the nearest number of images. Nothing happens to it."""
    changes: dict[str, Any] = {**_defaults(EXCHANGE + DEVICES), "partners": Nobody(), "cloud": None, "incidents": (), "pooled": True}
    return _named(replace(scenario, **changes), POOLED)


def budgeted(scenario: Scenario, dealt: Plan) -> Scenario:
    """`scenario`, which pools the studies of the plan `dealt`, with steps that show the nearest number of images."""
    lesson = dealt.transfer.plan(0, dealt.layout)
    sizes = [len(shard.train) for shard in dealt.shards.values()]
    target, whole = sum(samples_seen(scenario.fit, lesson, size) for size in sizes), sum(sizes)

    def seen(steps: int) -> int:
        return samples_seen(replace(scenario.fit, steps=steps), lesson, whole)

    low, high = 1, 2
    while seen(high) < target and high < 1_000_000:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seen(middle) < target else (low, middle)
    return replace(scenario, fit=replace(scenario.fit, steps=min(low, high, key=lambda steps: abs(seen(steps) - target))))


def with_seed(row: Variant, seed: int) -> Scenario:
    """The scenario of a row with one seed, the budget of our own upper bound matched to the shards that this seed deals."""
    scenario = replace(row.scenario, seed=seed)
    if not row.matched or scenario.fit.steps is None:
        return scenario
    return budgeted(scenario, compile_plan(replace(scenario, pooled=False)))


def _is_local(scenario: Scenario) -> bool:
    return isinstance(scenario.partners, Nobody) and scenario.cloud is None


def _is_pooled(scenario: Scenario) -> bool:
    return scenario.pooled


def _of_cloud(incident: Any) -> bool:
    return getattr(incident, "twin", None) == CLOUD or CLOUD in (getattr(incident, "link", None) or ())


def _defaults(keys: Sequence[str]) -> dict[str, Any]:
    """What a scenario has for `keys` when it does not say."""
    known = {item.name: item for item in fields(Scenario) if item.name in keys}
    return {name: item.default if item.default_factory is MISSING else item.default_factory() for name, item in known.items()}


def _named(scenario: Scenario, name: str) -> Scenario:
    return replace(scenario, name=f"{scenario.name}-{name}"[:LONGEST])
