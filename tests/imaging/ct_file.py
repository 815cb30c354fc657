"""CT slices written byte by byte, so that every element can be wrong; independent of pydicom and of our own writer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SECRET = "CANARY7Q2XZW"  # stands in every text that could identify; no message may hold it

Element = tuple[str, bytes]
PIXELS = 0x7FE00010
_LONG = {"OB", "OW", "OF", "SQ", "UN", "UT"}


def text(value: str) -> bytes:
    raw = value.encode()
    return raw + b" " * (len(raw) % 2)


def uid(value: str) -> bytes:
    raw = value.encode()
    return raw + b"\0" * (len(raw) % 2)


def us(value: int) -> bytes:
    return struct.pack("<H", value)


def elements(n: int = 32, *, patient: str = "", series: str = "1.2.3.1", instance: str = "1.2.3.1.1", z: float = 0.0) -> dict[int, Element]:
    """A sound single-frame CT slice of n x n pixels: air outside, water inside, with identifiers everywhere."""
    stored = np.full((n, n), 24, "<u2")
    stored[n // 4 : -n // 4, n // 4 : -n // 4] = 1024
    return {
        0x00080008: ("CS", text("ORIGINAL\\PRIMARY\\AXIAL")),
        0x00080016: ("UI", uid(CT_STORAGE)),
        0x00080018: ("UI", uid(instance)),
        0x00080020: ("DA", text(SECRET[:8])),
        0x00080060: ("CS", text("CT")),
        0x00080070: ("LO", text(f"SIEMENS {SECRET}")),
        0x00080080: ("LO", text(f"Hospital {SECRET}")),
        0x00100010: ("PN", text(f"{SECRET}^Jane")),
        0x00100020: ("LO", text(patient or SECRET)),
        0x00180050: ("DS", text("1.5")),
        0x00181210: ("SH", text("B70f")),
        0x0020000D: ("UI", uid("1.2.3")),
        0x0020000E: ("UI", uid(series)),
        0x00200013: ("IS", text("1")),
        0x00200032: ("DS", text(f"-100\\-100\\{z}")),
        0x00200037: ("DS", text("1\\0\\0\\0\\1\\0")),
        0x00280002: ("US", us(1)),
        0x00280004: ("CS", text("MONOCHROME2")),
        0x00280010: ("US", us(n)),
        0x00280011: ("US", us(n)),
        0x00280030: ("DS", text("0.7\\0.7")),
        0x00280100: ("US", us(16)),
        0x00280101: ("US", us(12)),
        0x00280102: ("US", us(11)),
        0x00280103: ("US", us(0)),
        0x00281052: ("DS", text("-1024")),
        0x00281053: ("DS", text("1")),
        PIXELS: ("OW", stored.tobytes()),
    }


def encode(tags: Mapping[int, Element], syntax: str = EXPLICIT) -> bytes:
    """The file as bytes: preamble, file meta, data set in `syntax`."""
    meta = _body({0x00020002: ("UI", uid(CT_STORAGE)), 0x00020010: ("UI", uid(syntax))}, EXPLICIT) if syntax else b""
    body = _body(tags, syntax)
    if syntax == DEFLATED:
        engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = engine.compress(body) + engine.flush()
    return b"\0" * 128 + b"DICM" + meta + body


def write(path: Path, tags: Mapping[int, Element], syntax: str = EXPLICIT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(tags, syntax))
    return path


def _body(tags: Mapping[int, Element], syntax: str) -> bytes:
    order = ">" if syntax == BIG_ENDIAN else "<"
    out = b""
    for tag, (vr, value) in sorted(tags.items()):
        if syntax == BIG_ENDIAN and vr in ("US", "SS", "OW"):
            value = np.frombuffer(value, "<u2").astype(">u2").tobytes()
        out += struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        length = 0xFFFFFFFF if value.startswith(b"\xfe\xff\x00\xe0") else len(value)
        if syntax == IMPLICIT:
            out += struct.pack(order + "L", length)
        elif vr in _LONG:
            out += vr.encode() + b"\0\0" + struct.pack(order + "L", length)
        else:
            out += vr.encode() + struct.pack(order + "H", length)
        out += value
    return out
