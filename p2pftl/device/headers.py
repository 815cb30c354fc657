"""One CT image's header as facts about the scanner: configuration, dose, geometry. What is missing is None, never zero.

The image itself is checked by imaging/slice_file. Here the wider list of SCANNER_TWIN.md section 2 is read, from raw bytes,
because pydicom's own conversions put values into messages. It stays in the twin; no text of a header is kept that is not
in a closed vocabulary (device/words).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, BinaryIO, NoReturn

from pydicom.dataset import Dataset
from pydicom.filereader import dcmread, read_dataset

from p2pftl.device.words import Salt, beam_filter, model, modulation, reconstruction, same_model, software
from p2pftl.errors import DataError
from p2pftl.imaging.kernels import Vendor, kernel
from p2pftl.imaging.slice_file import DEFLATED, Header, parse

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIX = "export the file again, or leave it out"


@dataclass(frozen=True)
class Number:
    """A numeric attribute: where it stands and what a CT scanner can say there. signed: its sign is a direction only."""

    keyword: str
    tag: int
    vr: str
    low: float
    high: float
    unit: str
    signed: bool = False


# path in the state -> attribute; tags and units of SCANNER_TWIN.md section 2, limits far outside any scanner on the market
NUMBERS = {
    "config.kvp": Number("KVP", 0x00180060, "DS", 20, 200, "kV"),
    "config.ma": Number("XRayTubeCurrent", 0x00181151, "IS", 1, 3000, "mA"),
    "config.exposure_ms": Number("ExposureTime", 0x00181150, "IS", 1, 600_000, "ms"),
    "config.exposure_header": Number("Exposure", 0x00181152, "IS", 0.01, 100_000, "mAs"),
    "config.slice_mm": Number("SliceThickness", 0x00180050, "DS", 0.05, 100, "mm"),
    "config.spacing_mm": Number("SpacingBetweenSlices", 0x00180088, "DS", 0.01, 500, "mm", signed=True),
    "config.fov": Number("ReconstructionDiameter", 0x00181100, "DS", 10, 2000, "mm"),
    "config.collection_mm": Number("DataCollectionDiameter", 0x00180090, "DS", 10, 2000, "mm"),
    "config.pitch": Number("SpiralPitchFactor", 0x00189311, "FD", 0.01, 10, ""),
    "config.rotation_s": Number("RevolutionTime", 0x00189305, "FD", 0.05, 60, "s"),
    "config.collimation_single_mm": Number("SingleCollimationWidth", 0x00189306, "FD", 0.05, 200, "mm"),
    "config.collimation_mm": Number("TotalCollimationWidth", 0x00189307, "FD", 0.05, 400, "mm"),
    "config.table_speed": Number("TableSpeed", 0x00189309, "FD", 0.01, 2000, "mm/s", signed=True),
    "config.table_feed": Number("TableFeedPerRotation", 0x00189310, "FD", 0.01, 2000, "mm", signed=True),
    "config.ctdi_mGy": Number("CTDIvol", 0x00189345, "FD", 0.001, 5000, "mGy"),
    "config.wed_mm": Number("WaterEquivalentDiameter", 0x00181271, "FD", 10, 2000, "mm"),
    "attributes.detector.sid": Number("DistanceSourceToPatient", 0x00181111, "DS", 100, 2000, "mm"),
    "attributes.detector.sdd": Number("DistanceSourceToDetector", 0x00181110, "DS", 100, 3000, "mm"),
    "attributes.tube.power_kW": Number("GeneratorPower", 0x00181170, "IS", 0.1, 300_000, "kW"),
}
_TEXTS = {
    "offset": 0x00080201, "manufacturer": 0x00080070, "station": 0x00081010, "model": 0x00081090, "serial": 0x00181000,
    "software": 0x00181020, "kernel": 0x00181210, "filter": 0x00181160, "focal": 0x00181190, "modulation": 0x00189323,
    "event": 0x00083010, "recon": 0x00189769, "options": 0x00180022, "image type": 0x00080008, "quality control": 0x00280300,
    "calibrated": 0x00181200, "calibrated at": 0x00181201, "detector calibrated": 0x0018700C, "installed": 0x00181205,
    "made": 0x00181204, "acquired": 0x0008002A,
}  # fmt: skip
_SITE = {"patient": 0x00100020, "protocol": 0x00181030}  # read only to be compared with a site's patterns, and never kept
_TIMES = ((0x00080022, 0x00080032), (0x00080023, 0x00080033), (0x00080021, 0x00080031), (0x00080020, 0x00080030))
_PHANTOM = 0x00189346
_WANTED = (
    [number.tag for number in NUMBERS.values()]
    + list(_TEXTS.values())
    + [tag for pair in _TIMES for tag in pair]
    + [_PHANTOM, *_SITE.values()]
)
_ROTATION_VENDORS = frozenset({"SIEMENS", "GE", "TOSHIBA"})  # whose ExposureTime is that of one rotation
_EFFECTIVE_VENDORS = frozenset({"SIEMENS", "PHILIPS"})  # whose Exposure is mA x s per rotation and pitch


@dataclass(frozen=True)
class Site:
    """How a site names its test objects where its scanners do not mark them (QualityControlImage).

    patient, protocol: shell patterns for PatientID and ProtocolName, without regard to case, "" for none.
    """

    patient: str = ""
    protocol: str = ""

    def names(self, patient: str, protocol: str) -> bool:
        """Whether one of the patterns fits."""
        pairs = (self.patient, patient), (self.protocol, protocol)
        return any(pattern and fnmatchcase(text.lower(), pattern.lower()) for pattern, text in pairs)


MARKED = Site()  # no rule: test objects are what the scanner marks


@dataclass(frozen=True)
class Device:
    """Which scanner a file is from. key: keyed hash of maker, model and serial number (else station); model: as it may be shown.

    anonymous: neither serial number nor station is there, so two of one model cannot be told apart.
    """

    vendor: Vendor
    model: str | None
    key: str
    serial: str | None = None
    anonymous: bool = False


@dataclass(frozen=True)
class Acquisition:
    """What one CT image says about its scanner. UIDs are keyed hashes; values, derived: state path -> value or None.

    t: when it was acquired, POSIX seconds of the scanner's clock, None if it does not say; z: mm along the slice normal;
    phantom: a test object, as the scanner or the site's rule says; original: not reformatted from other images.
    """

    device: Device
    instance: str
    series: str
    study: str
    event: str | None
    t: float | None
    z: float | None
    phantom: bool
    original: bool
    helical: bool | None
    values: Mapping[str, Any] = field(default_factory=dict)
    derived: Mapping[str, Any] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        """The value at `path`, as written or derived; None where it is missing."""
        found = self.values.get(path)
        return self.derived.get(path) if found is None else found

    @property
    def missing(self) -> list[str]:
        """Paths the header does not have."""
        return sorted(path for path, value in self.values.items() if value is None)


def read(file: BinaryIO, where: str, salt: Salt, site: Site = MARKED) -> Acquisition:
    """Return what an open file says. site: its rule for test objects.

    Raises DataError: E31x, E32x as imaging/slice_file does, E350 for a value no scanner can have.
    """
    header, data = parse(file, where)
    if not header.instance or not header.series:
        raise DataError("E311", "SOPInstanceUID or SeriesInstanceUID (0008,0018; 0020,000E) is missing", where=where, fix=_FIX)
    return _acquisition(Text(_elements(header, file, data, where), where), header, salt, site)


def _elements(header: Header, file: BinaryIO, data: BinaryIO, where: str) -> Dataset:
    """The allow-listed elements; `parse` has bounded the header, so this cannot grow."""
    broken = False
    values = Dataset()
    try:
        if header.syntax == DEFLATED:
            data.seek(0)
            values = read_dataset(data, False, True, stop_when=lambda tag, vr, length: tag > 0x00400000, specific_tags=_WANTED)
        else:
            file.seek(0)
            values = dcmread(file, stop_before_pixels=True, specific_tags=_WANTED)
    except Exception:
        broken = True
    if broken:
        raise DataError("E311", "the header is cut short or not well formed", where=where, fix=_FIX)
    return values


def _acquisition(text: Text, header: Header, salt: Salt, site: Site) -> Acquisition:
    values: dict[str, Any] = {path: text.number(number) for path, number in NUMBERS.items()}
    maker = header.vendor
    name, group = kernel(maker, text.text("kernel").split("\\")[0])
    has_kernel = bool(text.text("kernel"))
    values["attributes.tube.power_kW"] = _power(maker, values["attributes.tube.power_kW"])
    values |= {
        "config.kernel": name if has_kernel else None,
        "config.kernel_group": group if has_kernel else None,
        "config.software": software(maker, text.text("software").split("\\")[0], salt),
        "config.filter": beam_filter(text.text("filter")),
        "config.modulation": modulation(text.text("modulation")),
        "config.focal_mm": text.numbers("focal", 0.05, 10),
        "config.recon": reconstruction(text.text("recon"), text.text("kernel"), maker),
        "config.ctdi_phantom": text.dose_phantom(),
        "config.pixel_mm": header.spacing[1] if header.spacing else None,
        "config.size": header.columns,
        "calibration.last_any": text.latest("calibrated", "calibrated at"),
        "calibration.last_detector": text.latest("detector calibrated", ""),
        "attributes.installed": text.latest("installed", ""),
        "attributes.manufactured": text.latest("made", ""),
    }
    kinds = text.text("image type").upper().split("\\")
    event = text.text("event")
    return Acquisition(
        device=device(maker, text.text("model"), text.text("serial"), text.text("station"), salt),
        instance=salt.of("instance", header.instance), series=salt.of("series", header.series),
        study=salt.of("study", header.study or header.series), event=salt.of("event", event) if event else None,
        t=text.acquired(), z=header.position, phantom=text.phantom(site),
        original="DERIVED" not in kinds and "SECONDARY" not in kinds, helical=_helical(text, values), values=values,
        derived=_derive(maker, values),
    )  # fmt: skip


def device(maker: Vendor, model_text: str, serial: str, station: str, salt: Salt) -> Device:
    """Return whose file it is: the serial number tells two scanners of one model apart, else the station's name does."""
    which = ("serial", serial) if serial else ("station", station)
    key = salt.of("device", maker, same_model(model_text), *which)
    return Device(maker, model(maker, model_text, salt), key, salt.of("serial", serial) if serial else None, not (serial or station))


