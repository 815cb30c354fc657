"""The devices of a plan: what befalls each of them on which day of its life, and what of that its studies can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from p2pftl.device.troubles import Trouble, anew, of_images, rehearse
from p2pftl.errors import DataError, P2pftlError, ScenarioError, nearest
from p2pftl.imaging.cohort import Catalogue, Source
from p2pftl.imaging.scanner import Scanner
from p2pftl.policies import name_of
from p2pftl.scenario.schema import DeviceSection, Scenario
from p2pftl.world.incidents import DeviceFault, Incident
from p2pftl.world.world import World

DIGITS = 9  # of a device day: seconds that were days come back as the same days


def troubles(faults: Sequence[DeviceFault], device: DeviceSection) -> tuple[Trouble, ...]:
    """Return what befalls a device, in days of its life. Raises ScenarioError E109, E110, E118 or E126 for what cannot befall one."""
    return tuple(
        Trouble(fault.kind, _day(fault.start, device), _day(fault.stop, device), fault.params) for fault in faults
    )  # fmt: skip


def check_devices(scenario: Scenario, incidents: Sequence[Incident], catalogue: Catalogue, scanners: Mapping[str, Scanner]) -> None:
    """Raise for incidents, in virtual seconds, that the studies cannot show or a scanner cannot have.

    DataError E336: it acts on Hounsfield units, and there are none; ScenarioError E118: it leads out of the model, or names no class;
    E128: images that are already acquired cannot be made to look like it.
    """
    befalls: dict[str, list[DeviceFault]] = {}
    for at, incident in enumerate(incidents):
        for fault in (effect for effect in incident.effects() if isinstance(effect, DeviceFault)):
            _check_studies(scenario, fault, catalogue, f"incidents[{at}]")
            befalls.setdefault(fault.twin, []).append(fault)
            if scenario.device is not None:
                try:
                    scanner = scanners[fault.twin]
                    rehearse(scanner, scenario.device.rules(scanner).protocol, troubles(befalls[fault.twin], scenario.device))
                except P2pftlError as error:
                    raise type(error)(error.code, f"{incident.kind}: {error.problem}", where=f"incidents[{at}]", fix=error.fix) from None


def unseen(scenario: Scenario, world: World, catalogue: Catalogue) -> list[str]:
    """What befalls the scanners and no image will show."""
    if scenario.arrivals is None:
        faults = [fault for name in world.topology.names for fault in world.faults(name) if of_images(fault.kind, fault.params)]
        return [f"no image shows the {fault.kind} of {fault.twin}: no study is acquired after it without `arrivals`" for fault in faults]
    grey = scenario.device is not None and catalogue.unit != "HU"
    return ["grey images show nothing of what becomes of a scanner: its device is seen in phantoms alone"] if grey else []


def told(device: DeviceSection, scanner: Scanner) -> dict[str, Any]:
    """What a plan says of one device."""
    from p2pftl.device.life import attuned  # here: it brings torch

    rules = device.rules(scanner)
    policy = attuned(rules.policy, rules.protocol)
    return {
        "day_s": rules.day_s, "history": rules.history, "measure": rules.measure, "protocol": asdict(rules.protocol),
        "limits": asdict(policy.limits), "charts": asdict(policy.charts),
    }  # fmt: skip


def _day(t: float, device: DeviceSection) -> float:
    return round(t / device.day_s, DIGITS) + device.history


def _check_studies(scenario: Scenario, fault: DeviceFault, catalogue: Catalogue, where: str) -> None:
    source = scenario.data.source
    if of_images(fault.kind, fault.params) and catalogue.unit != "HU":
        problem = f"{fault.kind} acts on Hounsfield units, and the {name_of(source)} data are grey values"
        raise DataError("E336", problem, where=where, fix="remove it, or use phantom or dicom data")
    if scenario.arrivals is not None and (wish := anew(fault.kind, fault.params)) and type(source).anatomy is Source.anatomy:
        problem = f"{fault.kind}: images that were acquired already cannot be given {wish}"
        raise ScenarioError("E128", problem, where=where, fix="use phantom data, or leave `arrivals` out")
    for name in fault.params.get("labels", {}):
        known = name in catalogue.classes or (name.isdecimal() and int(name) < len(catalogue.classes))
        if not known:
            fix = nearest(name, catalogue.classes)
            raise ScenarioError("E118", f"{fault.kind}: there is no class {name[:64]!a}", where=where, fix=fix)
