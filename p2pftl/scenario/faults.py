"""What pydantic found becomes one sentence with a place: code, key, what was found, what is allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from p2pftl.errors import ScenarioError, nearest
from p2pftl.scenario.yaml_text import Document, Path

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "the path of a file",
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping (key: value)",
    "mapping": "a mapping (key: value)",
    "model": "a mapping (key: value)",
    "dataclass": "a mapping (key: value)",
    "none": "null",
}
_BOUNDS = {"greater_than": (">", "gt"), "greater_than_equal": (">=", "ge"), "less_than": ("<", "lt"), "less_than_equal": ("<=", "le")}
_SIZES = {
    "too_short": ("at least", "min_length", "entries"),
    "too_long": ("at most", "max_length", "entries"),
    "string_too_short": ("at least", "min_length", "characters"),
    "string_too_long": ("at most", "max_length", "characters"),
}
_SWITCHES = frozenset({"yes", "no", "on", "off", "y", "n"})


def explain(error: ValidationError, document: Document) -> ScenarioError:
    """Return the first mistake of `error` as a ScenarioError (E109 to E133) with its place in `document`."""
    details: list[Any] = list(error.errors(include_url=False))
    path = _path(details[0]["loc"], document.value)
    key = details[0]["loc"][-1] if details[0]["loc"] else ""
    if details[0]["type"] == "missing" and isinstance(key, str):
        return ScenarioError("E110", f"{dotted((*path, key))} is missing", where=document.place(path), fix=f"add {key}: ...")
    ours = details[0].get("ctx", {})
    if details[0]["type"] == "p2pftl":
        return blame(ours["code"], path, ours["problem"], ours["fix"], document, key=ours["key"], found=ours["found"])
    value = _value(path, document.value)
    same = [detail for detail in details if _path(detail["loc"], document.value) == path]
    verdicts = [_verdict(detail, value) for detail in same]
    codes = {code for code, _, _ in verdicts}
    code = verdicts[0][0] if len(codes) == 1 else ("E118" if "E118" in codes else "E110")
    problem = "must " + " or ".join(dict.fromkeys(must for _, must, _ in verdicts)).replace(" or be ", " or ")
    return blame(code, path, problem, next((fix for _, _, fix in verdicts if fix), ""), document)


def blame(code: str, path: Path, problem: str, fix: str, document: Document, *, key: bool = False, found: bool = True) -> ScenarioError:
    """Return the error that says what stands at `path` and where; key: it is the key that is wrong; found: show the value."""
    shown = f" = {show(_value(path, document.value))}" if found and not key else ""
    subject = f"{dotted(path)}{shown}: " if path else ""
    return ScenarioError(code, subject + problem, where=document.place(path, key=key), fix=fix)


def dotted(path: Path) -> str:
    """The key path as --set takes it."""
    return ".".join(str(part) for part in path)


def show(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _verdict(detail: Mapping[str, Any], value: Any) -> tuple[str, str, str]:
    """Return (code, what it must do, how to fix it)."""
    kind, ctx = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return "E118", "have more entries", ""
    if kind in _BOUNDS:
        sign, bound = _BOUNDS[kind]
        return "E118", f"be {sign} {ctx[bound]:g}" if isinstance(ctx[bound], float) else f"be {sign} {ctx[bound]}", ""
    if kind in _SIZES:
        how, bound, what = _SIZES[kind]
        return "E118", f"have {how} {ctx[bound]} {what}", ""
    if kind in ("literal_error", "enum"):
        return _choice(ctx.get("expected", ""), value)
    if kind == "multiple_of":
        return "E118", f"be a multiple of {ctx['multiple_of']}", ""
    return _type(kind, value)


def _choice(expected: str, value: Any) -> tuple[str, str, str]:
    allowed = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
    must = f"be {allowed[0]}" if len(allowed) == 1 else "be one of " + ", ".join(allowed)
    if isinstance(value, bool | int | float):
        return "E112", must, f'quote it: "{show(value)}"' if show(value) in allowed else ""
    hint = nearest(value, allowed) if isinstance(value, str) else ""
    return ("E126" if isinstance(value, str) else "E110"), must, hint if hint.startswith("did") else ""


def _type(kind: str, value: Any) -> tuple[str, str, str]:
    wanted = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float").removesuffix("_required")
    must = "be " + _KINDS.get(wanted, f"something else ({kind})")
    if wanted in ("string", "path") and isinstance(value, bool | int | float):
        return "E112", must, f'quote it: "{show(value)}"'
    if wanted == "bool" and isinstance(value, str) and value.lower() in _SWITCHES:
        return "E112", must, f"write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    if wanted == "int" and isinstance(value, float) and value.is_integer():
        return "E110", must, f"write {int(value)}"
    if wanted in ("int", "float") and isinstance(value, str) and _numeric(value):
        return "E110", must, "remove the quotes"
    return "E110", must, ""


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _path(loc: Sequence[str | int], value: Any) -> Path:
    """The part of pydantic's location that exists in the text: it also names branches of unions."""
    path: list[str | int] = []
    for part in loc:
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not inside:
            break
        path.append(part)
        value = _value((part,), value)
    return tuple(path)


def _value(path: Sequence[Any], value: Any) -> Any:
    for part in path:
        value = value[part]
    return value
