"""Results of benchmarks: rows of plain figures, where and when they were taken, and which figures can be compared.

A row is flat. Text, whole numbers and true/false say what was measured; a float, or a list of repeated ones, is a figure.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MORE_IS_BETTER = ("_share", "faster", "_per_second", "percent")
"""Endings of figures of which more is better; of all others less is."""
UNITLESS = ("_floor", "_ideal", "_slope", "_share", "faster", "percent")
"""Endings of figures without a unit: these can be compared between machines."""
OUTCOMES = ("digest", "events")
"""Not figures, and not what a row is about either."""
Row = Mapping[str, Any]


def environment() -> dict[str, Any]:
    """Where this runs: processor, cores, memory, versions, commit, date."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "bf16": sorted(flag for flag in ("amx_bf16", "avx512_bf16") if flag in about.split()),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "ray", "numpy")},
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else ""),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def save(path: Path, name: str, rows: Sequence[Row], taken: Mapping[str, Any] | None = None) -> None:
    """Write rows with their environment, that of now or `taken` earlier."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": name, "environment": taken or environment(), "rows": list(rows)}, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, or what a single benchmark wrote with `--out`."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def figures(row: Row) -> dict[str, list[float]]:
    """The figures of a row: key -> values, one per repetition."""
    found = {}
    for key, value in row.items():
        values = value if isinstance(value, list) else [value]
        if values and all(isinstance(item, float) for item in values):
            found[key] = values
    return found


def identity(row: Row) -> tuple[tuple[str, Any], ...]:
    """What a row is about, so that it can be found in other results."""
    return tuple(sorted((key, value) for key, value in row.items() if isinstance(value, str | int) and key not in OUTCOMES))


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of one value, itself."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
