"""A page per twin: what its scanner went through, and what the learning made of it. Beside the report, in `twins/`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pftl.events import Adapting, UpdateWithheld
from p2pftl.observe import device_charts, story
from p2pftl.observe.board import CLOUD
from p2pftl.observe.chronicle import Chronicle, Window
from p2pftl.observe.control import lives
from p2pftl.observe.fleet import Scanner
from p2pftl.observe.history import Given, History
from p2pftl.observe.life import STATES, limits, span, tracks
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.sections import Told, legend
from p2pftl.observe.units import NOTHING, figure, scanner, some

PARTS = ("calibration", "noise", "uniformity", "tube", "data_freshness")
Silent = UpdateWithheld | Adapting
PICTURE_BYTES = 300_000  # of one page


@dataclass(frozen=True)
class Subject:
    """One twin of a told run."""

    told: Told
    name: str

    @property
    def device(self) -> Chronicle:
        return self.told.history.devices[self.name]

    @property
    def scanner(self) -> Scanner:
        return self.told.history.board.fleet.of(self.name) or Scanner()

    @property
    def history(self) -> History:
        return self.told.history


def body(subject: Subject, pictures: Sequence[tuple[str, Path]]) -> str:
    """The page of one twin. pictures: (what, file) of its sample slices."""
    return "\n".join((
        _headline(subject),
        _life(subject),
        _quality(subject),
        _tube(subject),
        _learning(subject),
        _slices(subject, pictures),
    ))  # fmt: skip


def _headline(subject: Subject) -> str:
    told, name = subject.told, subject.name
    back = tag("p", tag("a", "p2pftl report", href="../report.html"), words(f" · {told.document['name'] or 'run'}"), class_="over")
    badge = tag("span", "synthetic data", class_="badge") if told.synthetic else ""
    configuration = told.facts.get("twins", {}).get(name, {}).get("scanner") or {}
    mirrors = scanner(configuration)
    lead = f"{name} is the twin of a CT scanner" + (f" ({mirrors})" if mirrors else "") + f". {_lived(subject.device)}"
    file, command = tag("code", words(f"{name}.device.jsonl")), tag("code", words(f"p2pftl twin history .. {name}"))
    log = tag("p", "The log behind this page: ", file, "; ", command, " tells it line by line.", class_="note")
    return tag("header", back, tag("h1", words(name), " ", badge), tag("p", words(lead), class_="lead"), log) + _figures(subject)


def _lived(device: Chronicle) -> str:
    """Its life in a few sentences."""
    before = device.began
    count, services = len(device.windows), len(device.services)
    said = f"It lived {device.days:.0f} device days" + (f", {before:.0f} of them before the learning began" if before >= 1 else "") + "."
    quarantined = "was never quarantined" if not count else "was quarantined once" if count == 1 else f"was quarantined {count} times"
    said += f" The scanner {quarantined} and " + (f"had {some(services, 'service')}" if services else "needed no service") + "."
    if device.stages:
        said += f" At the end it is {STATES.get(device.stages[-1][1], device.stages[-1][1])}."
    return said


def _figures(subject: Subject) -> str:
    device, known = subject.device, subject.scanner
    life = next((evening for evening in reversed(device.evenings) if evening.p50 is not None), None)
    left = NOTHING if life is None else f"{life.p50:,.0f}"
    studies = "a fixed set" if known.held is None else f"{known.arrived:,} arrived, {known.left_out:,} left out"
    alone = f"adapted alone in {some(len(device.adapting), 'round')}" if device.adapting else ""
    cells = [
        ("quality among peers", figure(known.quality, 1), f"phantom: {known.status or 'none yet'}"),
        ("tube life left, days", left, _range_of_life(life.p10, life.p90) if life else ""),
        ("training images", _held(subject), studies),
        ("updates withheld", f"{len(device.withheld):,}", alone),
    ]
    shown = [tag("div", tag("dt", words(a)), tag("dd", words(b), tag("small", words(c)) if c else "")) for a, b, c in cells]
    return tag("dl", *shown, class_="figures") + health(known)


def _held(subject: Subject) -> str:
    shard = subject.history.shards.get(subject.name)
    held = subject.scanner.held if subject.scanner.held is not None else shard.train if shard else None
    return NOTHING if held is None else f"{held:,}"


def _range_of_life(p10: float | None, p90: float | None) -> str:
    return "" if p10 is None or p90 is None else f"10 % fail within {p10:,.0f}, 90 % within {p90:,.0f}"


def health(known: Scanner) -> str:
    """Its health in parts, a bar each; 1 is as new, 0 at or beyond a limit."""
    items = []
    for part in PARTS:
        value = known.health.get(part)
        share = 0.0 if value is None else min(1.0, max(0.0, value))
        kind = "low" if share <= 0.2 else "half" if share <= 0.5 else "sound"
        bar = tag("i", tag("i", class_=kind, style=f"width:{100 * share:.0f}%") if value is not None else "", class_="meter")
        items.append(tag("span", tag("b", words(part.replace("_", " "))), bar, words(figure(value, 2))))
    return tag("p", *items, class_="health") if known.health else ""


def _life(subject: Subject) -> str:
    device = subject.device
    drawn = tag("figure", lives(tracks(device), span(device), device.began), class_="full")
    shown = dict.fromkeys(state for _, state, _ in device.stages)
    states = [(f"life-{state}", STATES[state]) for state in STATES if state in shown]
    hint = legend(*states, ("shut", "its images are left out"), ("service", "service"), ("incident", "incident"))
    rows = [(f"{device.day(t):.0f}", words(kind), words(text)) for t, kind, text in _events(device)]
    if len(rows) > 60:
        rows = [*rows[:40], ("", "", words(f"{len(rows) - 60} more")), *rows[-20:]]
    told = table((">day", "what", ""), rows, "facts log")
    text = "From the top: the state of its life, the windows whose images the learning left out, services, scripted incidents."
    return tag("section", tag("h2", "Life and maintenance"), tag("p", text, class_="hint"), hint, drawn, tag("h3", "What happened"), told)


def _events(device: Chronicle) -> list[tuple[float, str, str]]:
    """What happened, oldest first; of one moment the cause before what came of it."""
    found = [(t, "incident", text) for t, text in device.happened] + [(t, "service", text) for t, text in device.services]
    found += [(t, "state", f"{STATES.get(to, to)}" + (f": {why}" if why else "")) for t, to, why in device.stages]
    found += [(t, "flag", f"{'raised' if up else 'cleared'}: {text}") for t, up, text in device.flags]
    for one in device.windows.values():
        until = "is still open" if one.until is None else f"to day {device.day(one.until):.0f}"
        found.append((one.opened, "quarantine", f"window from day {device.day(one.since):.0f} {until}: {one.reason}"))
    return sorted(found, key=lambda item: item[0])


def _quality(subject: Subject) -> str:
    device, policy = subject.device, limits(subject.told.facts, subject.name)
    kinds = (device_charts.water, device_charts.cusum, device_charts.noise, device_charts.uniformity, device_charts.rings)
    drawn = [found for kind in kinds if (found := kind(device, policy))]
    if not drawn:
        return tag("section", tag("h2", "Quality assurance"), tag("p", "Too few phantoms were scanned to draw a chart."))
    text = (
        "A water phantom every morning. Dashed: limits. CUSUM and EWMA begin when the baseline is known and begin anew after a service. "
        "Red dots: something is wrong, the reason is under the pointer. Shaded: days whose images are left out."
    )
    return tag("section", tag("h2", "Quality assurance"), tag("p", text, class_="hint"), _grid(drawn))


def _tube(subject: Subject) -> str:
    drawn = [found for kind in (device_charts.heat, device_charts.life_left, device_charts.output) if (found := kind(subject.device))]
    text = "Heat and wear follow from the exposures; remaining life from a Weibull law whose constants are assumptions."
    return tag("section", tag("h2", "Tube"), tag("p", text, class_="hint"), _grid(drawn)) if drawn else ""


def _grid(drawn: Sequence[str]) -> str:
    return tag("div", *(tag("figure", one) for one in drawn), class_="grid2")


def _learning(subject: Subject) -> str:
    device, history = subject.device, subject.history
    drawn = filter(None, (device_charts.training_set(history, subject.name), device_charts.weights(history, subject.name)))
    text = (
        "How many images it had to learn from, and how far its neighbours listened to it: 0 where they merged without it. "
        "Red dots: images withdrawn. Shaded: days whose images are left out."
    )
    told: Sequence[tuple[str, Sequence[Silent]]] = [
        ("It withheld its update", device.withheld),
        ("It adapted norm and head alone", device.adapting),
    ]
    said = [f"{what} in {_when(history, events)}." for what, events in told if events]
    words_ = tag("p", words(" ".join(said))) if said else ""
    top = tag("h2", "What the learning made of it"), tag("p", text, class_="hint"), words_
    return tag("section", *top, _grid(list(drawn)), _recall(subject))


def _when(history: History, events: Sequence[Silent]) -> str:
    reasons = list(dict.fromkeys(event.reason for event in events))
    more = f"; and {len(reasons) - 4} more reasons" if len(reasons) > 5 else ""
    return f"{rounds([history.board.nth(event.round) for event in events])} ({'; '.join(reasons[: 4 if more else 5])}{more})"


def _recall(subject: Subject) -> str:
    """Who merged what this twin had learnt while its scanner was wrong and nobody knew."""
    device = subject.device
    rows = []
    for one in device.windows.values():
        by = unrecalled(one, subject.history.given.get(subject.name, ()))
        for name, numbers in by.items():
            rows.append(
                (f"{device.day(one.since):.0f} to {device.day(one.opened):.0f}", words(name), words(rounds(numbers)), words(one.reason))
            )
    if not device.windows:
        return ""
    if not rows:
        return tag("p", "No neighbour merged an update of it between the last passing phantom and the alarm.")
    text = "Neighbours merged these of its updates after its last passing phantom and before the alarm. They cannot be recalled."
    return (
        tag("h3", "Cannot be recalled")
        + tag("p", text, class_="hint")
        + table(("days", "neighbour", "its rounds", "found later"), rows, "facts")
    )


def unrecalled(window: Window, given: Sequence[Given]) -> dict[str, list[int]]:
    """neighbour -> its rounds that merged this twin's update within a window before it was opened, or by then on its way."""
    since = window.since
    until = float("inf") if window.until is None else window.until
    found: dict[str, list[int]] = {}
    for one in given:
        if since <= one.t < until and one.weight > 0 and one.by != CLOUD:
            found.setdefault(one.by, []).append(one.round)
    return {name: sorted(set(found[name])) for name in sorted(found)}


def rounds(numbers: Sequence[int]) -> str:
    """ "round 4", "rounds 4 to 6 and 9"."""
    wanted, runs = sorted(set(numbers)), list[list[int]]()
    for one in wanted:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    said = story.joined(str(a) if a == b else f"{a} to {b}" if b > a + 1 else f"{a}, {b}" for a, b in runs)
    return f"round {said}" if len(wanted) == 1 else f"rounds {said}"


def _slices(subject: Subject, pictures: Sequence[tuple[str, Path]]) -> str:
    shown, budget = [], PICTURE_BYTES
    for what, file in pictures:
        data = file.read_bytes()
        if len(data) > budget:
            continue
        budget -= len(data)
        image = tag("img", src=f"data:image/png;base64,{base64.b64encode(data).decode()}", alt=f"sample slice of {subject.name}, {what}")
        mark = tag("span", "synthetic", class_="badge") if subject.told.synthetic else ""
        shown.append(tag("figure", tag("div", image, mark, class_="slice"), tag("figcaption", words(what))))
    if not shown:
        return ""
    return tag("section", tag("h2", "What it sees"), tag("div", *shown, class_="slices large"))
