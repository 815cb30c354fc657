"""Water phantoms among the images that arrive: each is measured as it comes, a study is judged when it is complete.

A study counts once, with the median of each figure over its images. A chart compares like with like, so the protocol (kV,
kernel, slice) of the first phantom is the one that is judged until the device gets another baseline. Phantoms of another
protocol, and those that come after a newer one was judged, are counted as "unjudged".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

from p2pftl.device import checkup, dosimeter, health
from p2pftl.device.headers import Acquisition
from p2pftl.device.ledger import Known, Measured
from p2pftl.device.lifecycle import RENEWING
from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Protocol, Reading
from p2pftl.device.qa import QaPolicy
from p2pftl.device.tube import DAY
from p2pftl.errors import DataError

if TYPE_CHECKING:
    from p2pftl.device.ingest import Intake

UNJUDGED = "unjudged"


def measured(file: BinaryIO, image: Acquisition, now: float, where: str) -> dict[str, Any] | None:
    """What `judge` needs of one image, as JSON; None where there is no water phantom to measure. now: for an image without a time."""
    from p2pftl.device import supplied, water  # they load torch, which headers do without

    file.seek(0)
    try:
        hu, pixel_mm = supplied.pixels(file, where)
        reading, place = water.analyse(hu, pixel_mm), water.find(hu.astype(float), pixel_mm)
    except DataError:
        return None
    protocol = _protocol(image, 2 * place.radius_mm)
    return {
        "t": now if image.t is None else image.t, "reading": asdict(reading), "expected": protocol and water.expected_sd(protocol),
        "protocol": [image.get(f"config.{name}") for name in ("kvp", "kernel", "slice_mm")],
    }  # fmt: skip


def judge(intake: Intake, now: float, *, calm: float = 0.0, policy: QaPolicy | None = None) -> None:
    """Judge studies to which no image came for `calm` seconds, and notice that phantoms are missing. Between two commits of `intake`."""
    policy, groups = policy or QaPolicy(), dict[tuple[str, ...], list[Measured]]()
    for one in intake.ledger.readings():
        groups.setdefault((one.name, one.study, str(one.body["protocol"])), []).append(one)
    ready = [group for group in groups.values() if abs(now - max(one.arrived for one in group)) >= calm]
    for name, log in sorted(intake.logs.items()):
        mine = sorted((group for group in ready if group[0].name == name), key=lambda group: (_time(group), group[0].id))
        judged = log.fork()
        for group in mine:
            if not _judged(judged, intake.ledger.known[name], group, policy):
                intake.ledger.count(UNJUDGED, len(group))
            intake.ledger.judged(group)
        checkup.stale(judged, now, DAY, policy)
        if len(judged) > len(log):
            judged.record("observed", now, "log", {"values": _summary(judged, now, policy), "quality": "derived"})
        for entry in judged.entries[len(log) :]:
            intake.tell(name, entry.fact.kind, entry.fact.t, entry.fact.source, entry.fact.data)


def _judged(log: DeviceLog, device: Known, group: Sequence[Measured], policy: QaPolicy) -> bool:
    """Judge one study; False where it cannot be compared with those before."""
    t, last, protocol = _time(group), log.state.get("sync.last_qa"), list(group[0].body["protocol"])
    if not log.state.get("qa.baseline.n"):
        device.charted = protocol
    if protocol != device.charted or (last is not None and t <= last):
        return False
    reading = checkup.median([Reading(**one.body["reading"]) for one in group])
    checkup.arrived(log, reading, t, policy, expected=group[0].body["expected"])
    return True


def _summary(log: DeviceLog, now: float, policy: QaPolicy) -> dict[str, Any]:
    """Health, and the tube's output from the noise of the last days."""
    found = health.summary(log.state, now, DAY, policy, per_day=health.load(log.state, now, DAY))
    baseline, seen = log.state.get("qa.baseline.sd"), list[float]()
    for entry in log.entries:
        if entry.fact.kind == "maintained" and entry.fact.data["kind"] in RENEWING:
            seen.clear()
        elif entry.fact.kind == "qa" and entry.fact.data["values"].get("last.sd"):
            seen.append(entry.fact.data["values"]["last.sd"])
    if log.state.get("qa.baseline.n", 0) >= policy.charts.days and (output := dosimeter.output(seen, [baseline] * len(seen))):
        found |= {"tube.output_hat": output.value, "tube.output_sd": output.sd}
    return found


def _protocol(image: Acquisition, diameter_mm: float) -> Protocol | None:
    """How it was scanned, where the header says all of it and the model reaches there."""
    kvp, mas, slice_mm, kernel = (image.get(f"config.{name}") for name in ("kvp", "mas", "slice_mm", "kernel_group"))
    if None in (kvp, mas, slice_mm) or kernel not in ("soft", "standard", "lung", "bone"):
        return None
    inside = 70 <= kvp <= 140 and 0 < mas <= 10_000 and 0.5 <= slice_mm <= 10
    return Protocol(kvp=kvp, mas=mas, slice_mm=slice_mm, kernel=kernel, diameter_mm=diameter_mm) if inside else None


def _time(group: Sequence[Measured]) -> float:
    return min(float(one.body["t"]) for one in group)
