"""What a comparison runs: every variant with every seed, each a run of its own in DIR/VARIANT/seed-N.

A source task is run once per seed, in DIR/source/NAME-.../seed-N, whichever variants name it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from p2pftl.errors import ScenarioError, UsageError
from p2pftl.folder import FILES, FOLDERS, SCENARIO, SOURCE
from p2pftl.observe import summary
from p2pftl.scenario.load import document, load, source_of
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

    about: what it changes, in words; bound: it is the lower or the upper bound; matched: its steps depend on the seed's shards;
    point: of a sweep, what each axis is called and its value there.
    """

    name: str
    scenario: Scenario
    about: str = ""
    bound: Bound = ""
    matched: bool = False
    point: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run. text: its scenario, resolved; folder: where it is; source: the run that must be done before, if there is one."""

    variant: str
    seed: int
    scenario: Scenario
    text: str
    folder: Path
    source: Cell | None = None

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
    """One variant per point of the grid whose axes are "key=1,2,3", or of keys that change together "key,other=[1,4],[2,2]".

    Raises UsageError E613, P2pftlError as load() does.
    """
    parsed = [_together(axis) for axis in axes]
    found = []
    for steps in product(*parsed):
        point = [pair for step in steps for pair in step]
        changes = [f"{key}={value}" for key, value in point]
        name = "_".join(f"{key.rpartition('.')[2]}-{_plain(value)}" for key, value in point)[:LONGEST]
        scenario = load(file, ["variants={}", *settings, *changes])
        place = tuple((" and ".join(key for key, _ in step), " and ".join(_said(value) for _, value in step)) for step in steps)
        found.append(Variant(_slug(name), _cell(scenario, file, settings), ", ".join(changes), point=place))
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
            source = _source(scenario, out)
            if source is not None and scenario.source is not None:
                scenario = replace(scenario, source=replace(scenario.source, folder=str(source.folder.absolute())))
            found.append(Cell(row.name, seed, scenario, resolved(scenario), out / row.name / f"seed-{seed}", source))
    return found


def sources(cells: Iterable[Cell]) -> list[Cell]:
    """The runs that `cells` need before, each once, in the order in which they are needed first."""
    return list({cell.source.folder: cell.source for cell in cells if cell.source is not None}.values())


def _source(scenario: Scenario, out: Path) -> Cell | None:
    """The run of its source task, the same for all variants that have the same one; None without, or where it is done elsewhere."""
    if scenario.source is None or scenario.source.folder is not None:
        return None
    first = source_of(scenario)
    mark = hashlib.sha256(f"{scenario.source.overlap} {resolved(replace(first, seed=0))}".encode()).hexdigest()[:8]
    name = f"{first.name}-{mark}"
    folder = out / SOURCE / name / f"seed-{scenario.seed}"
    return Cell(f"{SOURCE}/{name}", scenario.seed, first, resolved(first), folder)


def _cell(scenario: Scenario, file: Path, settings: Sequence[str]) -> Scenario:
    """Without what a comparison does itself; models are kept only if that is asked for, for there are many."""
    asked = "models" in overridden(document(file), settings).value
    models = scenario.models if asked else "none"
    return replace(scenario, control=False, variants={}, seeds=(), models=models, seed_chosen=False)


def _together(text: str) -> list[list[tuple[str, str]]]:
    """The steps of an axis: at each, which keys take which values. Raises UsageError E613."""
    key, values = _axis(text)
    keys = [part.strip() for part in key.split(",")]
    if len(keys) == 1:
        return [[(key, value)] for value in values]
    steps = [_parts(value[1:-1]) if value[0] + value[-1] == "[]" else [] for value in values]
    if not all(keys) or any(len(step) != len(keys) for step in steps):
        raise UsageError(
            "E613", f"--grid {text}: {len(keys)} keys change together, so every value is a list of {len(keys)}",
            fix="for example --grid rounds,fit.epochs=[10,1],[5,2]",
        )  # fmt: skip
    return [list(zip(keys, step, strict=True)) for step in steps]


def _axis(text: str) -> tuple[str, list[str]]:
    """ "key=1,{use: x, k: 2}" becomes the key and its values; commas within brackets belong to a value."""
    key, equals, rest = text.partition("=")
    values = _parts(rest)
    if not equals or not key.strip() or not all(values):
        raise UsageError("E613", f"--grid {text} is not KEY=VALUE,VALUE", fix="for example --grid data.split.alpha=0.1,0.3,1")
    return key.strip(), values


def _parts(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _said(text: str) -> str:
    """A value in a few words: "{use: dirichlet, alpha: 0.5}" is "dirichlet, alpha 0.5"."""
    inner = text.strip("{}").replace(":", "") if text.startswith("{") else text
    return inner.removeprefix("use ").strip()


def _plain(text: str) -> str:
    """A value as part of a folder's name."""
    text = _said(text)
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
