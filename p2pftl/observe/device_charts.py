"""The charts of a twin's page: quality assurance, tube, and what the learning had of the scanner. Each over device days, "" where empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pftl.device.qa import QaPolicy
from p2pftl.observe.board import CLOUD
from p2pftl.observe.charts import THIN
from p2pftl.observe.chronicle import Chronicle, Evening, Morning
from p2pftl.observe.control import Chart, Line, Points, chart
from p2pftl.observe.history import History
from p2pftl.observe.life import span
from p2pftl.observe.units import some

COLOURS = 6
NAMED = 10  # lines that have their name at their end, at most
Alarms = Sequence[tuple[float, float, str]]


def water(device: Chronicle, policy: QaPolicy) -> str:
    """The water mean with its limits; a dot for each phantom with which something is wrong."""
    limit = policy.limits.mean_hu
    alarms = [(device.day(one.t), one.mean, one.reason) for one in device.mornings if one.reason]
    marks = [(limit, f"+{limit:g}"), (-limit, f"−{limit:g}")]
    return _phantoms(device, "Water, HU", [_mornings(device, lambda one: one.mean)], marks, alarms)


def cusum(device: Chronicle, policy: QaPolicy) -> str:
    """Both sums of the water mean with the threshold."""
    limit = policy.charts.threshold
    lines = [_mornings(device, lambda one: one.up, "mean", "up"), _mornings(device, lambda one: one.dn, "other-line", "down")]
    alarms = [(device.day(one.t), top, one.reason) for one in device.mornings if (top := max(one.up, one.dn)) > limit]
    return _phantoms(device, "CUSUM of water, standard deviations of a day", lines, [(limit, f"h = {limit:g}")], alarms, 0.0)


def noise(device: Chronicle, policy: QaPolicy) -> str:
    """Noise against the baseline with the limit of one day, and its EWMA with its own."""
    limit, narrow = 100 * policy.limits.sd_share, 100 * policy.charts.ewma_limit
    based = [one for one in device.mornings if one.baseline_sd]
    daily = Line([(device.day(one.t), 100 * (one.sd / one.baseline_sd - 1)) for one in based if one.baseline_sd], "faint-line", dots=True)
    ewma = Line([(device.day(one.t), 100 * one.ewma) for one in based])
    alarms = [(device.day(one.t), 100 * one.ewma, one.reason) for one in based if "noise" in one.reason]
    marks = [(limit, f"+{limit:g} %"), (-limit, f"−{limit:g} %"), (narrow, "EWMA"), (-narrow, "")]
    return _phantoms(device, "Noise, % above the baseline; bold: EWMA of ln noise", [daily, ewma], marks, alarms)


def uniformity(device: Chronicle, policy: QaPolicy) -> str:
    limit = policy.limits.unif_hu
    alarms = [(device.day(one.t), one.unif, one.reason) for one in device.mornings if one.unif > limit]
    lines = [_mornings(device, lambda one: one.unif)]
    return _phantoms(device, "Uniformity: largest difference of edge and centre, HU", lines, [(limit, f"{limit:g}")], alarms, 0.0)


def rings(device: Chronicle, policy: QaPolicy) -> str:
    """The ring index with the limit of the first protocol; a sharper kernel has another one, so only what was in doubt gets a dot."""
    limit = policy.limits.ring_hu
    alarms = [(device.day(one.t), one.ring, one.reason) for one in device.mornings if one.ring > limit and one.reason]
    return _phantoms(device, "Ring index, HU", [_mornings(device, lambda one: one.ring)], [(limit, f"{limit:.2g} warns")], alarms, 0.0)


def heat(device: Chronicle) -> str:
    """The day's highest heat, where it was noted."""
    points = [(day, 100 * share) for day, share in _evenings(device, lambda one: one.heat)]
    what = Chart("Tube heat: highest of the day, % of the capacity", [Line(points, dots=True)], span(device), [(90.0, "waits")])
    return _tube(device, what, 0.0)


def life_left(device: Chronicle) -> str:
    """Remaining tube life: median, and from the 10th to the 90th percentile."""
    area = _evenings(device, lambda one: one.p90), _evenings(device, lambda one: one.p10)
    middle = Line(_evenings(device, lambda one: one.p50), name="p50")
    return _tube(device, Chart("Remaining tube life, days: median, and p10 to p90", [middle], span(device), area=area), 0.0)


