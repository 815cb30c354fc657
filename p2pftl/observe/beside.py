"""The record of every scanner, configuration, condition and maintenance, beside what the detector of its twin finds."""

from __future__ import annotations

from collections.abc import Sequence

from p2pftl.observe.chronicle import Chronicle
from p2pftl.observe.fleet import Scanner
from p2pftl.observe.lead import FOUND, told_by
from p2pftl.observe.life import STATES
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.scanners import page
from p2pftl.observe.sections import Told
from p2pftl.observe.units import NOTHING, figure, scanner

PARTS = ("calibration", "noise", "uniformity", "tube", "data_freshness")
FINDS = (("map_50", "mAP@0.5"), ("recall", "recall"), ("map_strict", "mAP@0.7:0.95"))


def section(told: Told, names: Sequence[str]) -> str:
    """One line per twin, of those that are shown; "" where nothing is detected or no twin has a device."""
    if not names or told_by(told.document) is not FOUND:
        return ""
    heads = ["twin", "configuration", "state", "health, lowest part", "last service", "flags", *(f">{name}" for _, name in FINDS)]
    rows = [_line(told, name) for name in names]
    text = (
        "Left: what the device twin knows of the scanner at the end of the run. Right: what the detector of the same twin finds in the "
        "common test images. A flag asks for a phantom, because it got worse on the validation images of its twin; it stops nothing."
    )
    return tag("section", tag("h2", "Scanner and detector, side by side"), tag("p", words(text), class_="hint"), table(heads, rows, "said"))


def _line(told: Told, name: str) -> list[str]:
    device, known = told.history.devices[name], told.history.board.fleet.of(name) or Scanner()
    test = told.document["twins"].get(name, {}).get("test", {})
    configuration = scanner(told.facts.get("twins", {}).get(name, {}).get("scanner"))
    state = device.stages[-1][1] if device.stages else ""
    return [
        tag("a", words(name), href=page(name)), words(configuration or NOTHING), words(STATES.get(state, state) or NOTHING), _health(known),
        words(_service(device)), words(_flags(device)), *(figure(test.get(metric)) for metric, _ in FINDS),
    ]  # fmt: skip


def _health(known: Scanner) -> str:
    """Its lowest part as a bar, and which that is."""
    parts = {part: value for part in PARTS if (value := known.health.get(part)) is not None}
    if not parts:
        return NOTHING
    lowest = min(parts, key=lambda part: parts[part])
    return _meter(parts[lowest]) + words(f" {figure(parts[lowest], 2)} {lowest.replace('_', ' ')}")


def _service(device: Chronicle) -> str:
    if not device.services:
        return "none"
    t, text = device.services[-1]
    return f"day {device.day(t):.0f}: {text.partition(' by ')[0]}"


def _flags(device: Chronicle) -> str:
    """How often it was flagged, and whether it still is; the page of the twin says why."""
    raised = sum(up for _, up, _ in device.flags)
    if not raised:
        return "none"
    t, up, _ = device.flags[-1]
    return f"{raised}, {'open since' if up else 'cleared on'} day {device.day(t):.1f}"


def _meter(share: float) -> str:
    """A bar in the colour of how good that is."""
    kind = "low" if share <= 0.2 else "half" if share <= 0.5 else "sound"
    return tag("i", tag("i", class_=kind, style=f"width:{100 * min(1.0, max(0.0, share)):.0f}%"), class_="meter", style="width:44px")
