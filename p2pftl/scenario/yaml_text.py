"""YAML without its traps: text becomes plain values that remember where they stood.

YAML 1.2 scalars (`1e-3` and `5e7` are numbers, `no` and `off` are text), nothing silent: duplicate keys, octal look-alikes,
dates, tags, non-finite numbers, alias bombs and deep nesting are refused with file, line and column (E103 to E117).
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import yaml

from p2pftl.errors import ScenarioError

Path = tuple[str | int, ...]
Scalar = str | int | float | bool | None

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_ALIASES = 100
MAX_VALUES = 100_000

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INTEGER = re.compile(r"[-+]?(0|[1-9](_?[0-9])*)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9](_?[0-9])*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_CLOCK = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9]*)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")


@dataclass(frozen=True)
class Document:
    """Plain values and their places.

    value: dicts, lists and scalars; places: path of a value -> "file:line:col"; keys: path of a mapping entry -> place of its key.
    """

    value: Any
    places: dict[Path, str]
    keys: dict[Path, str]

    def place(self, path: Path, *, key: bool = False) -> str:
        """Where `path` stands, or else its nearest ancestor that stands anywhere."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")


class Refused(Exception):
    """A scalar with a double meaning; the reader adds the place."""

    def __init__(self, code: str, problem: str, fix: str) -> None:
        super().__init__(code)
        self.code, self.problem, self.fix = code, problem, fix


def scalar(text: str) -> Scalar:
    """Return what an unquoted `text` means. Raises Refused E111 (010, 1:30), E112 (dates), E113 (not finite)."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _NOT_FINITE.fullmatch(text):
        raise Refused("E113", f"{text}: a number must be finite", "write a finite number")
    if _DATE.fullmatch(text):
        raise Refused("E112", f"{text}: looks like a date", f'quote it: "{text}"')
    if _OCTAL.fullmatch(text) and text.strip("+-_0123456789") == "":
        plain = text.replace("_", "").lstrip("+-").lstrip("0") or "0"
        raise Refused("E111", f"{text}: a number with a leading zero is octal to some readers", f'write {plain}, or "{text}" for text')
    if _CLOCK.fullmatch(text):
        raise Refused("E111", f"{text}: is a number of base 60 to some readers", f'write seconds as one number, or "{text}" for text')
    return _number(text)


def _number(text: str) -> Scalar:
    if _INTEGER.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > 64:
            raise Refused("E118", f"a number of {len(text)} digits is too large", "write at most 64 digits")
        return int(text, 0)
    if not _FLOAT.fullmatch(text) or text in {".", "+", "-"}:
        return text
    number = float(text)
    if abs(number) == float("inf"):
        raise Refused("E113", f"{text}: too large, a number must be finite", "write a number below 1.8e308")
    whole = "." not in text and number.is_integer()  # 1e3 counts things as well as 1000 does
    return int(number) if whole else number


def read(text: str, name: str, *, fixed: str | None = None) -> Document:
    """Parse one YAML document; `name` is what places call the file ("quickstart.yaml:12:3"), `fixed` one place for all of it.

    Raises ScenarioError E105 (syntax), E106 (two documents), E107 (control character), E108 (duplicate key), E111 to E116.
    """
    try:
        return _Builder(name, fixed).document(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        place = fixed or f"{name}:{line}:{column}"
        problem = f"a control character (U+{ord(text[error.position]):04X}) at character {error.position}"
        raise ScenarioError("E107", problem, where=place, fix="save the file as plain UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, name, fixed) from None


def document(path: File) -> Document:
    """Read the mapping in the file at `path`.

    Raises ScenarioError E101 to E104, E117 and what `read` raises.
    """
    text = _text(path)
    found = read(text, str(path))
    if found.value is None:
        raise ScenarioError("E103", "the scenario is empty", where=str(path), fix="`p2pftl new NAME` writes a starter")
    if not isinstance(found.value, dict):
        kind = "a list" if isinstance(found.value, list) else "a single value"
        raise ScenarioError("E104", f"{kind} at the top; a scenario is a mapping (key: value)", where=found.place(()), fix="name: ...")
    return found


def _text(path: File) -> str:
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise ScenarioError("E102", f"{what}, a YAML file is needed", where=str(path), fix=_inside(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ScenarioError("E101", "no such scenario", where=str(path), fix=_beside(path)) from None
    except (OSError, ValueError) as error:
        name = errno.errorcode.get(getattr(error, "errno", None) or 0, "EINVAL")
        raise ScenarioError("E102", f"cannot be read ({name})", where=str(path), fix="check the name and its permissions") from None
    if len(data) > MAX_BYTES:
        raise ScenarioError("E117", "larger than 1 MB", where=str(path), fix="a scenario is a short text; put data into files it names")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScenarioError("E107", f"not UTF-8 at byte {error.start}", where=str(path), fix="save the file as plain UTF-8 text") from None


def _beside(path: File) -> str:
    """Which scenario may have been meant: one beside it, or one in the project's folder of scenarios."""
    places = [path.parent, File("scenarios")]
    there = {item.name: item for place in reversed(places) for item in _yaml(place)}
    stems = {item.stem: item for item in there.values()}
    near = difflib.get_close_matches(path.name, there, n=1) or difflib.get_close_matches(path.stem, stems, n=1)
    if near:
        return f"did you mean {there.get(near[0]) or stems[near[0]]}?"
    return "there: " + ", ".join(sorted(there)[:8]) if there else "`p2pftl new NAME` writes one"


