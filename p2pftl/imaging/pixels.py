"""Stored pixels of one CT slice to Hounsfield units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder

from p2pftl.errors import DataError

if TYPE_CHECKING:
    from p2pftl.imaging.slice_file import Header

NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"})
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0..SOF15 and JPEG-LS
AIR = -1024  # HU given to pixels without a measurement; nothing physical lies below it
USUAL = (-2048.0, 8192.0)  # HU
_TOP = 32767.0


def decodable(syntax: str) -> bool:
    """Whether pixels of this transfer syntax can be read here (pylibjpeg plug-ins count)."""
    if syntax in NATIVE:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except Exception:
        return False


def hounsfield(header: Header, data: BinaryIO, where: str) -> tuple[npt.NDArray[np.float32], bool]:
    """Return ([rows, columns] float32 HU >= AIR, whether values outside USUAL were met (E325)).

    HU = slope x stored + intercept (PS3.3 C.11.1); padding becomes AIR; rows and columns are turned so that
    an axial slice lies in patient order (right to left, front to back). Raises DataError E312 or E332.
    """
    stored = _native(header, data, where) if header.pixels_long >= 0 else _decoded(header, data, where)
    empty = _padded(header, stored)
    hu = _meaningful(header, stored).astype(np.float32)
    if hu.min() == hu.max():
        raise DataError("E332", "every pixel has the same value", where=where, fix="remove it or set broken: skip")
    hu *= header.slope
    hu += header.intercept
    if empty is not None:
        hu[empty] = AIR
    strange = bool(hu.min() < USUAL[0] or hu.max() > USUAL[1])
    np.clip(hu, AIR, _TOP, out=hu)
    return np.ascontiguousarray(_upright(hu, header.orientation)), strange


def _native(header: Header, data: BinaryIO, where: str) -> npt.NDArray[np.generic]:
    data.seek(header.pixels_at)
    need = header.rows * header.columns * 2
    raw = data.read(need)
    if len(raw) < need:
        raise DataError("E312", f"PixelData is cut short: {len(raw)} of {need} bytes", where=where, fix="copy or export it again")
    kind = (">" if header.syntax == _BIG_ENDIAN else "<") + ("i2" if header.signed else "u2")
    return np.frombuffer(raw, kind).reshape(header.rows, header.columns)


def _decoded(header: Header, data: BinaryIO, where: str) -> npt.NDArray[np.generic]:
    data.seek(header.pixels_at)
    stream = data.read()
    claimed = stream_size(stream)
    if claimed not in (None, (header.rows, header.columns)):
        raise DataError("E323", "the compressed stream claims another image size than the header", where=where, fix="export it again")
    layout: dict[str, Any] = {
        "rows": header.rows, "columns": header.columns, "samples_per_pixel": 1, "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2", "pixel_representation": int(header.signed),
        "bits_allocated": 16, "bits_stored": header.stored, "pixel_keyword": "PixelData",
    }  # fmt: skip
    pixels: npt.NDArray[np.generic] | None = None
    try:
        pixels, _ = get_decoder(header.syntax).as_array(stream, raw=True, index=0, **layout)
    except Exception:
        pixels = None
    if pixels is None or pixels.shape != (header.rows, header.columns) or pixels.dtype.kind not in "iu":
        raise DataError("E312", "the compressed pixels are damaged", where=where, fix="copy or export it again")
    return pixels


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) that the first JPEG, JPEG-LS or JPEG 2000 code stream in `stream` claims, before decoding it."""
    at = stream.find(b"\xff\x4f\xff\x51")  # SOC, SIZ
    if at >= 0:
        wide, high, left, top = (int.from_bytes(stream[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(4))
        return high - top, wide - left
    at = stream.find(b"\xff\xd8\xff")
    at += 2
    while 2 <= at <= len(stream) - 9:
        if stream[at] != 0xFF:
            return None
        if stream[at + 1] in _JPEG_FRAMES:
            return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def _padded(header: Header, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_] | None:
    if header.padding is None:
        return None
    lowest, highest = header.padding
    whole = stored.astype(np.int32)
    return (whole >= lowest) & (whole <= highest)


def _meaningful(header: Header, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.int32]:
    """Drop the bits above `stored`: overlays and other leavings live there."""
    spare = 32 - header.stored
    whole = stored.astype(np.int32)
    if header.stored == 16:
        return whole
    shifted = np.left_shift(whole, spare)
    if header.signed:
        return np.right_shift(shifted, spare)
    return whole & ((1 << header.stored) - 1)


def _upright(hu: npt.NDArray[np.float32], orientation: tuple[float, ...] | None) -> npt.NDArray[np.float32]:
    if orientation is None or min(abs(orientation[0]), abs(orientation[4])) < 0.9:
        return hu
    return hu[:: 1 if orientation[4] > 0 else -1, :: 1 if orientation[0] > 0 else -1]
