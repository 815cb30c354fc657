"""The report's section on the scanners: one table and one drawing of all lives, with a link to the page of each twin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from p2pftl.observe import story
from p2pftl.observe.control import Track, lives
from p2pftl.observe.life import STATES, span, state_bars
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.sections import Told, legend
from p2pftl.observe.units import NOTHING, figure

LISTED, DRAWN = 100, 40
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a foreign event file may hold any name


def chosen(told: Told) -> list[str]:
    """The twins whose scanners are shown: all, or of very many those to whom most happened."""
    devices = told.history.devices
    names = sorted(name for name, device in devices.items() if device.stages and _FILE_NAME.fullmatch(name))
    if len(names) <= LISTED:
        return names
    order = sorted(names, key=lambda name: (-len(devices[name].windows), -len(devices[name].stages), name))
    return sorted(order[:LISTED])


def section(told: Told, names: Sequence[str]) -> str:
    """All scanners; "" where no twin has a device."""
    if not names:
        return ""
    devices = told.history.devices
    began = max(devices[name].began for name in names)
    last = max(span(devices[name])[1] for name in names)
    rows = sorted(names, key=lambda name: (-len(devices[name].windows), -len(devices[name].stages), name))[:DRAWN]
    bands = [Track(name, state_bars(devices[name]), link=page(name)) for name in sorted(rows)]
    drawn = tag("figure", lives(bands, (0.0, last), began), class_="full")
    shown = ("baseline", "active", "warn", "quarantined", "maintenance", "verifying", "offline")
    hint = legend(*((f"life-{state}", STATES[state]) for state in shown))
    heads = ["twin", "state", "phantom", ">quality", ">lowest health", ">quarantines", ">services", ">tube life left, d"]
    heads += [">images", ">left out", ">withheld"]
    lines = [[tag("a", words(name), href=page(name)), *map(words, _cells(told, name))] for name in names]
    text = "Behind every twin stands a scanner with a life of its own; a name leads to its page with control charts, tube and learning."
    more = f" {len(names)} of {sum(bool(device.stages) for device in devices.values()):,} are shown." if len(names) == LISTED else ""
    top = tag("h2", "The scanners"), tag("p", words(story.scanners(told.history))), tag("p", words(text + more), class_="hint")
    return tag("section", *top, hint, drawn, table(heads, lines))


def page(name: str) -> str:
    """Where a twin's page lies, from the report."""
    return f"twins/{quote(name, safe='')}.html"


def _cells(told: Told, name: str) -> list[str]:
    device, known = told.history.devices[name], told.history.board.fleet.of(name)
    life = next((evening.p50 for evening in reversed(device.evenings) if evening.p50 is not None), None)
    state = device.stages[-1][1]
    return [
        STATES.get(state, state), (known.status if known else "") or NOTHING, figure(known.quality if known else None, 1),
        figure(known.lowest if known else None, 2), str(len(device.windows)), str(len(device.services)),
        NOTHING if life is None else f"{life:,.0f}", NOTHING if known is None or known.held is None else f"{known.held:,}",
        f"{known.left_out:,}" if known else NOTHING, f"{known.withheld:,}" if known else NOTHING,
    ]  # fmt: skip