def _inside(path: File) -> str:
    there = _yaml(path)
    return "inside: " + ", ".join(item.name for item in there[:8]) if there else "give the path of a .yaml file"


def _yaml(folder: File) -> list[File]:
    try:
        return sorted(item for item in folder.iterdir() if item.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class _Node:
    """One value of the text. content: a scalar, a list of nodes, or a list of (key, key place, node); size counts values below."""

    content: Any
    place: str
    kind: str
    size: int


class _Builder:
    """Turns parser events into nodes, then nodes into values; one use."""

    def __init__(self, name: str, fixed: str | None) -> None:
        self._name = name
        self._fixed = fixed
        self._anchors: dict[str, _Node | None] = {}
        self._aliases = 0

    def document(self, text: str) -> Document:
        """Build the only document of `text`; an empty text has the value None."""
        events = iter(yaml.parse(text, yaml.SafeLoader))
        next(events)
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            return Document(None, {(): self._fixed or f"{self._name}:1:1"}, {})
        root = self._node(next(events), events, 0)
        next(events)
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse("E106", "a second document starts here; a scenario is one", self._place(after), "keep one document per file")
        found = Document(None, {}, {})
        value = self._value(root, (), found)
        return Document(value, found.places, found.keys)

    def _place(self, event: yaml.Event) -> str:
        mark = event.start_mark
        return self._fixed or (f"{self._name}:{mark.line + 1}:{mark.column + 1}" if mark else self._name)

    def _refuse(self, code: str, problem: str, place: str, fix: str) -> None:
        raise ScenarioError(code, problem, where=place, fix=fix)

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        place = self._place(event)
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(anchor or "", place)
        if tag := getattr(event, "tag", None):
            self._refuse("E116", f"tag {tag[:40]}: tags are not allowed", place, "remove it; quote the value if it is text")
        if depth > MAX_DEPTH:
            self._refuse("E115", f"nested deeper than {MAX_DEPTH} levels", place, "a scenario needs about 5")
        if anchor:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event, place), place, "scalar", 1)
        elif isinstance(event, yaml.SequenceStartEvent):
            items = self._items(events, depth)
            node = _Node(items, place, "list", 1 + sum(item.size for item in items))
        else:
            entries = self._entries(events, depth)
            node = _Node(entries, place, "mapping", 1 + sum(entry[2].size for entry in entries))
        if node.size > MAX_VALUES:
            self._refuse("E114", f"aliases expand to more than {MAX_VALUES:,} values", place, "write the values out")
        if anchor:
            self._anchors[anchor] = node
        return node

    def _alias(self, anchor: str, place: str) -> _Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse("E114", f"aliases > {MAX_ALIASES}", place, "write the values out")
        if anchor not in self._anchors:
            self._refuse("E105", f"*{anchor[:40]}: no such anchor above", place, f"mark the value with &{anchor[:40]} first")
        node = self._anchors[anchor]
        if node is None:
            raise ScenarioError("E114", f"*{anchor[:40]} contains itself", where=place, fix="write the values out")
        return node

    def _scalar(self, event: yaml.ScalarEvent, place: str) -> Scalar:
        if event.style is not None:
            return str(event.value)
        try:
            return scalar(event.value)
        except Refused as refused:
            raise ScenarioError(refused.code, refused.problem, where=place, fix=refused.fix) from None

    def _items(self, events: Iterator[yaml.Event], depth: int) -> list[_Node]:
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, depth + 1))
        return items

    def _entries(self, events: Iterator[yaml.Event], depth: int) -> list[tuple[str, str, _Node]]:
        entries: dict[str, tuple[str, str, _Node]] = {}
        merged: dict[str, tuple[str, str, _Node]] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            merge = isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<"
            key, place = self._key(event, events, depth)
            node = self._node(next(events), events, depth + 1)
            if merge:
                for entry in self._merged(node):
                    merged.setdefault(entry[0], entry)
                continue
            if key in entries:
                problem = f"{key} is written twice, first at {entries[key][1]}"
                self._refuse("E108", problem, place, "keep one of them")
            entries[key] = (key, place, node)
        return [*entries.values(), *(entry for key, entry in merged.items() if key not in entries)]

    def _key(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> tuple[str, str]:
        node = self._node(event, events, depth + 1)
        if node.kind != "scalar" or not isinstance(node.content, str):
            found = f"{node.content}: " if node.kind == "scalar" else ""
            self._refuse("E112", f"{found}a key must be text", node.place, "quote it")
        return str(node.content), node.place

    def _merged(self, node: _Node) -> list[tuple[str, str, _Node]]:
        parts = node.content if node.kind == "list" else [node]
        if any(part.kind != "mapping" for part in parts):
            self._refuse("E105", "<< takes a mapping or a list of mappings", node.place, "write <<: *anchor")
        return [entry for part in parts for entry in part.content]

    def _value(self, node: _Node, path: Path, into: Document) -> Any:
        if len(path) > MAX_DEPTH:
            self._refuse("E115", f"nested deeper than {MAX_DEPTH} levels", node.place, "a scenario needs about 5")
        into.places[path] = node.place
        if node.kind == "scalar":
            return node.content
        if node.kind == "list":
            return [self._value(item, (*path, at), into) for at, item in enumerate(node.content)]
        values = {}
        for key, place, child in node.content:
            into.keys[(*path, key)] = place
            values[key] = self._value(child, (*path, key), into)
        return values


_SYNTAX = (
    ("\\t", "a tab is used for indentation", "indent with spaces"),
    ("undefined tag handle", "tags are not allowed", "remove it; quote the value if it is text"),
    ("mapping values are not allowed", "a `:` where none can stand", "check the indentation above, or quote the text"),
    ("expected ',' or", "a bracket is not closed", "add the missing ] or }"),
    ("flow node", "a bracket is not closed", "add the missing ] or }"),
    ("node content", "a value is missing", "add it, or close the bracket above"),
    ("unexpected end of stream", "a quote is not closed", "add the missing quote"),
    ("could not find expected ':'", "not a `key: value` line", "add the colon, or quote the text"),
    ("expected <block end>", "the indentation does not fit the lines above", "align it with its neighbours"),
    ("cannot start any token", "a character that cannot start a value", "quote the text"),
    ("unknown escape", "an unknown escape in double quotes", "use single quotes"),
)


def _syntax(error: yaml.MarkedYAMLError, name: str, fixed: str | None) -> ScenarioError:
    said = error.problem or ""
    problem, fix = next(
        ((p, f) for key, p, f in _SYNTAX if key in said), ("this is not valid YAML", "check brackets, quotes and indentation")
    )
    mark = error.problem_mark or error.context_mark
    place = fixed or (f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name)
    opened = error.context_mark
    if opened and ("bracket" in problem or "quote is" in problem) and not fixed:
        problem += f" (opened at line {opened.line + 1}, column {opened.column + 1})"
    code = "E116" if "tag handle" in said else "E105"
    return ScenarioError(code, problem, where=place, fix=fix)
