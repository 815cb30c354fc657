"""The lives of devices as rows of bands, for one twin's page and for the whole fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pftl.device.charts import ChartPolicy
from p2pftl.device.qa import Limits, QaPolicy
from p2pftl.observe.chronicle import Chronicle
from p2pftl.observe.control import Track

STATES = {
    "commissioning": "being commissioned", "baseline": "learning its baseline", "active": "active", "warn": "in doubt",
    "quarantined": "quarantined", "maintenance": "in maintenance", "verifying": "being verified", "offline": "offline",
    "retired": "retired",
}  # fmt: skip


def limits(facts: Mapping[str, Any], name: str) -> QaPolicy:
    """The limits that a twin's phantoms are judged by: those of the plan where it names them, else the defaults."""
    told = facts.get("twins", {}).get(name, {}).get("device") or {}
    return QaPolicy(Limits(**told.get("limits", {})), ChartPolicy(**told.get("charts", {})))


def span(device: Chronicle) -> tuple[float, float]:
    """First and last device day to draw."""
    return 0.0, max(1.0, device.days)


def state_bars(device: Chronicle) -> list[tuple[float, float, str, str]]:
    """(from, to, CSS class, text) of every state of its life."""
    ends = [t for t, *_ in device.stages[1:]]
    last = span(device)[1]
    found = []
    for (t, to, why), end in zip(device.stages, [*map(device.day, ends), last], strict=True):
        if end > device.day(t):
            found.append(
                (device.day(t), end, f"life-{to if to in STATES else 'offline'}", STATES.get(to, to) + (f": {why}" if why else ""))
            )
    return found


def shut_bars(device: Chronicle) -> list[tuple[float, float, str, str]]:
    """The windows whose images the learning leaves out."""
    last = span(device)[1]
    return [
        (device.day(one.since), last if one.until is None else device.day(one.until), "shut", f"images left out: {one.reason}")
        for one in device.windows.values()
    ]


def tracks(device: Chronicle) -> list[Track]:
    """The rows of one life."""
    rows = [
        Track("state", state_bars(device)),
        Track("left out", shut_bars(device)),
        Track("service", ticks=[(device.day(t), "service", text) for t, text in device.services]),
        Track("incident", ticks=[(device.day(t), "incident", text) for t, text in device.happened]),
    ]
    silent = [(device.day(event.t), "silent", f"update of round {event.round} withheld: {event.reason}") for event in device.withheld]
    alone = [(device.day(event.t), "alone", f"norm and head alone: {event.reason}") for event in device.adapting]
    return [*rows, *([Track("withheld", ticks=silent)] if silent else []), *([Track("adapting", ticks=alone)] if alone else [])]
