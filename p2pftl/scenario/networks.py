"""Reading a topology from whatever file holds one: a scenario, a topology on its own, or a drawn network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import ValidationError

from p2pftl.scenario.faults import explain
from p2pftl.scenario.forms import Policy, fill
from p2pftl.scenario.load import load
from p2pftl.scenario.schema import Network
from p2pftl.scenario.yaml_text import document
from p2pftl.world.links import Link
from p2pftl.world.topologies import File
from p2pftl.world.topology import Topology


@dataclass(frozen=True)
class Alone:
    """A topology file: the value of a scenario's `topology` key."""

    topology: Annotated[Network, Policy("topology")]


def read_topology(path: Path, seed: int | None) -> tuple[Topology, Link]:
    """Return the graph in `path` and what its links are unless they say otherwise.

    A scenario's own seed is used unless `seed` is given; files without one use 0. Raises ScenarioError, TopologyError.
    """
    if path.suffix.lower() == ".graphml":
        return File(path=str(path)).build(seed or 0), Link()
    written = document(path)
    if "use" not in written.value:
        scenario = load(path, [] if seed is None else [f"seed={seed}"])
        return scenario.topology.build(scenario.seed), scenario.links
    try:
        alone: Alone = fill(Alone, {"topology": written.value}, path.absolute().parent)
    except ValidationError as error:
        raise explain(error, written) from None
    return alone.topology.build(seed or 0), Link()
