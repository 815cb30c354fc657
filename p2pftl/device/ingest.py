"""One file of a scanner to facts in its twin's log: counted once, whatever it is called and however often it comes.

    with Intake(Path("twins")) as intake:
        intake.take(path, "file 1", now)      # an image or a dose report
        intake.settle(now)                    # series that are complete: their configuration, then their beam-ons
        intake.commit()                       # remembered, and written to twins/NAME.device.jsonl

A series is described when no image of it came for `calm` seconds. Its beam-on is told `wait` seconds after: a dose report that
comes until then tells it better, one that comes later is not counted a second time. `now` is the caller's clock, POSIX seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from p2pftl.device import headers, rdsr
from p2pftl.device.beams import AVERAGED, Irradiation, Strip, estimate, in_order, same
from p2pftl.device.headers import MARKED, Acquisition, Device, Site
from p2pftl.device.ledger import DESCRIBED, DONE, OPEN, Known, Ledger, Opened
from p2pftl.device.log import DeviceLog, append, load
from p2pftl.device.phantoms import UNJUDGED, measured
from p2pftl.device.show import SUFFIX
from p2pftl.errors import CheckpointError, DataError
from p2pftl.imaging.files import refusal
from p2pftl.imaging.slice_file import opened

CALM_S, WAIT_S = 5.0, 600.0
GONE = "gone"  # the file vanished before it was read
_KEPT = "put the whole log back"
OTHER = "other"  # not DICOM, and neither its name nor its place in a DICOM export says so


@dataclass(frozen=True)
class Taken:
    """What became of a file: image, phantom, report, again (known before), other, gone, or the code of a refusal. twin: whose it is."""

    outcome: str
    twin: str = ""

    @property
    def refused(self) -> bool:
        return self.outcome.startswith("E")


class Intake:
    """The twins in folder `out`: NAME.device.jsonl each, and what the sync remembers.

    site: its rule for test objects. Raises UsageError E510, E512, CheckpointError E501, E502, E505, E509 as the ledger and the logs do.
    """

    def __init__(self, out: Path, site: Site = MARKED) -> None:
        self.out, self._site = out, site
        self.ledger = Ledger(out)
        self.logs: dict[str, DeviceLog] = {}
        try:
            self._restore()
        except BaseException:
            self.ledger.close()
            raise

    def __enter__(self) -> Intake:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ledger.close()

    def path(self, name: str) -> Path:
        """The file of a twin's log."""
        return self.out / f"{name}{SUFFIX}"

    def take(self, path: Path, where: str, now: float, before: str = "") -> Taken:
        """Read one file and note what it says. `where` names it in place of its path, which can hold a name.

        before: what became of the same file when it was read last, if it was: it is not counted twice.
        """
        try:
            with _readable(path, where) as file:
                found = self._read(file, where)
                new = isinstance(found, Acquisition) and found.phantom and not self.ledger.is_known(found.instance)
                water = measured(file, found, now, where) if new and isinstance(found, Acquisition) else None
        except DataError as problem:
            taken = Taken(_ending(path, problem.code))
        else:
            taken = self._image(found, now, before) if isinstance(found, Acquisition) else self._report(found, now, before)
            if isinstance(found, Acquisition) and water:
                self.ledger.keep_reading(taken.twin, found.study, now, water)
            elif new:
                self.ledger.count(UNJUDGED)
        if taken.outcome == GONE or (taken.outcome == "again" and counted(before)):
            return taken
        if before and not counted(before):
            self.ledger.count(before, -1)  # it is whole now, or broken in another way
        self.ledger.count(taken.outcome)
        return taken

    def settle(self, now: float, *, calm: float = 0.0, wait: float = 0.0) -> None:
        """Tell the configuration of series quiet for `calm` seconds, the beam-ons of those quiet for `wait`, and what was counted."""
        unsettled = self.ledger.unsettled()
        ready = [found for found in unsettled if found.stage == OPEN and found.quiet(now) >= calm]
        for found in sorted(ready, key=lambda found: (found.name, *_rank(found))):
            self._describe(found, now)
            self.ledger.keep_series(replace(found, stage=DESCRIBED))
        wait = max(wait, calm)
        due = {(found.name, found.strip.study) for found in unsettled if found.quiet(now) >= wait}
        beams = [(name, beam) for name, study in sorted(due) for beam in self._estimated(name, study, now, wait)]
        for name, group in groupby(sorted(beams, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
            self._expose(self.ledger.known[name], in_order(beam for _, beam in group), now)
        for name in sorted(self.ledger.known):
            self._tell_counts(self.ledger.known[name], now)

    def tell(self, name: str, kind: str, t: float, source: str, data: Mapping[str, Any]) -> None:
        """A fact of another kind for the log of twin `name` (quality assurance, a service), written with the next `commit`."""
        self.ledger.put(self.ledger.known[name], kind, t, source, data)

    def commit(self) -> None:
        """Remember what was taken and write the facts to the logs, both durably. Raises CheckpointError E509."""
        self.ledger.commit()
        pending = self.ledger.pending()
        if not pending:
            return
        heads = {}
        for name in sorted({fact.name for fact in pending}):
            log, since = self.logs.get(name), 0
            if log is not None:
                since = len(log)
            for fact in pending:
                if fact.name != name or (log is not None and fact.entry < len(log)):
                    continue  # of another twin, or written before the process died
                if log is None:
                    log = DeviceLog.create(name, fact.t, source=fact.source)
                else:
                    log.record(fact.kind, fact.t, fact.source, fact.data)
            if log is not None:
                append(self.path(name), log, since)
                self.logs[name], heads[name] = log, log.head
        self.ledger.written(pending, heads)
        self.ledger.commit()

    # ------------------------------------------------------------------ reading

    def _read(self, file: Any, where: str) -> Acquisition | rdsr.Report:
        try:
            return headers.read(file, where, self.ledger.salt, self._site)
        except DataError as problem:
            if problem.code != "E319":
                raise
        return rdsr.read(file, where, self.ledger.salt)

    def _image(self, image: Acquisition, now: float, before: str) -> Taken:
        device = self._device(image.device, image.study, now if image.t is None else image.t)
        if not self.ledger.first_time(image.instance):
            return self._again(device, before)
        self.ledger.keep_study(image.study, device.name, reported=False)
        known = self.ledger.series(device.name, image.series)
        picked = _picked(image)
        if known is None:
            device.studies += 1
            after = Opened(device.name, Strip.of(image), OPEN, now, picked)
        else:
            first = min((known.image, picked), key=_place)
            after = Opened(device.name, known.strip.joined(image), known.stage, now, first)
        self.ledger.keep_series(after)
        device.images += 1
        device.phantoms += image.phantom
        if image.t is not None and (device.last_header is None or image.t > device.last_header):
            device.last_header, device.lag_s = image.t, now - image.t
        self.ledger.touch(device)
        return Taken("phantom" if image.phantom else "image", device.name)

    def _report(self, report: rdsr.Report, now: float, before: str) -> Taken:
        t = now if report.t is None else report.t
        device = self._device(report.device, report.study, t)
        if not self.ledger.first_time(report.instance):
            return self._again(device, before)
        known = self.ledger.study(report.study)
        reported = known is not None and known[1]
        late = not reported and any(found.stage == DONE for found in self.ledger.of_study(device.name, report.study))
        self.ledger.keep_study(report.study, device.name, reported=not late)
        fresh = [beam for beam in report.events if self.ledger.first_time(beam.key)]
        if late:
            self.ledger.count("late")
        else:
            self._expose(device, in_order(fresh), now)
        device.gaps = (device.gaps or 0) + report.gaps
        device.last_rdsr = max(t, t if device.last_rdsr is None else device.last_rdsr)
        self.ledger.touch(device)
        return Taken("report", device.name)

    def _again(self, device: Known, before: str) -> Taken:
        device.duplicates += not counted(before)
        self.ledger.touch(device)
        return Taken("again", device.name)

    def _device(self, file: Device, study: str, t: float) -> Known:
        """The twin this file belongs to: by its key; else, where one side does not say which scanner it is, by its study."""
        name = self.ledger.device_of(file.key)
        if name is None and (found := self.ledger.study(study)):
            other = self.ledger.known[found[0]]
            if other.vendor == file.vendor and (other.anonymous or file.anonymous):
                name = other.name
        if name is None:
            number = 1 + sum(known.vendor == file.vendor for known in self.ledger.known.values())
            device = Known(f"{file.vendor.lower()}-{number}", file.vendor, file.model, file.serial, file.anonymous)
            self.ledger.add(device)
            self.ledger.put(device, "created", t, "header", {})
            values = {"attributes.vendor": file.vendor, "attributes.model": file.model, "attributes.serial_hmac": file.serial}
            self.ledger.put(device, "observed", t, "header", {"values": values})
            name = device.name
        self.ledger.bind(file.key, name)
        return self.ledger.known[name]

    # ------------------------------------------------------------------ telling

    def _describe(self, found: Opened, now: float) -> None:
        """The configuration of a series, unless it is a phantom's, a reformatted one's or older than what is known."""
        device, strip, image = self.ledger.known[found.name], found.strip, found.image
        t = now if strip.t0 is None else strip.t0
        rank = (t, strip.kernel)
        if image["phantom"] or not strip.original or (device.latest is not None and rank < device.latest):
            return
        state = self.logs[device.name].state if device.name in self.logs else None
        values = {
            path: value
            for path, value in image["values"].items()
            if value is not None or not path.startswith("attributes.") or state is None or state.get(path) is None
        }
        derived = {path: value for path, value in image["derived"].items() if value is not None or image["values"].get(path) is None}
        means = {path: strip.mean(name) for name, path in AVERAGED.items()}
        for part in (values, derived):
            part.update({path: means[path] for path in part if path in means})
        self.ledger.put(device, "observed", t, "header", {"values": values})
        self.ledger.put(device, "observed", t, "header", {"values": derived, "quality": "derived"})
        device.latest = rank
        device.missing = sorted(path for path, value in {**values, **derived}.items() if value is None and derived.get(path) is None)
        self.ledger.touch(device)

    def _estimated(self, name: str, study: str, now: float, wait: float) -> list[Irradiation]:
        """Beam-ons of a study's quiet series, unless a dose report tells them; the series are done then."""
        all_of_it = self.ledger.of_study(name, study)
        due = [o for o in all_of_it if o.stage != DONE and o.quiet(now) >= wait]
        told = [o.strip for o in all_of_it if o.stage == DONE and o.strip.original]
        for found in due:
            self.ledger.keep_series(replace(found, stage=DONE))
        reported = self.ledger.study(study)
        if reported and reported[1]:
            return []
        return estimate(o.strip for o in due if not any(same(o.strip, strip) for strip in told))

    def _expose(self, device: Known, beams: list[Irradiation], now: float) -> None:
        """Tube load and dose of beam-ons; one whose kV, mA or time nobody tells counts as "no load", never as zero."""
        for beam in beams:
            t = now if beam.t is None else beam.t
            if beam.load:
                kvp, ma, seconds = beam.load
                quality = "derived" if beam.estimated else "measured"
                self.ledger.put(device, "exposed", t, beam.source, {"kvp": kvp, "ma": ma, "s": seconds, "quality": quality})
            else:
                self.ledger.count("no load")
            dose = {"config.ctdi_mGy": None if beam.estimated else beam.ctdi, "config.dlp_mGy_cm": beam.dlp, "config.ssde_mGy": beam.ssde}
            said = {path: value for path, value in dose.items() if value is not None}
            if said and beam.mode != "constant angle" and (device.latest is None or t >= device.latest[0]):
                self.ledger.put(
                    device, "observed", t, beam.source, {"values": said, "quality": "derived" if beam.estimated else "measured"}
                )
            if len(beam.loads) > 1:
                self.ledger.put(device, "observed", t, beam.source, {"values": {"attributes.tube.sources": len(beam.loads)}})

    def _tell_counts(self, device: Known, now: float) -> None:
        names = ("images", "studies", "phantoms", "duplicates", "gaps", "last_header", "last_rdsr", "lag_s", "missing")
        values = {f"sync.{name}": getattr(device, name) for name in names}
        if values != device.told:
            self.ledger.put(device, "observed", now, "log", {"values": values})
            device.told = values

    # ------------------------------------------------------------------ after a stop

    def _restore(self) -> None:
        """Read the logs, and write what the last process remembered and could not write any more."""
        pending = self.ledger.pending()
        waiting = {fact.name for fact in pending}
        for name, device in self.ledger.known.items():
            if name in waiting:
                _cut_back(self.path(name))
                if not self.path(name).exists():
                    continue
            log = self.logs[name] = load(self.path(name))
            told = device.entries - sum(fact.name == name for fact in pending)
            if len(log) < told or (device.head and device.head not in (entry.hash for entry in log.entries)):
                raise CheckpointError("E502", "is not the log that was kept: its end is missing", where=self.path(name).name, fix=_KEPT)
            if name not in waiting:
                device.entries, device.head = len(log), log.head  # others may have added to it: a service, an answer
                self.ledger.touch(device)
        self.commit()


@contextmanager
def _readable(path: Path, where: str) -> Iterator[Any]:
    """The open file; a disk that fails while it is read becomes a DataError without its words."""
    try:
        with opened(path, where) as file:
            yield file
        return
    except OSError as failure:
        problem = refusal(failure, where)
    raise problem


def counted(outcome: str) -> bool:
    """Whether a file with this outcome was understood."""
    return outcome in ("image", "phantom", "report", "again")


def _ending(path: Path, code: str) -> str:
    """The outcome of a file that was refused: a text or table that happens to lie there is no broken DICOM file."""
    suffix = path.suffix.lower().lstrip(".")
    claims = suffix.isdigit() or suffix in ("dcm", "dicom", "ima") or (not suffix and not _is_text(path))
    return {"E301": GONE, "E310": code if claims else OTHER}.get(code, code)


def _is_text(path: Path) -> bool:
    """Whether a file begins like a text of ASCII, as README and SHA256SUMS do."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return False
    return bool(start) and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)


def _picked(image: Acquisition) -> dict[str, Any]:
    """What of one image may stand for its series."""
    return {
        "t": image.t, "z": image.z, "instance": image.instance, "phantom": image.phantom,
        "values": dict(image.values), "derived": dict(image.derived),
    }  # fmt: skip


def _place(image: Mapping[str, Any]) -> tuple[float, float, str]:
    """The image that stands for its series is the first by time and place, in whatever order they come."""
    return (0.0 if image["t"] is None else image["t"], 0.0 if image["z"] is None else image["z"], image["instance"])


def _rank(found: Opened) -> tuple[bool, float, str, str]:
    strip = found.strip
    return (strip.t0 is None, strip.t0 or 0.0, strip.kernel, strip.series)


def _cut_back(path: Path) -> None:
    """Remove a line that a dying process left half written; the ledger still has its fact."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole == 0:
        path.unlink()
    elif whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
