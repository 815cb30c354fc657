"""`p2pftl compare` and `p2pftl sweep`: every variant with every seed, and what may be claimed. Thin like cli.py, and caught by it."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Executor(StrEnum):
    """Where the twins of each run live."""

    ray = "ray"
    local = "local"


class Unit(StrEnum):
    """What a difference is tested over."""

    seeds = "seeds"
    twins = "twins"


File = Annotated[Path, typer.Argument(metavar="FILE", help="The scenario, a YAML file.", show_default=False)]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key in every run. Repeatable.", show_default=False)
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="N|LIST", help="How many seeds, or which: 5, or 1,4,9; the scenario's if not given.", show_default=False),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Runs at a time; one per core with the local executor, else one.", show_default=False)
]
Where = Annotated[Executor, typer.Option(help="Each run in one process, or Ray actors.")]
Baseline = Annotated[
    str | None, typer.Option(metavar="NAME", help="Differences are to this one; the first if not given.", show_default=False)
]
Target = Annotated[str | None, typer.Option(metavar="METRIC=VALUE", help="When was it reached: accuracy=0.9.", show_default=False)]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of all runs and the table.", show_default=False)]
Bounds = Annotated[bool, typer.Option("--bounds", help="Also learn alone, and with all studies in one place; tell the gap closed.")]
Twins = Annotated[str | None, typer.Option(metavar="NAMES", help="Only these twins' results count: ct-02,ct-03.", show_default=False)]
Without = Annotated[str | None, typer.Option("--except", metavar="NAMES", help="All results but these twins' count.", show_default=False)]
Reference = Annotated[str | None, typer.Option(metavar="NAME", help="Tell what every variant loses against this one.", show_default=False)]
Per = Annotated[Unit, typer.Option(help="Test differences over the seeds, or over the twins as well.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]


def compare(
    file: File, settings: Settings = None, seeds: Seeds = None, jobs: Jobs = None, executor: Where = Executor.local,
    baseline: Baseline = None, target: Target = None, bounds: Bounds = False, twins: Twins = None, without: Without = None,
    reference: Reference = None, unit: Per = Unit.seeds, out: Out = None, quiet: Quiet = False,
) -> int:  # fmt: skip
    """Run every variant of a scenario with every seed, and say which is better. Goes on where it was stopped."""
    from p2pftl.compare.compare import Order
    from p2pftl.compare.compare import compare as work

    order = Order(file, settings or (), seeds, jobs, executor.value, baseline, target, bounds, out, quiet)
    return work(replace(order, twins=twins, without=without, reference=reference, unit=unit.value))


def sweep(
    file: File,
    grid: Annotated[
        list[str], typer.Option(metavar="KEY=A,B,C", help="Values of a key; with several grids, all combinations.", show_default=False)
    ],
    settings: Settings = None, seeds: Seeds = None, jobs: Jobs = None, executor: Where = Executor.local,
    baseline: Baseline = None, target: Target = None, bounds: Bounds = False, twins: Twins = None, without: Without = None,
    reference: Reference = None, unit: Per = Unit.seeds, out: Out = None, quiet: Quiet = False,
) -> int:  # fmt: skip
    """Run a scenario at every point of a grid with every seed, and compare the points. Goes on where it was stopped."""
    from p2pftl.compare.compare import Order
    from p2pftl.compare.compare import compare as work

    order = Order(file, settings or (), seeds, jobs, executor.value, baseline, target, bounds, out, quiet, tuple(grid))
    return work(replace(order, twins=twins, without=without, reference=reference, unit=unit.value))
