"""One CT slice in one DICOM file: header and Hounsfield units, or a refusal that holds no text of the file.

pydicom walks the elements; values are parsed here, from raw bytes, by an allow-list of tags, because pydicom's own
conversions put the raw value into exceptions and warnings (TRUST.md §7).
"""

from __future__ import annotations

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from p2pftl.errors import DataError
from p2pftl.imaging.files import refusal, regular
from p2pftl.imaging.kernels import UNKNOWN, Group, Vendor, kernel, vendor
from p2pftl.imaging.pixels import NATIVE, decodable

HEADER_CAP = 2 * 2**20  # bytes of elements before the pixels; real headers stay below 0.3 MB
FILE_CAP = 256 * 2**20  # bytes
INFLATED_CAP = 64 * 2**20  # bytes
SIDE_CAP = 4096  # pixels; the largest CT matrix on the market is 2048

IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_OTHER_UNITS = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})  # PS3.3 C.11.1.1.2; vendors spell HU freely
_PIXELS, _FLOATS = 0x7FE00010, frozenset({0x7FE00008, 0x7FE00009})

_TAGS = {
    "image type": 0x00080008, "SOP class": 0x00080016, "SOP instance": 0x00080018, "modality": 0x00080060,
    "manufacturer": 0x00080070, "patient": 0x00100020, "thickness": 0x00180050, "kernel": 0x00181210, "study": 0x0020000D,
    "series": 0x0020000E, "instance number": 0x00200013, "position": 0x00200032, "orientation": 0x00200037,
    "samples": 0x00280002, "photometric": 0x00280004, "frames": 0x00280008,
    "rows": 0x00280010, "columns": 0x00280011, "spacing": 0x00280030, "allocated": 0x00280100, "stored": 0x00280101,
    "high bit": 0x00280102, "signed": 0x00280103, "padding": 0x00280120, "padding limit": 0x00280121,
    "quality control": 0x00280300, "burned in": 0x00280301, "intercept": 0x00281052, "slope": 0x00281053, "rescale type": 0x00281054,
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What p2pftl takes from one CT slice's header. Local to the twin; identifiers are left out of repr.

    position: mm along the slice normal, None where the file does not say; orientation: six direction cosines;
    spacing: (between rows, between columns) mm; padding: stored values (lowest, highest) that mean "no measurement";
    phantom: QualityControlImage (0028,0300) says so; pixels_at, pixels_long: byte offset and length of PixelData (length -1 when
    encapsulated).
    """

    rows: int
    columns: int
    stored: int
    signed: bool
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    syntax: str
    vendor: Vendor
    kernel: str
    kernel_group: Group
    thickness: float | None
    spacing: tuple[float, float] | None
    orientation: tuple[float, ...] | None
    position: float | None
    number: int | None
    burned_in_unclear: bool
    phantom: bool
    pixels_at: int
    pixels_long: int
    patient: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)

    @property
    def scanner(self) -> str:
        """Acquisition group, "SIEMENS B70f": vendor bucket and known kernel name, else "SIEMENS unknown"."""
        return f"{self.vendor} {self.kernel}"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings and log lines within: they quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg")]
    before = [(logger.propagate, logger.handlers[:]) for logger in loggers]
    for logger in loggers:
        logger.propagate, logger.handlers = False, [logging.NullHandler()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers


def read_header(path: Path, where: str = "") -> Header:
    """Read and check one slice's header without its pixels. Raises DataError E307, E308, E310..E326 (TRUST.md §8 D)."""
    with opened(path, where) as file:
        return parse(file, where)[0]


@contextmanager
def opened(path: Path, where: str) -> Iterator[BinaryIO]:
    """Open a regular file of at most FILE_CAP bytes for reading. Raises DataError E301, E307, E308 or E315."""
    if regular(path, where) > FILE_CAP:
        raise DataError("E315", f"is larger than {FILE_CAP >> 20} MB, too much for one CT slice", where=where)
    problem: DataError | None = None
    file: BinaryIO | None = None
    try:
        file = path.open("rb")
    except OSError as failure:
        problem = refusal(failure, where)
    if problem or file is None:
        raise problem or DataError("E307", "cannot be read", where=where)
    with file, quiet():
        yield file


def parse(file: BinaryIO, where: str) -> tuple[Header, BinaryIO]:
    """Return the checked header of an open file, and the file in which `pixels_at` counts (itself unless deflated)."""
    syntax = _transfer_syntax(file, where)
    if not decodable(syntax):
        raise DataError(
            "E322", "pixels are compressed and no decoder for that transfer syntax is installed",
            where=where, fix='pip install "p2pftl[compressed]", or decompress the files first',
        )  # fmt: skip
    data = _inflated(file, where) if syntax == DEFLATED else file
    walked = _Walk(data, where)
    problem: tuple[str, str] | None = None
    values = Dataset()
    try:
        values = read_dataset(
            cast(BinaryIO, walked), syntax == IMPLICIT, syntax != BIG_ENDIAN,
            stop_when=walked.at_pixels, specific_tags=list(_TAGS.values()),
        )  # fmt: skip
    except DataError:
        raise
    except RecursionError:
        problem = "E324", "sequences are nested too deeply"
    except Exception:
        problem = "E311", "the header is cut short or not well formed"
    if problem:
        raise DataError(*problem, where=where, fix="export the file again")
    return _Elements(values, where).header(syntax, walked), data


def _inflated(file: BinaryIO, where: str) -> BinaryIO:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    data, broken = b"", False
    try:
        data = engine.decompress(file.read(), INFLATED_CAP + 1)
    except zlib.error:
        broken = True
    if broken:
        raise DataError("E311", "the deflated data set is damaged", where=where, fix="export the file again")
    if len(data) > INFLATED_CAP:
        raise DataError("E323", f"inflates to more than {INFLATED_CAP >> 20} MB", where=where, fix="store it uncompressed")
    return io.BytesIO(data)


def _transfer_syntax(file: BinaryIO, where: str) -> str:
    if file.read(132)[128:] != b"DICM":
        raise DataError("E310", "is not a DICOM file", where=where, fix="remove it or give it another suffix")
    found = ""
    while len(head := file.read(8)) == 8:
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 2:
            file.seek(-8, io.SEEK_CUR)
            break
        if vr in _LONG:
            length = int.from_bytes(file.read(4), "little")
        if file.tell() + length > HEADER_CAP:
            break
        value = file.read(length)
        if element == 0x0010:
            found = value.decode("latin-1").strip(" \0")
    if not found:
        raise DataError("E311", "the header ends before its transfer syntax", where=where, fix="export the file again")
    return found


class _Walk:
    """A file that notes where PixelData begins and refuses a header beyond HEADER_CAP bytes (a memory bomb)."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read, self._where, self._used = file.read, where, 0
        self.tag, self.length, self.at = 0, 0, 0
        self._short = False
        here = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(here)

    def read(self, count: int = -1) -> bytes:
        self._used += HEADER_CAP if count < 0 else count
        if self._used > HEADER_CAP:
            raise DataError("E311", f"has more than {HEADER_CAP >> 20} MB of header", where=self._where)
        data = self._read(count)
        self._short |= 0 < len(data) < count
        return data

    def cut(self) -> bool:
        """Whether the file ends within an element before its pixels."""
        return self.tag == 0 and (self._short or self.tell() > self.end)

    def at_pixels(self, tag: int, vr: str | None, length: int) -> bool:
        if tag == _PIXELS or tag in _FLOATS:
            self.tag, self.length, self.at = tag, length, self.tell()
            return True
        return False


class _Elements:
    """The allow-listed elements of one header as numbers and enumerations."""

    def __init__(self, values: Dataset, where: str) -> None:
        self._values, self._where = values, where

    def header(self, syntax: str, walked: _Walk) -> Header:
        if walked.cut():
            self._refuse("E311", "the header is cut short", "export the file again")
        self._is_axial_ct()
        if walked.tag == 0:
            self._refuse("E314", "there is no PixelData (7FE0,0010)", "remove it or set broken: skip")
        rows, columns = self._sides()
        stored, signed = self._bits()
        slope, intercept = self._rescale()
        maker = vendor(self._text("manufacturer"))
        name, group = kernel(maker, self._text("kernel").split("\\")[0]) if self._text("kernel") else (UNKNOWN, "unknown")
        orientation = self._numbers("orientation", 6)
        spacing = self._numbers("spacing", 2)
        thickness = self._numbers("thickness", 1)
        number = self._numbers("instance number", 1)
        if orientation and not _is_frame(orientation):
            orientation = None
        return Header(
            rows=rows, columns=columns, stored=stored, signed=signed, slope=slope, intercept=intercept,
            padding=self._padding(signed), syntax=syntax, vendor=maker, kernel=name, kernel_group=group,
            thickness=thickness[0] if thickness else None,
            spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
            orientation=orientation, position=_along_normal(orientation, self._numbers("position", 3)),
            number=int(number[0]) if number else None, burned_in_unclear=self._burned_in(), phantom=self._text("quality control") == "YES",
            pixels_at=walked.at, pixels_long=self._pixels(syntax, walked, rows * columns * 2),
            patient=self._text("patient"), study=self._text("study"), series=self._text("series"),
            instance=self._text("SOP instance"),
        )  # fmt: skip

    def _is_axial_ct(self) -> None:
        if self._text("modality") != "CT":
            self._refuse("E319", "Modality (0008,0060) is not CT", "keep CT slices only, or set broken: skip")
        if self._text("SOP class") not in ("", _CT_STORAGE):
            self._refuse("E319", "SOPClassUID (0008,0016) is not CT Image Storage", "export single-frame CT images, or set broken: skip")
        if "LOCALIZER" in self._text("image type").split("\\"):
            self._refuse("E319", "ImageType (0008,0008) says localizer, not an axial slice", "remove it or set broken: skip")

    def _sides(self) -> tuple[int, int]:
        rows, columns = self._unsigned("rows"), self._unsigned("columns")
        if rows is None or columns is None:
            self._refuse("E315", f"Rows or Columns (0028,0010/0011) is missing; allowed: 16..{SIDE_CAP}")
        if not (16 <= rows <= SIDE_CAP and 16 <= columns <= SIDE_CAP):
            self._refuse("E315", f"Rows x Columns (0028,0010/0011) is {rows} x {columns}; allowed: 16..{SIDE_CAP} each")
        frames = self._numbers("frames", 1)
        if self._text("frames") and (frames is None or frames[0] != 1):
            self._refuse("E317", "NumberOfFrames (0028,0008) is not 1", "convert to one file per slice")
        if self._unsigned("samples") not in (None, 1) or self._text("photometric") not in ("MONOCHROME1", "MONOCHROME2"):
            self._refuse("E318", "pixels are not one grey value (0028,0002/0004); allowed: MONOCHROME1, MONOCHROME2")
        return rows, columns

    def _bits(self) -> tuple[int, bool]:
        allocated, stored, high, signed = (self._unsigned(tag) for tag in ("allocated", "stored", "high bit", "signed"))
        if allocated != 16 or stored is None or not 8 <= stored <= 16 or high not in (None, stored - 1) or signed not in (0, 1):
            self._refuse("E316", "bit layout (0028,0100..0103) is not that of CT; allowed: 16 allocated, 8..16 stored, lowest bits first")
        return stored, signed == 1

    def _rescale(self) -> tuple[float, float]:
        if not self._text("slope") or not self._text("intercept"):
            self._refuse("E320", "RescaleSlope or RescaleIntercept (0028,1053/1052) is missing, so HU are unknown")
        if self._text("rescale type") in _OTHER_UNITS:
            self._refuse("E320", "RescaleType (0028,1054) is not HU", "use the original CT series, not a derived one")
        slope, intercept = self._numbers("slope", 1), self._numbers("intercept", 1)
        if not slope or not intercept or not 1e-6 <= abs(slope[0]) <= 1e3 or abs(intercept[0]) > 1e5:
            self._refuse("E321", "RescaleSlope or RescaleIntercept (0028,1053/1052) is not a usable number; usual: 1 and -1024")
        return slope[0], intercept[0]

    def _burned_in(self) -> bool:
        answer = self._text("burned in")
        if answer == "YES":
            self._refuse("E326", "BurnedInAnnotation (0028,0301) is YES: text in the pixels can identify", "remove it or set broken: skip")
        kinds = set(self._text("image type").split("\\"))
        return answer != "NO" and bool(kinds & {"DERIVED", "SECONDARY"})

    def _padding(self, signed: bool) -> tuple[int, int] | None:
        one, other = self._unsigned("padding", signed), self._unsigned("padding limit", signed)
        if one is None:
            return None
        return min(one, one if other is None else other), max(one, one if other is None else other)

    def _pixels(self, syntax: str, walked: _Walk, need: int) -> int:
        if walked.tag in _FLOATS:
            self._refuse("E316", "pixels are floating point (7FE0,0008/0009); allowed: 16-bit integers")
        endless = walked.length == 0xFFFFFFFF
        if endless != (syntax not in NATIVE):
            self._refuse("E311", "PixelData does not match the transfer syntax", "export the file again")
        if endless:
            if walked.end - walked.at > 2 * need + 2**16:
                self._refuse("E317", f"compressed pixels take {walked.end - walked.at} bytes for an image of {need}")
            return -1
        have = min(walked.length, walked.end - walked.at)
        if walked.length > need:
            self._refuse("E317", f"PixelData has {walked.length} bytes, one slice needs {need}", "convert to one file per slice")
        if have < need:
            code = "E313" if have == need - 1 else "E312"
            self._refuse(code, f"PixelData is cut short: {have} of {need} bytes", "copy or export the file again")
        return have

    def _raw(self, name: str) -> tuple[bytes, bool]:
        element = self._values.get_item(_TAGS[name], keep_deferred=True)
        value = getattr(element, "value", b"")
        return (value, bool(getattr(element, "is_little_endian", True))) if isinstance(value, bytes) else (b"", True)

    def _text(self, name: str) -> str:
        return self._raw(name)[0].decode("latin-1").strip(" \0")

    def _numbers(self, name: str, count: int) -> tuple[float, ...] | None:
        try:
            numbers = tuple(float(part) for part in self._text(name).split("\\")[: count + 1])
        except ValueError:
            return None
        return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None

    def _unsigned(self, name: str, signed: bool = False) -> int | None:
        value, little = self._raw(name)
        return int.from_bytes(value, "little" if little else "big", signed=signed) if len(value) == 2 else None

    def _refuse(self, code: str, problem: str, fix: str = "set broken: skip to leave such files out") -> NoReturn:
        raise DataError(code, problem, where=self._where, fix=fix)


def _is_frame(cosines: tuple[float, ...]) -> bool:
    row, column = cosines[:3], cosines[3:]
    unit = all(abs(math.hypot(*axis) - 1) < 1e-2 for axis in (row, column))
    return unit and abs(sum(a * b for a, b in zip(row, column, strict=True))) < 1e-2


def _along_normal(orientation: tuple[float, ...] | None, position: tuple[float, ...] | None) -> float | None:
    if orientation is None or position is None:
        return None
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    return sum(n * p for n, p in zip(normal, position, strict=True))