def _derive(maker: Vendor, values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the header by the vendor's habits (SCANNER_TWIN.md section 2), None where it does not follow."""
    rotation, exposure_ms = values["config.rotation_s"], values["config.exposure_ms"]
    if rotation is None and exposure_ms and maker in _ROTATION_VENDORS and exposure_ms <= 3000:
        rotation = exposure_ms / 1000
    current, feed, speed = values["config.ma"], values["config.table_feed"], values["config.table_speed"]
    derived = {
        "config.mas": current * rotation if current and rotation else None,
        "config.mas_effective": values["config.exposure_header"] if maker in _EFFECTIVE_VENDORS else None,
    }
    if values["config.rotation_s"] is None:
        derived["config.rotation_s"] = rotation
    if speed is None:
        derived["config.table_speed"] = feed / rotation if feed and rotation else None
    return derived


def _power(maker: Vendor, value: float | None) -> float | None:
    """kW of the generator. GE writes W; TOSHIBA writes what this scan took, which is no property of the device."""
    if value is None or maker == "TOSHIBA":
        return None
    return value / 1000 if value > 300 else value


def _helical(text: Text, values: Mapping[str, Any]) -> bool | None:
    options = text.text("options").upper()
    if "HELI" in options or "SPIRAL" in options or values["config.pitch"]:
        return True
    return False if "AXIAL" in options or "SEQ" in options else None


class Text:
    """The elements of a header as numbers and text, from raw bytes. where: what to call the file in a refusal."""

    def __init__(self, values: Dataset, where: str) -> None:
        self._values, self._where = values, where

    def text(self, name: str) -> str:
        return self._text(_TEXTS[name])

    def number(self, of: Number) -> float | None:
        """Return the value; None where it is absent, empty or the zero that stands for "not known". Raises DataError E350."""
        raw = self._raw(of.tag)[0].strip(b" \0") if of.vr != "FD" else self._raw(of.tag)[0]
        if not raw:
            return None
        value = self._double(raw, of.tag) if of.vr == "FD" else decimal(raw.decode("latin-1").split("\\")[0])
        if value is None or not math.isfinite(value):
            self._refuse(of)
        value = abs(value) if of.signed else value
        if value == 0:
            return None
        if not of.low <= value <= of.high:
            self._refuse(of)
        return value

    def numbers(self, name: str, low: float, high: float) -> list[float] | None:
        """Return a list of numbers, None where any of them is not one or outside low..high."""
        found = [decimal(part) for part in self.text(name).split("\\")]
        return [value for value in found if value] if all(value and low <= value <= high for value in found) else None

    def acquired(self) -> float | None:
        """When the image was acquired, POSIX seconds; the first of five places that holds a date and a time."""
        zone = _offset(self.text("offset"))
        whole = moment(self.text("acquired"), zone)
        if whole is not None:
            return whole
        return next((t for day, hour in _TIMES if (t := _seconds(self._text(day), self._text(hour), zone)) is not None), None)

    def latest(self, date: str, time: str) -> float | None:
        """The last of 1-n dates, at the time that goes with it or at midnight."""
        dates, times = self.text(date).split("\\"), self.text(time).split("\\") if time else []
        zone = _offset(self.text("offset"))
        pairs = [(day, times[i] if i < len(times) and times[i] else "000000") for i, day in enumerate(dates)]
        return max((t for day, hour in pairs if (t := _seconds(day, hour, zone)) is not None), default=None)

    def phantom(self, site: Site) -> bool:
        """Whether this is an image of a test object."""
        return self.text("quality control") in ("YES", "BOTH") or site.names(self._text(_SITE["patient"]), self._text(_SITE["protocol"]))

    def dose_phantom(self) -> str | None:
        """The phantom behind CTDIvol: code 113690 head, 113691 body."""
        try:
            code = str(self._values[_PHANTOM].value[0].CodeValue)
        except Exception:
            return None
        return {"113690": "head", "113691": "body"}.get(code.strip())

    def _text(self, tag: int) -> str:
        return self._raw(tag)[0].decode("latin-1").strip(" \0")

    def _raw(self, tag: int) -> tuple[bytes, bool]:
        element = self._values.get_item(tag, keep_deferred=True)
        value = getattr(element, "value", b"")
        return (value, bool(getattr(element, "is_little_endian", True))) if isinstance(value, bytes) else (b"", True)

    def _double(self, raw: bytes, tag: int) -> float | None:
        if len(raw) < 8:
            return None
        return float(struct.unpack("<d" if self._raw(tag)[1] else ">d", raw[:8])[0])

    def _refuse(self, of: Number) -> NoReturn:
        place = f"{of.keyword} ({of.tag >> 16:04X},{of.tag & 0xFFFF:04X}) {of.vr}"
        allowed = f"{of.low:g}..{of.high:g} {of.unit}".rstrip()
        raise DataError("E350", f"{place} is not a value a CT scanner can have; allowed: {allowed}", where=self._where, fix=_FIX)


def decimal(text: str) -> float | None:
    """A DS or IS value. float() would also take "1_0" and "infinity"."""
    wanted = text.strip(" \0")
    return float(wanted) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", wanted, re.ASCII) else None


def moment(stamp: str, zone: timedelta = timedelta()) -> float | None:
    """A DT value as POSIX seconds; `zone` where it names no offset of its own."""
    own = re.search(r"[+-]\d{4}$", stamp)
    return _seconds(stamp[:8], stamp[8:].split("+")[0].split("-")[0], _offset(own[0]) if own else zone)


def _seconds(date: str, time: str, offset: timedelta) -> float | None:
    """DA and TM as POSIX seconds; the scanner's clock counts as UTC where it gives no offset. None unless both can be read."""
    day = re.fullmatch(r"(\d{4})\.?(\d\d)\.?(\d\d)", date.strip(), re.ASCII)
    hour = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?", time.strip(), re.ASCII)
    if not day or not hour:
        return None
    try:
        moment = datetime(*map(int, day.groups()), *(int(part or 0) for part in hour.groups()[:2]), tzinfo=UTC)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    seconds = min(int(hour[3] or 0), 59) + float(f"0.{hour[4] or 0}")  # 60 is a leap second
    return (moment - offset - EPOCH).total_seconds() + seconds


def _offset(text: str) -> timedelta:
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)", text.strip(), re.ASCII)
    if not found:
        return timedelta()
    away = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return -away if found[1] == "-" else away
