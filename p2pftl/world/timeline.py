"""A scenario's incidents checked against its twins: who is named, what contradicts what."""

from __future__ import annotations

import math
from collections.abc import Sequence

from p2pftl.errors import ScenarioError, nearest
from p2pftl.world.incidents import (
    Crash,
    CutLink,
    DeviceFault,
    Down,
    Incident,
    Join,
    Leave,
    Outage,
    Partition,
    SlowLink,
    SlowScanner,
)
from p2pftl.world.topology import CLOUD, Topology


def check_incidents(incidents: Sequence[Incident], topology: Topology, *, cloud: bool) -> None:
    """Raise ScenarioError for the first incident that cannot happen, all in virtual seconds; `where` is "incidents[3]".

    E120 unknown twin or link; E121 ends before it begins, or comes after its twin has gone for good; E122 no twin left;
    E123 partition groups that overlap or leave nobody outside; E128 a twin joins or leaves twice.
    """
    names = (*topology.names, CLOUD) if cloud else topology.names
    known = frozenset(names)
    for position, incident in enumerate(incidents):
        where = f"incidents[{position}]"
        for name in incident.concerns():
            if name not in known:
                raise ScenarioError("E120", f"{incident.kind} names unknown twin {name[:64]!a}", where=where, fix=nearest(name, names))
        until = getattr(incident, "until", None)
        if until is not None and until <= incident.spans()[0]:
            problem = f"{incident.kind} ends at {until:g} s, not after its beginning at {incident.spans()[0]:g} s"
            raise ScenarioError("E121", problem, where=where, fix="until must be later than at")
        _check_kind(incident, topology, where)
    _check_lives(incidents, topology)


def _check_kind(incident: Incident, topology: Topology, where: str) -> None:
    if isinstance(incident, Partition):
        _check_groups(incident, topology, where)
    elif isinstance(incident, SlowLink | CutLink):
        first, second = incident.link
        if first == second:
            raise ScenarioError("E120", f"{incident.kind} names {first} twice", where=where, fix="a link has two ends")
        if CLOUD not in incident.link and second not in (possible := topology.possible(first)):
            fix = f"{first} has links to " + (", ".join(possible[:12]) or "nobody")
            raise ScenarioError("E120", f"{incident.kind} names {first} - {second}, which is no link", where=where, fix=fix)
    elif CLOUD in incident.concerns() and (isinstance(incident, SlowScanner) or _of_scanner(incident)):
        raise ScenarioError("E120", f"{incident.kind} names the cloud, which has no scanner", where=where, fix="name a twin")


def _of_scanner(incident: Incident) -> bool:
    return any(isinstance(effect, DeviceFault) for effect in incident.effects())


def _check_groups(partition: Partition, topology: Topology, where: str) -> None:
    named = [name for group in partition.groups for name in group]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        problem = "partition groups overlap: " + ", ".join(twice)
        raise ScenarioError("E123", problem, where=where, fix="every twin belongs to one group")
    if not partition.groups or not all(partition.groups):
        raise ScenarioError("E123", "partition has an empty group", where=where, fix="name at least one twin per group")
    if len(partition.groups) == 1 and not set(topology.names) - set(named):
        raise ScenarioError("E123", "partition has one group that holds every twin", where=where, fix="name only one side of the split")


def _check_lives(incidents: Sequence[Incident], topology: Topology) -> None:
    """Nothing happens to a twin that has gone for good; a twin joins and leaves once; somebody stays."""
    gone: dict[str, float] = {}
    for incident in incidents:
        for effect in incident.effects():
            if isinstance(effect, Down) and effect.stop == math.inf:
                gone[effect.twin] = min(effect.start, gone.get(effect.twin, math.inf))
    seen: set[tuple[str, str]] = set()
    for position, incident in enumerate(incidents):
        if not isinstance(incident, Outage | Crash | Join | Leave):
            continue
        where, name = f"incidents[{position}]", incident.twin
        start, stop = incident.spans()
        if isinstance(incident, Join | Leave):
            if (incident.kind, name) in seen:
                raise ScenarioError("E128", f"{name} has two {incident.kind} incidents", where=where, fix="use outage for a time away")
            seen.add((incident.kind, name))
        last = gone.get(name, math.inf)
        if start > last or (start == last and stop < math.inf):
            problem = f"{incident.kind} of {name} at {start:g} s, but it has gone for good at {last:g} s"
            raise ScenarioError("E121", problem, where=where, fix="give the earlier outage an until")
    if topology.names and all(name in gone for name in topology.names):
        last = max(gone[name] for name in topology.names)
        raise ScenarioError("E122", f"no twin is left from {last:g} s on", where="incidents", fix="let at least one twin stay")
