"""Tell what got slower, larger or less busy between two results. Exit code 1 if anything did by more than the threshold.

    python -m benchmarks.compare OLD.json NEW.json [--threshold 0.1]

A figure is worse when its median is worse by more than the threshold and the middle halves of the two sets of repetitions do not
overlap. Of results from different machines only figures without a unit are compared (ratios to the floor, shares).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import MORE_IS_BETTER, UNITLESS, figures, identity, load, middle, quartiles

MACHINE = ("processor", "cores")


@dataclass(frozen=True)
class Change:
    """One figure in both results. worse: new over old where less is better, old over new otherwise; clear: beyond the spread."""

    what: str
    old: float
    new: float
    worse: float
    clear: bool


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Every positive figure that both results have."""
    before = {identity(row): figures(row) for row in old["rows"]}
    everywhere = _machine(old) == _machine(new)
    for row in new["rows"]:
        known = before.get(identity(row), {})
        for key, values in figures(row).items():
            positive = min(middle(values), middle(known.get(key, [0.0]))) > 0  # of a difference around 0, a ratio says nothing
            if positive and (everywhere or key.endswith(UNITLESS)):
                yield _change(f"{_title(row)}: {key}", known[key], values, more=key.endswith(MORE_IS_BETTER))


def _change(what: str, old: list[float], new: list[float], *, more: bool) -> Change:
    was, now = middle(old), middle(new)
    top, bottom = (was, now) if more else (now, was)
    (low, _), (_, high) = (quartiles(old), quartiles(new)) if more else (quartiles(new), quartiles(old))
    return Change(what, was, now, top / bottom, low > high)


def _machine(result: Mapping[str, Any]) -> list[Any]:
    return [result.get("environment", {}).get(key) for key in MACHINE]


def _title(row: Mapping[str, Any]) -> str:
    return ", ".join(str(value) if isinstance(value, str) else f"{key} {value}" for key, value in identity(row))


def main() -> int:
    """Print what changed, the worst first."""
    options = argparse.ArgumentParser(description="Tell what got slower between two results.")
    options.add_argument("old", type=Path)
    options.add_argument("new", type=Path)
    options.add_argument("--threshold", type=float, default=0.1, help="by how much something must be worse to count (0.1: a tenth)")
    chosen = options.parse_args()
    old, new = load(chosen.old), load(chosen.new)
    found = sorted(changes(old, new), key=lambda change: -change.worse)
    if _machine(old) != _machine(new):
        print("different machines: only figures without a unit are compared")
    if not found:
        print("nothing to compare: the results have no row in common")
        return 2
    worse = [change for change in found if change.clear and change.worse > 1 + chosen.threshold]
    better = [change for change in found if change.worse < 1 / (1 + chosen.threshold)]
    for word, those in (("worse ", worse), ("better", reversed(better))):
        for change in those:
            print(f"{word} {change.worse:5.2f}x  {change.old:.4g} -> {change.new:.4g}  {change.what}")
    print(f"{len(found)} figures compared, {len(worse)} worse and {len(better)} better by more than {chosen.threshold:.0%}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
