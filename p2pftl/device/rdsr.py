"""X-Ray Radiation Dose SR of CT (PS3.16 TID 10011, events TID 10013): irradiation events, walked without their texts.

Vendors nest differently and leave items out, so a value is looked for below the container it belongs to, not at one place.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from p2pftl.device.beams import Irradiation, Load, Mode
from p2pftl.device.headers import Device, Text, decimal, device, moment
from p2pftl.device.words import Salt
from p2pftl.errors import DataError
from p2pftl.imaging.kernels import vendor

CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"})
REPORT_CAP = 16 * 2**20  # bytes; the longest seen are below 1 MB
DEEPEST, MOST = 24, 50_000  # levels and items of a content tree

_ROOT, _EVENT, _ACCUMULATED, _SOURCE = "113701", "113819", "113811", "113831"
_EVENT_UID, _STARTED, _FIRST, _TYPE = "113769", "111526", "113809", "113820"
_CONTENT, _NAME, _CODED, _MEASURED, _UNITS = 0x0040A730, 0x0040A043, 0x0040A168, 0x0040A300, 0x004008EA
_CODE, _SCHEME, _NUMERIC, _UID, _STAMP = 0x00080100, 0x00080102, 0x0040A30A, 0x0040A124, 0x0040A120

_MODES: dict[str, Mode] = {
    "P5-08001": "spiral", "116152004": "spiral", "C0860888": "spiral", "113804": "sequenced", "113805": "constant angle",
    "113806": "stationary", "113807": "free",
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A numeric item: its code, the factor of each unit it may come in, and what a CT scanner can say there."""

    code: str
    name: str
    units: dict[str, float]
    low: float
    high: float


_S = {"s": 1.0, "ms": 1e-3, "min": 60.0}
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
_MGY = {"mGy": 1.0, "uGy": 1e-3, "cGy": 10.0, "Gy": 1000.0}
_MGYCM = {"mGy.cm": 1.0, "mGycm": 1.0, "mGy*cm": 1.0, "Gy.cm": 1000.0, "uGy.cm": 1e-3}
_ONE = {"{ratio}": 1.0, "1": 1.0, "{1}": 1.0, "ratio": 1.0, "{events}": 1.0, "events": 1.0, "no units": 1.0, "%": 0.01}

SECONDS = Measure("113824", "Exposure Time", _S, 1e-3, 600)
LENGTH = Measure("113825", "Scanning Length", _MM, 0.05, 5000)
COLLIMATION = Measure("113827", "Nominal Total Collimation Width", _MM, 0.05, 400)
PITCH = Measure("113828", "Pitch Factor", _ONE, 0.01, 10)
KVP = Measure("113733", "KVP", {"kV": 1.0, "V": 1e-3, "kVp": 1.0}, 20, 200)
CURRENT = Measure("113734", "X-Ray Tube Current", {"mA": 1.0, "uA": 1e-3, "A": 1000.0}, 1, 3000)
ROTATION = Measure("113834", "Exposure Time per Rotation", _S, 0.05, 60)
CTDI = Measure("113830", "Mean CTDIvol", _MGY, 1e-4, 5000)
DLP = Measure("113838", "DLP", _MGYCM, 1e-4, 100_000)
SSDE = Measure("113930", "Size Specific Dose Estimation", _MGY, 1e-4, 5000)
EVENTS = Measure("113812", "Total Number of Irradiation Events", _ONE, 1, 10_000)


@dataclass(frozen=True)
class Report:
    """One dose report. instance, study: keyed hashes; expected: how many events its totals name, None if they do not."""

    device: Device
    instance: str
    study: str
    t: float | None
    events: tuple[Irradiation, ...]
    expected: int | None

    @property
    def gaps(self) -> int:
        """Events that the totals count and the report does not hold."""
        return max(0, (self.expected or 0) - len(self.events))


def read(file: BinaryIO, where: str, salt: Salt) -> Report:
    """Return the report in an open file. Raises DataError E311, E315, E319 (not a CT dose report), E324, E350, E351."""
    data = _tree(file, where)
    root = Item(data, where)
    if root.text(0x00080016) not in CLASSES or root.code != _ROOT:
        raise DataError("E319", "is neither a CT image nor a radiation dose report", where=where, fix="keep CT images and dose reports")
    items = list(root.below())
    found = [item for item in items if item.code == _EVENT]
    if not found and not any(item.code == _ACCUMULATED for item in items):
        raise DataError("E319", "is the dose report of something else than CT", where=where, fix="keep CT images and dose reports")
    study, instance = salt.of("study", root.text(0x0020000D)), salt.of("instance", root.text(0x00080018))
    texts = Text(data, where)
    maker = vendor(root.text(0x00080070))
    first = root.moment(_FIRST)
    start = texts.acquired() if first is None else first
    events = tuple(_event(item, number, study, salt, start) for number, item in enumerate(found))
    expected = root.number(EVENTS)
    return Report(
        device(maker, root.text(0x00081090), root.text(0x00181000), root.text(0x00081010), salt), instance, study, start,
        events, round(expected) if expected else None,
    )  # fmt: skip


