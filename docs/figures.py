"""Run the quick versions of the four source systems and hold their figures against those in the pages.

    python docs/figures.py [PAGE ...] [--write]

A page states its figures between `<!-- quick: METRIC, ... -->` and `<!-- /quick -->`: the command, and a table of what it gave. The
command is run (what is finished is not run again), and every mean must lie within the interval of the page. `--write` writes the
table anew.
"""

from __future__ import annotations

import argparse
import csv
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
PAGES = ("scanner-twins.md", "detection.md", "universal.md", "two-stage.md")
BLOCK = re.compile(r"<!-- quick: (?P<metrics>[\w, ]+) -->\n(?P<body>.*?)<!-- /quick -->", re.DOTALL)
COMMAND = re.compile(r"^\$ p2pftl (?P<words>(?:compare|sweep) .*)$", re.MULTILINE)
ROW = re.compile(r"^\| `(?P<variant>[\w.-]+)` \| `(?P<metric>\w+)` \|(?P<figures>[^\n]*)\|$", re.MULTILINE)
ROUNDING = 0.0005

Key = tuple[str, str]
Figures = tuple[float, float, float]
"""Mean, and the limits of its interval."""


@dataclass(frozen=True)
class Quick:
    """What one page says of its quick version. words: of the command, without `p2pftl`; stated: (variant, metric) -> its figures."""

    page: Path
    metrics: tuple[str, ...]
    words: tuple[str, ...]
    stated: Mapping[Key, Figures]

    @property
    def out(self) -> Path:
        """Where the command writes."""
        return Path(self.words[self.words.index("--out") + 1])


def quick(page: Path) -> Quick:
    """Read the block of a page. Raises ValueError where there is none, or no command in it."""
    block = BLOCK.search(page.read_text(encoding="utf-8"))
    command = COMMAND.search(block["body"]) if block else None
    if block is None or command is None:
        raise ValueError(f"{page.name}: no quick version with a command")
    stated: dict[Key, Figures] = {}
    for row in ROW.finditer(block["body"]):
        mean, low, high = (float(cell) for cell in row["figures"].split("|"))
        stated[row["variant"], row["metric"]] = mean, low, high
    metrics = tuple(part.strip() for part in block["metrics"].split(","))
    return Quick(page, metrics, tuple(shlex.split(command["words"])), stated)


def measured(one: Quick) -> dict[Key, Figures]:
    """Run the command of a page and return what it gave. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "p2pftl", *one.words], cwd=HERE.parent, check=True)
    with (HERE.parent / one.out / "summary.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] in one.metrics and line["mean"]]
    return {(line["variant"], line["metric"]): _figures(line) for line in lines}


def faults(one: Quick, found: Mapping[Key, Figures]) -> list[str]:
    """What of a page is not so, in words."""
    told = [f"{one.page.name}: {variant} {metric} is not stated" for variant, metric in found if (variant, metric) not in one.stated]
    for (variant, metric), (mean, low, high) in one.stated.items():
        what = f"{one.page.name}: {variant} {metric} = {mean:.3f} [{low:.3f}, {high:.3f}]"
        if (variant, metric) not in found:
            told.append(f"{what}: the command gives no such row")
        elif not low - ROUNDING <= found[variant, metric][0] <= high + ROUNDING:
            told.append(f"{what}: the command gives {found[variant, metric][0]:.3f}")
    return told


def write(one: Quick, found: Mapping[Key, Figures]) -> None:
    """Put the table into the page."""
    order = sorted(found, key=lambda key: one.metrics.index(key[1]))
    rows = [f"| `{name}` | `{metric}` | {' | '.join(f'{figure:.3f}' for figure in found[name, metric])} |" for name, metric in order]
    date = f"{datetime.now(UTC):%-d %B %Y}"
    lines = [
        f"<!-- quick: {', '.join(one.metrics)} -->", "```console", f"$ p2pftl {shlex.join(one.words)}", "```", "",
        f"Measured on {date}; 95 % intervals; **synthetic** data.", "",
        "| variant | metric | mean | low | high |", "|---|---|---|---|---|", *rows, "<!-- /quick -->",
    ]  # fmt: skip
    text = one.page.read_text(encoding="utf-8")
    one.page.write_text(BLOCK.sub(lambda _: "\n".join(lines), text, count=1), encoding="utf-8")


def _figures(line: Mapping[str, str]) -> Figures:
    mean = float(line["mean"])
    return mean, float(line["low"] or mean), float(line["high"] or mean)


def main(words: Sequence[str] | None = None) -> int:
    """Check or write the pages that were named, all of them if none was; return 1 if a page is not true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=PAGES, metavar="PAGE")
    parser.add_argument("--write", action="store_true", help="write the tables anew")
    given = parser.parse_args(words)
    wrong: list[str] = []
    for name in given.pages:
        one = quick(HERE / name)
        found = measured(one)
        if given.write:
            write(one, found)
        else:
            wrong += faults(one, found)
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
