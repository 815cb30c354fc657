"""Text becomes a Scenario, or one clear error with file, line, key and a suggestion."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from p2pftl.errors import P2pftlError, ScenarioError, TopologyError, nearest
from p2pftl.scenario.contradictions import contradictions
from p2pftl.scenario.faults import blame, explain
from p2pftl.scenario.forms import fill
from p2pftl.scenario.overrides import merged, overridden, without_cloud
from p2pftl.scenario.schema import Scenario
from p2pftl.scenario.source import as_source, disagreements
from p2pftl.scenario.yaml_text import Document, document

__all__ = ["document", "load", "source_of"]

_SECRET = re.compile(r"\$\{\w+\}|^\$\w+$")


def load(path: Path, overrides: Sequence[str] = (), *, variant: str | None = None, alone: bool = False) -> Scenario:
    """Read the scenario at `path`, changed by `overrides` ("fit.lr=0.1") and, before them, by the variant of that name.

    alone: without its source task, which is read and checked as well if it has one.
    Relative paths start at the file's folder, else at the working folder. Every variant is checked, chosen or not.
    Raises ScenarioError E101 to E135, TopologyError E2xx; each says where.
    """
    written = overridden(document(path), overrides)
    variants = written.value.get("variants")
    found = {name: _variant(written, name, overrides) for name in variants or {}} if isinstance(variants, dict) else {}
    if variant is not None and variant not in found:
        fix = nearest(variant, found) if found else "the scenario has no variants"
        raise ScenarioError("E109", f"no variant {variant}", where=str(path), fix=fix)
    scenario = _check(written, path, alone=alone)
    checked = {name: _check_variant(changed, path, name, alone=alone) for name, changed in found.items()}
    return scenario if variant is None else checked[variant]


def source_of(scenario: Scenario) -> Scenario:
    """Read the scenario that `scenario` names as its source task, as it is run first. Raises what `load` raises."""
    assert scenario.source is not None
    try:
        return as_source(load(Path(scenario.source.scenario), alone=True), scenario)
    except P2pftlError as error:
        raise type(error)(error.code, f"source task: {error.problem}", where=error.where, fix=error.fix) from None


def _variant(written: Document, name: str, overrides: Sequence[str]) -> Document:
    value = written.value["variants"][name]
    place = written.place(("variants", name))
    if not isinstance(value, dict):
        raise ScenarioError("E110", f"variants.{name} must be a mapping of keys to change", where=place, fix=f"write {name}: {{rounds: 5}}")
    for key in ("variants", "seeds", "version"):
        if key in value:
            place = written.place(("variants", name, key), key=True)
            raise ScenarioError("E109", f"variants.{name}.{key}: a variant cannot change it", where=place, fix="remove it")
    changed = overridden(merged(written, ("variants", name)), overrides)
    return without_cloud(changed) if written.value.get("cloud") is not None else changed


def _check_variant(written: Document, path: Path, name: str, *, alone: bool) -> Scenario:
    try:
        return _check(written, path, suffix=f"-{name}", alone=alone)
    except P2pftlError as error:
        raise type(error)(error.code, f"variant {name}: {error.problem}", where=error.where, fix=error.fix) from None


def _check(written: Document, path: Path, suffix: str = "", *, alone: bool) -> Scenario:
    """Return the scenario of `written`; suffix: what a variant adds to the name; alone: its source task is not read."""
    for at, text in _texts(written.value):
        if _SECRET.search(text):
            raise blame("E135", at, "environment variables are not replaced", "write the value itself; keep secrets out", written)
    value = {"name": _stem(path), **written.value}
    if suffix:
        value = {key: part for key, part in value.items() if key not in ("variants", "seeds")}
        value["name"] = f"{value['name']}{suffix}"
    chosen = value.get("seed") is None
    if chosen:
        value["seed"] = secrets.randbelow(2**31)
    try:
        scenario: Scenario = fill(Scenario, value, path.absolute().parent)
    except ValidationError as error:
        raise explain(error, written) from None
    for fault in contradictions(scenario, written.value):
        named = blame(fault.code, fault.path, fault.problem, fault.fix, written, key=fault.key, found=fault.code == "E127")
        kind = TopologyError if fault.code.startswith("E2") else ScenarioError
        raise kind(named.code, named.problem, where=fault.where or named.where, fix=named.fix)
    if scenario.source is not None and not alone:
        for at, problem, fix in disagreements(source_of(scenario), scenario):
            raise blame("E128", at, problem, fix, written, found=False)
    return replace(scenario, seed_chosen=chosen)


def _stem(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "scenario"


def _texts(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from _texts(part, (*path, key))
