"""What device life costs: months of simulated scanners, as the twins of a run live them, and reading their logs back.

The aim of issue 4: 24 months of 20 scanners in under 60 s on two cores. Each figure comes from a process of its own; with more
than one worker the scanners are dealt out to as many processes, and the digest must stay the same.

    python -m benchmarks.device [--scanners 20] [--months 24] [--workers 1 2] [--measure sampled] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from p2pftl.device.fleet import SCANNERS
from p2pftl.device.life import Device
from p2pftl.device.log import DeviceLog
from p2pftl.device.rules import Rules
from p2pftl.device.troubles import Trouble

DAYS_OF_A_MONTH = 365 / 12


def lived(number: int, days: int, measure: str) -> tuple[str, int, int, float]:
    """Live one scanner; return head and length of its log, services, and the core seconds of reading the log back and folding it."""
    drift = Trouble("hu_drift", 60.0 + 20 * number, params={"rate": 0.25})
    device = Device.new(
        f"ct-{number:02}", seed=7, scanner=SCANNERS[number % len(SCANNERS)], rules=Rules(measure=measure), troubles=[drift]  # type: ignore[arg-type]
    )  # fmt: skip
    while device.day < days:
        device.live()
    lines = device.log.lines()
    began = time.process_time()
    again = DeviceLog.read(lines)
    if again.state != device.log.state:
        raise AssertionError("the log does not replay to the same state")
    return device.log.head, len(device.log), len(device.log.state.maintenance), time.process_time() - began


def measure(scanners: int, months: float, workers: int, how: str) -> dict[str, Any]:
    """One row: wall and core seconds of all scanners, the reading back of their logs (one core) apart."""
    days = round(months * DAYS_OF_A_MONTH)
    began = time.perf_counter()
    jobs = list(range(scanners)), [days] * scanners, [how] * scanners
    if workers == 1:
        found = [lived(*job) for job in zip(*jobs, strict=True)]
    else:
        with ProcessPoolExecutor(workers) as pool:
            found = list(pool.map(lived, *jobs))
    seconds = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    core, read = sum(one.ru_utime + one.ru_stime for one in used), sum(one[3] for one in found)
    return {
        "measure": how,
        "scanners": scanners,
        "days": days,
        "workers": workers,
        "seconds": seconds,
        "core_seconds": core,
        "read_seconds": read,
        "milliseconds_per_day": 1e3 * (core - read) / scanners / days,
        "entries": sum(one[1] for one in found),
        "services": sum(one[2] for one in found),
        "peak_megabytes": max(one.ru_maxrss for one in used) / 1024,
        "digest": hashlib.sha256("".join(one[0] for one in found).encode()).hexdigest(),
    }


def alone(*what: float | str) -> dict[str, Any]:
    """`measure` in a fresh process."""
    told = [sys.executable, "-m", "benchmarks.device", "--one", *map(str, what)]
    row: dict[str, Any] = json.loads(subprocess.run(told, check=True, capture_output=True, text=True).stdout)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scanners", type=int, default=20)
    parser.add_argument("--months", type=float, default=24)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", choices=("sampled", "image"), default="sampled", help="image: every phantom in pixels")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("SCANNERS", "MONTHS", "WORKERS", "MEASURE"), help="one row, in this process")
    options = parser.parse_args()
    if options.one:
        scanners, months, workers, how = options.one
        print(json.dumps(measure(int(scanners), float(months), int(workers), how)))
        return
    print(f"{'phantoms':<9} {'scanners':>8} {'days':>5} {'workers':>7} {'seconds':>8} {'core s':>7} ms/day {'entries':>8} {'peak MB':>8}")
    rows = []
    for workers in options.workers:
        row = alone(options.scanners, options.months, workers, options.measure)
        rows.append(row)
        print(
            f"{row['measure']:<9} {row['scanners']:>8} {row['days']:>5} {workers:>7} {row['seconds']:>8.1f} {row['core_seconds']:>7.1f} "
            f"{row['milliseconds_per_day']:>6.2f} {row['entries']:>8} {row['peak_megabytes']:>8.0f}",
            flush=True,
        )
    if len({row["digest"] for row in rows}) > 1:
        sys.exit("the digests differ: device life depends on who lives it")
    if options.out:
        options.out.write_text(json.dumps({"name": "device", "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
