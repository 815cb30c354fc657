"""How numbers are written, the same in the live view, the plain lines and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "-"


def size(count: float) -> str:
    """Bytes in SI units with three significant figures: "812 B", "41.2 kB", "3.20 MB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000.0
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}" if value >= 9.995 else f"{value:.2f} {unit}"


def seconds(value: float | None) -> str:
    """A virtual time or span: "0.35 s", "154.2 s", "12,340 s"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2f} s" if abs(value) < 10 else f"{value:.1f} s" if abs(value) < 1000 else f"{value:,.0f} s"


def clock(value: float | None) -> str:
    """A wall time: "0:42", "1:02:03"."""
    if value is None or not math.isfinite(value):
        return "-:--"
    whole = max(0, int(value))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def figure(value: object, digits: int = 3) -> str:
    """A metric with fixed digits, NOTHING where it is undefined."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}"


def signed(value: object, digits: int = 3) -> str:
    """A difference with its sign."""
    text = figure(value, digits)
    return text if text == NOTHING or text.startswith("-") else f"+{text}"


def some(count: int, one: str, many: str = "") -> str:
    """ "1 twin", "8 twins", "1,024 frames"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def scanner(configuration: object) -> str:
    """A scanner in a few words: "SIEMENS bone 0.5x"; "" when nothing is known of it."""
    if not isinstance(configuration, Mapping):
        return ""
    vendor, kernel, dose = (configuration.get(key) for key in ("vendor", "kernel", "dose"))
    words = [str(word) for word in (vendor, kernel) if word]
    if isinstance(dose, int | float) and not isinstance(dose, bool):
        words.append(f"{dose:g}x")
    return " ".join(words)


def said(value: Any) -> str:
    """A policy or a fact in a few words."""
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {said(item)}" for key, item in value.items() if key != "use")
        return " ".join(filter(None, (str(value.get("use", "")), f"({rest})" if rest else "")))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def owned(name: str, twin: Mapping[str, Any]) -> str:
    """What a twin has whose classes are its own: its domain, unless it is called so, and images of each class."""
    held = " / ".join(f"{label} {count}" for label, count in zip(twin["classes"], twin["labels"].values(), strict=False))
    named = [] if twin["domain"] == name else [twin["domain"]]
    return ", ".join([*named, *(["left out"] if twin["left_out"] else []), held])
