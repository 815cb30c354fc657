"""Policies are found by entry point, ours and yours alike.

A policy is a frozen dataclass; its fields are its YAML schema:
`aggregator: {use: weighted_mean}` becomes the class registered as `weighted_mean`
in the entry-point group `p2pftl.aggregator`, called with the other keys.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from p2pftl.errors import ScenarioError, nearest

SEAMS = (
    "topology", "mixing", "incident", "data", "split",
    "transfer", "aggregator", "codec", "pace", "partners", "cloud",
)  # fmt: skip


@cache
def registered(seam: str) -> dict[str, str]:
    """Return name -> "module:class" of every policy installed for `seam`."""
    return {point.name: point.value for point in entry_points(group=f"p2pftl.{seam}")}


@cache
def find(seam: str, name: str) -> type:
    """Return the policy class `name` of `seam`.

    Raises ScenarioError E126 when no installed package offers it.
    """
    for point in entry_points(group=f"p2pftl.{seam}"):
        if point.name == name:
            found: type = point.load()
            return found
    known = registered(seam)
    raise ScenarioError("E126", f"{seam}.use = {name}: no such policy", fix=nearest(name, known))


def name_of(policy: object) -> str:
    """Return the name under which the class of `policy` is registered, its own name if it is not."""
    kind = type(policy)
    value = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for seam in SEAMS for name, found in registered(seam).items() if found == value), kind.__qualname__)
