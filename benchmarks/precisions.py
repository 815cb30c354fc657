"""How a scenario asks for a precision of arithmetic."""

from __future__ import annotations

from typing import Any

PRECISIONS = ("fp32", "bf16", "auto")


def changes_for(precision: str) -> dict[str, Any]:
    """Top-level keys of a scenario that choose `precision`; fp32 is what it does unasked."""
    return {} if precision == "fp32" else {"compute": {"precision": precision}}
