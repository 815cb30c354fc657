"""Seconds per round, start, memory, bytes and processor use: p2pftl in three layouts beside the bare loop, repetitions interleaved.

python -m benchmarks.rounds [--models M1 M2 R18] [--twins 8 16] [--rounds 6] [--repeat 3] [--precision fp32 bf16] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.floor import VARIANTS
from benchmarks.measure import Measured
from benchmarks.precisions import PRECISIONS, changes_for
from benchmarks.results import cores, middle, save
from benchmarks.workload import MODELS, Workload, scenario, write_noise

LAYOUTS = {
    "one actor per twin": ("--twins-per-actor", "1"),
    "auto": ("--twins-per-actor", "auto"),
    "packed in 2": ("--workers", "2"),
}
ALONE_AT_MOST = 32  # twins with an actor each: 64 of them are 20 GB of torch
Run = Callable[..., Measured]


@dataclass
class Contender:
    """Somebody who runs the workload. precision: of the arithmetic; runs: what was measured so far; memory_gb: from a run of its own."""

    who: str
    precision: str
    run: Run
    runs: list[Measured] = field(default_factory=list)
    memory_gb: float = math.nan

    @property
    def floor(self) -> bool:
        return self.who.startswith("floor")


def measured(
    work: Workload, folder: Path, *, repeat: int, precisions: Sequence[str] = ("fp32",), layouts: Sequence[str] = tuple(LAYOUTS),
    memory: bool = True, say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure one model at one number of twins; return a row per contender."""
    archive = folder / "noise.npz"
    write_noise(archive, work)
    entrants = list(contenders(work, archive, folder, precisions, layouts))
    for turn in range(repeat):
        for one in entrants:
            one.runs.append(one.run())
            took = middle(one.runs[-1].round_s)
            say(f"{work.model} N={work.twins} {turn + 1}/{repeat}  {one.who}, {one.precision}: {took:.3f} s a round")
    if memory:
        for one in entrants:
            one.memory_gb = one.run(memory=True).memory_gb
    return [row(work, one, entrants) for one in entrants]


def contenders(work: Workload, archive: Path, folder: Path, precisions: Sequence[str], layouts: Sequence[str]) -> Iterator[Contender]:
    """The bare loop in its variants, then p2pftl in its layouts."""
    for variant in VARIANTS:
        yield Contender(f"floor {variant}", variant.partition("-")[0], _bare(work, archive, variant))
    for precision in precisions:
        described = scenario(work, archive, **changes_for(precision))
        for layout in layouts:
            if layout != "one actor per twin" or work.twins <= ALONE_AT_MOST:
                yield Contender(f"p2pftl, {layout}", precision, _ours(described, folder, LAYOUTS[layout]))


def row(work: Workload, one: Contender, everybody: Sequence[Contender]) -> dict[str, Any]:
    """The figures of one contender; `x_floor`: against the faster fp32 loop, turn by turn; `x_best_floor`: against the fastest of all."""
    first, floors = one.runs[0], [other for other in everybody if other.floor]
    found: dict[str, Any] = {
        "bench": "rounds", "model": work.model, "twins": work.twins, "who": one.who, "precision": one.precision,
        "round_s": [value for run in one.runs for value in run.round_s],
        "first_round_s": [run.first_round_s for run in one.runs],
        "x_floor": _ratios(one, _quickest([other for other in floors if other.precision == "fp32"])),
        "x_best_floor": _ratios(one, _quickest(floors)),
        "cpu_share": [run.cpu_share for run in one.runs],
    }  # fmt: skip
    if not math.isnan(one.memory_gb):
        found["memory_gb"] = one.memory_gb
    if not one.floor:
        found |= {"first_sign_s": [run.first_sign_s for run in one.runs], "total_s": [run.total_s for run in one.runs]}
        found["bytes_x_ideal"] = first.bytes_sent / first.bytes_ideal
    return found


def _quickest(floors: Sequence[Contender]) -> Contender:
    return min(floors, key=lambda one: middle([value for run in one.runs for value in run.round_s]))


def _ratios(one: Contender, floor: Contender) -> list[float]:
    return [middle(ours.round_s) / middle(theirs.round_s) for ours, theirs in zip(one.runs, floor.runs, strict=True)]


def _bare(work: Workload, archive: Path, variant: str) -> Run:
    return lambda memory=False: measure.floor(work, archive, variant, memory=memory, cores=cores())


def _ours(described: Mapping[str, Any], folder: Path, options: Sequence[str]) -> Run:
    return lambda memory=False: measure.p2pftl(dict(described), folder, *options, memory=memory, cores=cores())


def main() -> None:
    """Measure what was asked for, print a table and, if asked, write JSON."""
    from benchmarks.table import rounds_table

    options = argparse.ArgumentParser(description="p2pftl beside the bare loop.")
    options.add_argument("--models", nargs="+", choices=MODELS, default=["M1"])
    options.add_argument("--twins", nargs="+", type=int, default=[8])
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32"])
    options.add_argument("--no-memory", action="store_true", help="leave out the extra runs that sample memory")
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for model in chosen.models:
            for twins in chosen.twins:
                rows += measured(
                    Workload(model, twins, chosen.rounds), Path(name), repeat=chosen.repeat, precisions=chosen.precision,
                    layouts=chosen.layouts, memory=not chosen.no_memory,
                )  # fmt: skip
    print(rounds_table(rows))
    if chosen.out:
        save(chosen.out, "rounds", rows)


if __name__ == "__main__":
    main()