def _tree(file: BinaryIO, where: str) -> Dataset:
    file.seek(0, 2)
    if file.tell() > REPORT_CAP:
        raise DataError("E315", f"is larger than {REPORT_CAP >> 20} MB, too much for a dose report", where=where)
    file.seek(0)
    problem = "E311", "the header is cut short or not well formed"
    try:
        return dcmread(file, stop_before_pixels=True)
    except RecursionError:
        problem = "E324", "sequences are nested too deeply"
    except Exception:
        """Said below, without pydicom's text."""
    raise _refusal(problem, where)


def _event(item: Item, number: int, study: str, salt: Salt, start: float | None) -> Irradiation:
    """One CT Acquisition container. Without an own time it counts from the report's first irradiation."""
    uid, kind, began = item.value(_EVENT_UID, _UID), item.find(_TYPE), item.moment(_STARTED)
    sources = [below for below in item.inner if below.code == _SOURCE] or [item]
    loads = tuple(Load(source.number(KVP), source.number(CURRENT), source.number(ROTATION)) for source in sources)
    return Irradiation(
        key=salt.of("event", uid) if uid else salt.of("event", study, str(number)), study=study, t=start if began is None else began,
        source="rdsr", seconds=item.number(SECONDS), loads=loads, mode=_MODES.get(kind.coded if kind else ""),
        length_mm=item.number(LENGTH), collimation_mm=item.number(COLLIMATION), pitch=item.number(PITCH),
        ctdi=item.number(CTDI), dlp=item.number(DLP), ssde=item.number(SSDE),
    )  # fmt: skip


class Item:
    """One content item of a structured report. Only codes, numbers, UIDs and times are ever read."""

    def __init__(self, data: Dataset, where: str) -> None:
        self._data, self._where = data, where
        self.code = _code(data, _NAME, where)

    @property
    def coded(self) -> str:
        """The code a CODE item stands for, "" for others."""
        return _code(self._data, _CODED, self._where, any_scheme=True)

    @cached_property
    def inner(self) -> list[Item]:
        """Every item below this one, outermost first; nothing inside events."""
        return list(self.below(skip=(_EVENT,)))

    def below(self, skip: tuple[str, ...] = ()) -> Iterator[Item]:
        """Every item below this one, outermost first; nothing inside items named in `skip`."""
        level, count = [self], 0
        for _ in range(DEEPEST):
            found = [Item(data, self._where) for item in level for data in _sequence(item._data, _CONTENT, self._where)]
            count += len(found)
            if count > MOST:
                raise _refusal(("E324", "has more content items than a dose report can have"), self._where)
            yield from found
            level = [item for item in found if item.code not in skip]
            if not level:
                return
        raise _refusal(("E324", "sequences are nested too deeply"), self._where)

    def find(self, code: str) -> Item | None:
        """The outermost item below with this concept name."""
        return next((item for item in self.inner if item.code == code), None)

    def value(self, code: str, tag: int) -> str:
        item = self.find(code)
        return item.text(tag) if item else ""

    def moment(self, code: str) -> float | None:
        """A DATETIME item as POSIX seconds."""
        return moment(self.value(code, _STAMP))

    def number(self, measure: Measure) -> float | None:
        """A NUM item in the unit of `measure`; None where it, its value or its unit is missing, or 0. Raises DataError E350, E351."""
        items = (item for item in self.inner if item.code == measure.code)
        parts = next((found for item in items if (found := _sequence(item._data, _MEASURED, self._where))), ())
        text = _text(parts[0], _NUMERIC).split("\\")[0] if parts else ""
        unit = _code(parts[0], _UNITS, self._where, any_scheme=True) if parts else ""
        if not text or not unit:
            return None
        name = f"{measure.name} ({measure.code}, DCM)"
        value = decimal(text)
        if value == 0:
            return None
        if unit not in measure.units:
            raise _refusal(("E351", f"{name} has a unit it cannot have; allowed: {', '.join(measure.units)}"), self._where)
        if value is None or not measure.low <= value * measure.units[unit] <= measure.high:
            raise _refusal(("E350", f"{name} is not a value a CT scanner can have"), self._where)
        return value * measure.units[unit]

    def text(self, tag: int) -> str:
        return _text(self._data, tag)


def _text(data: Dataset, tag: int) -> str:
    """The raw text of an element."""
    value = getattr(data.get_item(tag, keep_deferred=True), "value", None)
    raw = value.decode("latin-1") if isinstance(value, bytes) else "" if value is None else str(value)
    return raw.strip(" \0")


def _code(data: Dataset, tag: int, where: str, any_scheme: bool = False) -> str:
    """The code value in a code sequence; of the DICOM scheme only, unless `any_scheme`."""
    codes = _sequence(data, tag, where)
    return _text(codes[0], _CODE) if codes and (any_scheme or _text(codes[0], _SCHEME) in ("DCM", "")) else ""


def _sequence(data: Dataset, tag: int, where: str) -> Sequence[Dataset]:
    """The items of a sequence, none where it is missing."""
    problem = "E311", "a sequence is not well formed"
    try:
        found = data[tag].value if tag in data else ()
        if found is None or isinstance(found, MutableSequence | tuple):
            return found or ()
    except RecursionError:
        problem = "E324", "sequences are nested too deeply"
    except Exception:
        """Said below, without pydicom's text."""
    raise _refusal(problem, where)


def _refusal(problem: tuple[str, str], where: str) -> DataError:
    return DataError(*problem, where=where, fix="export the report again, or leave it out")