def output(device: Chronicle) -> str:
    """Output by the wear model, and as the noise of the phantoms has it."""
    model = Line([(day, 100 * share) for day, share in _evenings(device, lambda one: one.output)], name="model")
    seen = Line([(day, 100 * share) for day, share in _evenings(device, lambda one: one.measured)], "faint-line", "phantom", dots=True)
    return _tube(device, Chart("Tube output, % of a new one", [seen, model], span(device)))


def training_set(history: History, name: str) -> str:
    """Training images over time, with a dot where a quarantine took some."""
    device, shard = history.devices[name], history.shards.get(name)
    steps = [(device.began, float(shard.train))] if shard and device.arrived else []
    steps += [(device.day(event.t), float(event.held)) for event in device.arrived]
    if len(steps) < 2:
        return ""
    steps.append((max(device.day(history.end), steps[-1][0]), steps[-1][1]))
    gone = [(device.day(event.t), event) for event in device.withdrawn if event.images]
    alarms = [(day, _at(steps, day), f"{some(event.images, 'image')} left out: {event.reason}") for day, event in gone]
    first, last = _from_start(device, steps)
    return chart(Chart("Training images", [Line(steps, steps=True)], (first, last), (), alarms, shut(device, first, last), floor=0.0))


def weights(history: History, name: str) -> str:
    """How much of its merged model each neighbour took from this twin; 0 where it merged without it."""
    device = history.devices[name]
    given: dict[str, dict[float, float]] = {}
    for one in history.given.get(name, ()):
        if one.by not in (name, CLOUD):
            given.setdefault(one.by, {})[one.t] = one.weight
    for t, twin, _ in history.merges if given else ():
        if twin in given:
            given[twin].setdefault(t, 0.0)
    if not given or len(given) > THIN:
        return ""
    lines = []
    for i, by in enumerate(sorted(given)):
        points = [(device.day(t), given[by][t]) for t in sorted(given[by])]
        lines.append(Line(points, f"colour-{i % COLOURS}", by if len(given) <= NAMED else "", steps=True))
    first, last = _from_start(device, [point for line in lines for point in line.points])
    return chart(Chart("Weight its neighbours gave it when they merged", lines, (first, last), shaded=shut(device, first, last), floor=0.0))


def shut(device: Chronicle, first: float, last: float) -> list[tuple[float, float]]:
    """The days from first to last whose images are left out."""
    days = [(device.day(one.since), last if one.until is None else device.day(one.until)) for one in device.windows.values()]
    return [(max(first, since), min(last, until)) for since, until in days if until > first and since < last]


def _phantoms(
    device: Chronicle, name: str, lines: Sequence[Line], limits: Sequence[tuple[float, str]], alarms: Alarms, floor: float | None = None
) -> str:
    whole = span(device)
    return chart(Chart(name, lines, whole, limits, alarms, shut(device, *whole), device.began, floor)) if len(device.mornings) > 1 else ""


def _tube(device: Chronicle, what: Chart, floor: float | None = None) -> str:
    if not any(line.points for line in what.lines):
        return ""
    return chart(Chart(what.title, what.lines, what.span, what.limits, began=device.began, floor=floor, area=what.area))


def _mornings(device: Chronicle, value: Callable[[Morning], float], kind: str = "mean", name: str = "") -> Line:
    return Line([(device.day(one.t), value(one)) for one in device.mornings], kind, name, dots=not name)


def _evenings(device: Chronicle, value: Callable[[Evening], float | None]) -> list[tuple[float, float]]:
    return [(device.day(one.t), found) for one in device.evenings if (found := value(one)) is not None]


def _from_start(device: Chronicle, points: Points) -> tuple[float, float]:
    """The days of the learning, as long as there was anything."""
    first = min(device.began, *(day for day, _ in points))
    return first, max(first + 1, span(device)[1], *(day for day, _ in points))


def _at(steps: Points, day: float) -> float:
    return next((value for at, value in reversed(steps) if at <= day), steps[0][1])
