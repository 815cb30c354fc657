"""What a comparison runs: every variant with every seed, each a run of its own in DIR/VARIANT/seed-N."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from p2pftl.errors import ScenarioError, UsageError
from p2pftl.folder import FILES, FOLDERS, SCENARIO
from p2pftl.observe import summary
from p2pftl.scenario.load import document, load
from p2pftl.scenario.overrides import overridden
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import NAME, Scenario

BASE = "base"
SEEDS = 3
LONGEST = 64
Bound = Literal["", "lower", "upper"]


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    about: what it changes, in words; bound: it is the lower or the upper bound; matched: its steps depend on the seed's shards.
    """

    name: str
    scenario: Scenario
    about: str = ""
    bound: Bound = ""
    matched: bool = False


@dataclass(frozen=True)
class Cell:
    """One run. text: its scenario, resolved; folder: where it is."""

    variant: str
    seed: int
    scenario: Scenario
    text: str
    folder: Path

    @property
    def file(self) -> Path:
        """The scenario that is run, beside the folder, which belongs to the run."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def log(self) -> Path:
        """What the run said."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """What the run came to, if it is done and was of this very scenario: then it need not run again."""
        try:
            if (self.folder / SCENARIO).read_text(encoding="utf-8") != self.text:
                return None
            found = json.loads((self.folder / summary.FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("status") in ("done", "degraded") else None

    def clear(self) -> None:
        """Make way for the run: write its scenario, remove what an earlier one left. Raises UsageError E510."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
            self.file.write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                "E510", f"cannot be written (errno {error.errno})", where=str(self.folder), fix="choose another --out"
            ) from error


def variants(file: Path, settings: Sequence[str]) -> list[Variant]:
    """The scenario itself, called `base` unless the file calls a variant so, then its variants. Raises P2pftlError as load() does."""
    plain = load(file, settings)
    about = {name: ", ".join(f"{key}: {_short(value)}" for key, value in keys.items()) for name, keys in plain.variants.items()}
    found = [] if BASE in plain.variants else [Variant(BASE, _cell(plain, file, settings), "the scenario as it is")]
    return found + [Variant(_slug(name), _cell(load(file, settings, variant=name), file, settings), about[name]) for name in plain.variants]


def grid(file: Path, settings: Sequence[str], axes: Sequence[str]) -> list[Variant]:
    """One variant per point of the grid whose axes are "key=1,2,3". Raises UsageError E613, P2pftlError as load() does."""
    parsed = [_axis(axis) for axis in axes]
    found = []
    for point in product(*([(key, value) for value in values] for key, values in parsed)):
        changes = [f"{key}={value}" for key, value in point]
        name = "_".join(f"{key.rpartition('.')[2]}-{_plain(value)}" for key, value in point)[:LONGEST]
        scenario = load(file, ["variants={}", *settings, *changes])
        found.append(Variant(_slug(name), _cell(scenario, file, settings), ", ".join(changes)))
    if len({variant.name for variant in found}) < len(found):
        raise UsageError("E613", "two points of the grid have the same name", where="--grid", fix="give every value once")
    return [replace(one, scenario=replace(one.scenario, name=f"{one.scenario.name}-{one.name}"[:LONGEST])) for one in found]


def seeds(file: Path, settings: Sequence[str], wanted: str | None) -> list[int]:
    """`wanted`: how many ("5"), or which ("1,4,9"); else those of the scenario, else three.

    A number takes the scenario's seeds first, then counts on from the highest. Raises UsageError E613.
    """
    scenario = load(file, settings)
    if wanted is not None and "," in wanted:
        listed = [part.strip() for part in wanted.split(",") if part.strip()]
        if not listed or not all(part.isdecimal() for part in listed) or len(set(listed)) < len(listed):
            raise UsageError("E613", f"--seeds {wanted} is no list of different seeds", fix="for example --seeds 1,2,3")
        return [int(part) for part in listed]
    if wanted is not None and not (wanted.isdecimal() and 1 <= int(wanted) <= 1000):
        raise UsageError("E613", f"--seeds {wanted} is neither a number of seeds nor a list", fix="for example --seeds 5, or --seeds 1,4,9")
    known = list(scenario.seeds) or [1 if scenario.seed_chosen else scenario.seed]
    count = int(wanted) if wanted is not None else len(scenario.seeds) or SEEDS
    return (known + [max(known) + step for step in range(1, count + 1)])[:count]


def cells(rows: Sequence[Variant], chosen: Sequence[int], out: Path, with_seed: Callable[[Variant, int], Scenario]) -> list[Cell]:
    """All runs, seed by seed, so that what is done first can be compared first; with_seed: the scenario of a row with one seed."""
    found = []
    for seed in chosen:
        for row in rows:
            scenario = with_seed(row, seed)
            found.append(Cell(row.name, seed, scenario, resolved(scenario), out / row.name / f"seed-{seed}"))
    return found


def _cell(scenario: Scenario, file: Path, settings: Sequence[str]) -> Scenario:
    """Without what a comparison does itself; models are kept only if that is asked for, for there are many."""
    asked = "models" in overridden(document(file), settings).value
    models = scenario.models if asked else "none"
    return replace(scenario, control=False, variants={}, seeds=(), models=models, seed_chosen=False)


def _axis(text: str) -> tuple[str, list[str]]:
    """ "key=1,{use: x, k: 2}" becomes the key and its values; commas within brackets belong to a value."""
    key, equals, rest = text.partition("=")
    values, depth = [""], 0
    for letter in rest:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    values = [value.strip() for value in values]
    if not equals or not key.strip() or not all(values):
        raise UsageError("E613", f"--grid {text} is not KEY=VALUE,VALUE", fix="for example --grid data.split.alpha=0.1,0.3,1")
    return key.strip(), values


def _plain(text: str) -> str:
    """A value as part of a folder's name."""
    return "-".join("".join(letter if letter.isalnum() or letter in "._" else " " for letter in text).split()) or "x"


def _slug(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ScenarioError("E125", f"variant {name} cannot name a folder", fix="use letters, digits, '.', '_' and '-', up to 64")
    return name


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {_short(part)}" for key, part in value.items() if key != "use")
        return " ".join(filter(None, (str(value.get("use", "")), f"({rest})" if rest else ""))) or "{}"
    return "none" if value is None else str(value)
