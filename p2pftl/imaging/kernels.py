"""Free header text to a closed vocabulary: manufacturer to vendor, reconstruction kernel to name and group."""

from __future__ import annotations

import re
from typing import Literal

Vendor = Literal["SIEMENS", "GE", "PHILIPS", "TOSHIBA", "OTHER"]
Group = Literal["soft", "standard", "lung", "bone", "unknown"]

_VENDORS: tuple[tuple[Vendor, tuple[str, ...]], ...] = (
    ("SIEMENS", ("siemens",)),
    ("GE", ("ge medical", "ge healthcare", "general electric")),
    ("PHILIPS", ("philips", "marconi", "picker")),
    ("TOSHIBA", ("toshiba", "canon")),
)

_NAMED: dict[Vendor, dict[str, Group]] = {
    "GE": {
        "SOFT": "soft", "STANDARD": "standard", "STND": "standard", "CHEST": "standard", "CHST": "standard", "DETAIL": "standard",
        "LUNG": "lung", "BONE": "bone", "BONEPLUS": "bone", "EDGE": "bone", "ULTRA": "bone",
    },
    "PHILIPS": {
        "A": "soft", "B": "standard", "C": "standard", "D": "bone", "E": "bone", "L": "lung", "YB": "lung", "YC": "lung",
    },
}  # fmt: skip

_SIEMENS = re.compile(r"([BHQUTDIJ])([a-z]?)(\d{2})([a-z]?)")  # B70f, Br40d, Hr36, I50f
_TOSHIBA = re.compile(r"FC(\d{2})")

UNKNOWN = "unknown"


def vendor(manufacturer: str) -> Vendor:
    """Return the bucket of a Manufacturer (0008,0070) text; the text itself never leaves the reader."""
    text = manufacturer.strip().lower()
    if text == "ge":
        return "GE"
    return next((bucket for bucket, words in _VENDORS if any(word in text for word in words)), "OTHER")


def kernel(maker: Vendor, text: str) -> tuple[str, Group]:
    """Return (name, group) of a ConvolutionKernel (0018,1210) text of `maker`.

    The name is the vendor's own only where it follows that vendor's published naming, else "unknown",
    so free text cannot pass. Siemens: two digits are the sharpness (B30 and B40 are the body standards,
    B50..B80 for thorax and bone; SOMATOM Sensation manual). Toshiba: tens are the body region
    (FC0x, FC1x body, FC3x bone, FC5x and FC8x lung and high resolution). The group is a convention, not a measured MTF.
    """
    wanted = text.strip()
    if maker == "SIEMENS" and (found := _SIEMENS.fullmatch(wanted)):
        return wanted, _siemens_group(int(found[3]))
    wanted = wanted.upper().replace(" ", "")
    if maker == "TOSHIBA" and (found := _TOSHIBA.fullmatch(wanted)):
        group = _toshiba_group(int(found[1]))
        return (wanted, group) if group != "unknown" else (UNKNOWN, group)
    if group_of := _NAMED.get(maker, {}).get(wanted):
        return wanted, group_of
    return UNKNOWN, "unknown"


def _siemens_group(sharpness: int) -> Group:
    if sharpness < 35:
        return "soft"
    if sharpness < 50:
        return "standard"
    return "lung" if sharpness < 70 else "bone"


def _toshiba_group(number: int) -> Group:
    tens: dict[int, Group] = {0: "soft", 1: "standard", 3: "bone", 5: "lung", 8: "lung"}
    return tens.get(number // 10, "unknown")
