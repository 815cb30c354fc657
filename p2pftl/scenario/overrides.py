"""Changes to what a file says, on the command line or as a variant; what was changed remembers who changed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2pftl.errors import ScenarioError
from p2pftl.scenario.yaml_text import Document, Path, read


def overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Apply "a.b=c" texts in order; c is YAML (lists and mappings in flow style), list entries are numbers from 0.

    Raises ScenarioError E105 (no KEY=VALUE), E109 (no such place) and what `read` raises, where = the text itself.
    """
    for text in overrides:
        shown = " ".join(text.split())
        place = f"--set {shown if len(shown) <= 80 else shown[:77] + '...'}"
        key, equals, value = text.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path):
            raise ScenarioError("E105", "must be KEY=VALUE", where=place, fix="for example --set fit.lr=0.01")
        document = put(document, path, read(value, "--set", fixed=place), place)
    return document


def merged(document: Document, at: Path) -> Document:
    """Apply the mapping at `at` (a variant) to the rest: mappings merge, all else replaces.

    A mapping that names its policy (`use`) replaces the whole entry, so that no key of another policy stays behind.
    """
    value: Any = document.value
    for part in at:
        value = value[part]
    return _merge(document, document, at, (), value)


def without_cloud(document: Document) -> Document:
    """Leave out incidents of the cloud alone: a variant that takes the cloud away takes its outages away as well."""
    incidents = document.value.get("incidents")
    if not isinstance(incidents, list) or document.value.get("cloud") is not None:
        return document
    kept = [at for at, incident in enumerate(incidents) if not _of_cloud(incident)]
    below = [(new, _below(document, ("incidents", at), incidents[at])) for new, at in enumerate(kept)]
    places = {(new, *path): place for new, part in below for path, place in part.places.items()}
    keys = {(new, *path): place for new, part in below for path, place in part.keys.items()}
    place = document.place(("incidents",))
    return put(document, ("incidents",), Document([incidents[at] for at in kept], {(): place, **places}, keys), place)


def _of_cloud(incident: Any) -> bool:
    if not isinstance(incident, dict):
        return False
    link = incident.get("link")
    return incident.get("twin") == "cloud" or (isinstance(link, list) and "cloud" in link)


def _merge(into: Document, source: Document, at: Path, path: Path, value: Any) -> Document:
    if isinstance(value, dict) and (not path or "use" not in value):
        for key, part in value.items():
            into = _merge(into, source, (*at, key), (*path, key), part)
        return into if value or not path else put(into, path, _below(source, at, value), source.place(at))
    return put(into, path, _below(source, at, value), source.place(at, key=True))


def _below(document: Document, at: Path, value: Any) -> Document:
    return Document(value, _shifted(document.places, at), _shifted(document.keys, at))


def _shifted(places: dict[Path, str], at: Path) -> dict[Path, str]:
    return {path[len(at) :]: place for path, place in places.items() if path[: len(at)] == at}


def put(document: Document, path: Path, new: Document, place: str) -> Document:
    """Return `document` with `new` at `path`, missing mappings on the way made; place: who changed it.

    Raises ScenarioError E109 when `path` leads through a value that has no keys.
    """
    path = _counted(document.value, path)
    value = _put(document.value, path, new.value, (), place)
    places = _without(document.places, path) | {path + below: where for below, where in new.places.items()}
    keys = _without(document.keys, path) | {path + below: where for below, where in new.keys.items() if below} | {path: place}
    for length in range(1, len(path)):
        places.setdefault(path[:length], place)
        keys.setdefault(path[:length], place)
    return Document(value, places, keys)


def _put(value: Any, path: Path, new: Any, done: Path, place: str) -> Any:
    if not path:
        return new
    key, rest = path[0], path[1:]
    here = ".".join(map(str, done))
    if isinstance(value, list):
        if not isinstance(key, int) or key >= len(value):
            raise ScenarioError("E109", f"{here}.{key}: {here} has {len(value)} entries", where=place, fix="they count from 0")
        return [*value[:key], _put(value[key], rest, new, (*done, key), place), *value[key + 1 :]]
    if isinstance(value, str):
        value = {"use": value}  # `aggregator: push_sum` is short for `aggregator: {use: push_sum}`
    if value is not None and not isinstance(value, dict):
        raise ScenarioError("E109", f"{here} = {value}: has no key {key}", where=place, fix=f"set {here} itself")
    inside = value or {}
    return {**inside, key: _put(inside.get(key), rest, new, (*done, key), place)}


def _counted(value: Any, path: Path) -> Path:
    """`path` with numbers where it leads through lists."""
    found: list[str | int] = []
    for part in path:
        key = int(part) if isinstance(value, list) and str(part).isdecimal() else part
        found.append(key)
        value = value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else _at(value, key)
    return tuple(found)


def _at(value: Any, key: str | int) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _without(places: dict[Path, str], path: Path) -> dict[Path, str]:
    return {at: place for at, place in places.items() if at[: len(path)] != path}
