"""Policies are found by entry point, ours and yours alike.

A policy is a frozen dataclass; its fields are its YAML schema:
`aggregator: {use: weighted_mean}` becomes the class registered as `weighted_mean`
in the entry-point group `p2pftl.aggregator`, called with the other keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import distributions

from p2pftl.errors import ScenarioError, nearest

SEAMS = (
    "topology", "mixing", "incident", "data", "split",
    "transfer", "knowledge", "aggregator", "codec", "pace", "partners", "gate", "cloud",
)  # fmt: skip


@dataclass(frozen=True)
class Within:
    """Annotation of a policy's field that holds another policy: of `seam`, none of the names in `but`; slot: as of a section."""

    seam: str
    but: tuple[str, ...] = ()
    slot: str = ""


@cache
def offered() -> dict[str, dict[str, str]]:
    """Return seam -> name -> "module:class" of every policy installed. Reads the metadata of all packages: once."""
    found: dict[str, dict[str, str]] = {seam: {} for seam in SEAMS}
    for distribution in distributions():
        for point in distribution.entry_points:
            group, _, seam = point.group.partition(".")
            if group == "p2pftl" and seam in found:
                found[seam].setdefault(point.name, point.value)  # what comes first on the path counts, as with modules
    return found


def registered(seam: str) -> dict[str, str]:
    """Return name -> "module:class" of every policy installed for `seam`."""
    return offered()[seam]


@cache
def find(seam: str, name: str) -> type:
    """Return the policy class `name` of `seam`.

    Raises ScenarioError E126 when no installed package offers it.
    """
    known = registered(seam)
    if name not in known:
        raise ScenarioError("E126", f"{seam}.use = {name}: no such policy", fix=nearest(name, known))
    module, _, qualname = known[name].partition(":")
    found: type = getattr(import_module(module), qualname)
    return found


def name_of(policy: object) -> str:
    """Return the name under which the class of `policy` is registered, its own name if it is not."""
    kind = type(policy)
    value = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for seam in SEAMS for name, found in registered(seam).items() if found == value), kind.__qualname__)
