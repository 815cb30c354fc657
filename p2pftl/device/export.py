"""A device's state for others to read: an Eclipse Ditto thing as JSON, and the model behind it as DTDL.

What must not leave the twin (serial number, dates of the hardware) is left out unless asked for by name.
"""

from __future__ import annotations

import json
from typing import Any

from p2pftl.device.log import DeviceLog
from p2pftl.device.schema import FEATURES, LOCAL, SCHEMA, Field
from p2pftl.device.state import Desire, State

DTMI = "dtmi:p2pftl:scanner"
CONTEXT = "dtmi:dtdl:context;3"
TELEMETRY = ("qa.last.", "qa.cusum.", "qa.ewma", "tube.heat_", "tube.output", "sync.", "health.")
TEXTS = frozenset({"qa.alarms", "sync.missing"})  # arrays of text; all others are of numbers


def thing(state: State, *, local: bool = False) -> dict[str, Any]:
    """Return `state` as a Ditto thing; every value with unit, time, source and quality, missing ones too.

    local: with what must not leave the twin.
    """
    tree: dict[str, Any] = {"attributes": {}, "features": {name: {"properties": {}} for name in FEATURES}}
    for path in SCHEMA:
        if path in LOCAL and not local:
            continue
        leaf = state.leaf(path)
        value = {"v": leaf.v, "unit": leaf.unit, "t": leaf.t, "source": leaf.source, "quality": leaf.quality}
        _put(_room(tree, path), path, value)
    for path, wish in state.desired.items():
        feature = tree["features"][path.split(".")[0]]
        _put(feature.setdefault("desiredProperties", {}), path, _desire(wish))
    tree["features"]["maintenance"]["properties"]["records"] = [dict(record) for record in state.maintenance]
    tree["features"]["learning"]["properties"]["quarantine"] = [dict(window) for window in state.quarantine]
    return {
        "thingId": f"p2pftl:{state.name}",
        "policyId": "p2pftl:local",
        "definition": "p2pftl:scanner:1.0.0",
        "_revision": state.revision,
        **tree,
    }


def to_json(log: DeviceLog, *, local: bool = False) -> str:
    """Return the thing with the head of its log as indented JSON."""
    found = {**thing(log.state, local=local), "_log": {"entries": len(log), "head": log.head}}
    return json.dumps(found, indent=2, sort_keys=True, allow_nan=False)


def dtdl() -> str:
    """Return the model of a scanner twin as DTDL version 3: one interface per feature, and one that is composed of them."""
    parts = [_interface(name) for name in ("attributes", *FEATURES)]
    components = [{"@type": "Component", "name": name, "schema": f"{DTMI}:{name};1"} for name in ("attributes", *FEATURES)]
    whole = {
        "@context": CONTEXT, "@id": f"{DTMI};1", "@type": "Interface", "displayName": "CT scanner twin",
        "description": "Advice flows to the device as desired values that a human acknowledges; nothing is actuated.",
        "contents": [*components, {"@type": "Command", "name": "acknowledge", "description": "a human answers an advised value"}],
    }  # fmt: skip
    return json.dumps([whole, *parts], indent=2)


def _interface(feature: str) -> dict[str, Any]:
    contents = [_content(feature, path, field) for path, field in SCHEMA.items() if path.startswith(f"{feature}.") and path not in LOCAL]
    return {"@context": CONTEXT, "@id": f"{DTMI}:{feature};1", "@type": "Interface", "displayName": feature, "contents": contents}


def _content(feature: str, path: str, field: Field) -> dict[str, Any]:
    name = path.removeprefix(f"{feature}.").replace(".", "_")
    schema: Any = field.kind
    if field.kind == "array":
        schema = {"@type": "Array", "elementSchema": "string" if path in TEXTS else "double"}
    kind = "Telemetry" if path.startswith(TELEMETRY) and field.kind in ("double", "integer") else "Property"
    return {"@type": kind, "name": name, "schema": schema, "description": field.about + (f", {field.unit}" if field.unit else "")}


def _room(tree: dict[str, Any], path: str) -> dict[str, Any]:
    first = path.split(".")[0]
    room: dict[str, Any] = tree["attributes"] if first == "attributes" else tree["features"][first]["properties"]
    return room


def _put(room: dict[str, Any], path: str, value: dict[str, Any]) -> None:
    *steps, last = path.split(".")[1:]
    for step in steps:
        room = room.setdefault(step, {})
    room[last] = value


def _desire(wish: Desire) -> dict[str, Any]:
    ack = None if wish.at is None else {"by": wish.by, "at": wish.at, "accepted": wish.accepted}
    return {"v": wish.v, "unit": wish.unit, "t": wish.t, "reason": wish.reason, "ack": ack}
