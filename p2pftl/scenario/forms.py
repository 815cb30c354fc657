"""Any frozen dataclass as a form to fill in: its fields are the keys, its annotations the rules, its docstring the help.

pydantic does the checking; nothing outside this package sees it. Values come as plain JSON-like data and are checked strictly
(the text "3" is no number), policies are imported only when a scenario names them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from p2pftl.errors import P2pftlError, nearest
from p2pftl.policies import Within, find, registered

PATH_KEYS = frozenset({"path", "manifest", "boxes", "annotations", "folder", "file", "scenario"})


def fault(
    code: str, problem: str, fix: str = "", *, at: tuple[str | int, ...] = (), key: bool = False, found: bool = True
) -> ValidationError:
    """Return an error that keeps its catalogue code on its way through pydantic.

    at: where below the value under check; key: it is about the key, not its value; found: show the value in the message.
    """
    custom = PydanticCustomError("p2pftl", "{problem}", {"code": code, "problem": problem, "fix": fix, "key": key, "found": found})
    return ValidationError.from_exception_data("p2pftl", [{"type": custom, "loc": at, "input": None}])


class Form(BaseModel):
    """What every form has in common: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@cache
def form(cls: type, use: str = "", key: str = "use", holder: type | None = None, slot: str = "") -> type[Form]:
    """Return the form of dataclass `cls`.

    use, key: the policy's name and the key it stands under; holder, slot: a dataclass whose other fields stand in the same
    mapping while `slot` takes the policy.
    """
    fields: dict[str, Any] = {}
    if use:
        fields["f_" + key] = (Literal[use], Field(alias=key, description=_summary(cls)))
    for owner in (holder, cls):
        if owner is None:
            continue
        for item in dataclasses.fields(owner):
            if item.init and not (owner is holder and item.name == slot) and item.metadata.get("key", True):
                fields.setdefault("f_" + item.name, _field(owner, item))
    made = create_model(use or cls.__name__, __base__=Form, **fields)
    made.__doc__ = _summary(cls)
    return made


def fill(cls: type, value: Mapping[str, Any], folder: Path | None, **options: Any) -> Any:
    """Check `value` against the form of `cls` and return the filled instance.

    folder: where relative paths start. Raises ValidationError; a P2pftlError of the class's own `__post_init__` is wrapped in one.
    """
    allowed = names(cls, **options)
    for key in value:
        if key not in allowed:
            raise fault("E109", "unknown key", nearest(key, allowed), at=(key,), key=True)
    checked = form(cls, **options).model_validate_json(json.dumps(value), strict=True, context={"folder": folder})
    given = {str(type(checked).model_fields[name].alias): getattr(checked, name) for name in checked.model_fields_set}
    if slot := options.get("slot", ""):
        policy = make(cls, _own(cls, given), folder)
        return make(options["holder"], {**_own(options["holder"], given), slot: policy}, folder)
    return make(cls, _own(cls, given), folder)


def make(cls: type, given: Mapping[str, Any], folder: Path | None) -> Any:
    """Call `cls` with its checked fields, paths made absolute."""
    try:
        return cls(**{name: _located(name, value, folder) for name, value in given.items()})
    except P2pftlError as error:
        raise fault(error.code, error.problem, error.fix, found=False) from None
    except (ValueError, TypeError) as error:
        raise fault("E118", f"{cls.__name__} refuses these values ({type(error).__name__})", "see its documentation", found=False) from None


@dataclass(frozen=True)
class Default:
    """A policy to make when none is named, imported only then."""

    seam: str
    name: str

    def __call__(self) -> Any:
        return find(self.seam, self.name)()


@dataclass(frozen=True)
class Policy:
    """Annotation: the value is `{use: name, ...}` or just `name`, a policy of `seam`, not one of `but`. See `form` for key and slot."""

    seam: str
    key: str = "use"
    slot: str = ""
    but: tuple[str, ...] = ()

    @staticmethod
    def of(found: Within) -> Policy:
        """The same of a policy within a policy."""
        return Policy(found.seam, slot=found.slot, but=found.but)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        holder = {"holder": source, "slot": self.slot} if self.slot else {}
        return core_schema.with_info_plain_validator_function(partial(self._read, holder), metadata={"holder": holder})

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        holder = _metadata(schema)["holder"]
        forms = {name: form(find(self.seam, name), use=name, key=self.key, **holder) for name in self._known()}
        short = [name for name, made in forms.items() if sum(f.is_required() for f in made.model_fields.values()) == 1]
        choices = [handler(made.__pydantic_core_schema__) for made in forms.values()]
        return {"oneOf": [{"enum": short}, *choices] if self.key == "use" and short else choices}

    def _read(self, holder: dict[str, Any], value: Any, info: ValidationInfo) -> Any:
        known = self._known()
        if isinstance(value, str):
            value = {self.key: value}
        if not isinstance(value, dict):
            raise fault("E110", f"must be a mapping like {{{self.key}: {known[0]}}}", "allowed: " + ", ".join(known))
        name = value.get(self.key)
        if name is None:
            raise fault("E110", f"`{self.key}` is missing", "allowed: " + ", ".join(known), found=False)
        if not isinstance(name, str):
            raise fault("E112", "must be text", f'quote it: "{name}"', at=(self.key,))
        if name not in known:
            raise fault("E126", f"no such {self.seam}", nearest(name, known), at=(self.key,))
        return fill(_load(self.seam, name, self.key), value, folder(info), use=name, key=self.key, **holder)

    def _known(self) -> list[str]:
        return sorted(registered(self.seam).keys() - set(self.but))


@dataclass(frozen=True)
class Section:
    """Annotation: the value is a mapping for the annotated dataclass."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(partial(_section, source), metadata={"section": source})

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        described: dict[str, Any] = handler(form(_metadata(schema)["section"]).__pydantic_core_schema__)
        return described


def _section(cls: type, value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, dict):
        raise fault("E110", "must be a mapping (key: value)", "allowed: " + ", ".join(names(cls)))
    return fill(cls, value, folder(info))


def _metadata(schema: CoreSchema) -> dict[str, Any]:
    found: dict[str, Any] = schema.get("metadata", {})
    return found


def names(cls: type, **options: Any) -> list[str]:
    """Keys of the form of `cls`; options as for `form`."""
    return [str(field.alias) for field in form(cls, **options).model_fields.values()]


def policy_name(seam: str, policy: object) -> str:
    """Return the name under which the class of `policy` is registered for `seam`, "" if it is not."""
    cls = type(policy)
    for name, target in registered(seam).items():
        module, _, own = target.partition(":")
        if own == cls.__qualname__ and (module == cls.__module__ or find(seam, name) is cls):
            return name
    return ""


def folder(info: ValidationInfo) -> Path | None:
    """Where relative paths start, as given to `fill`."""
    found: Path | None = (info.context or {}).get("folder")
    return found


def located(path: Path, folder: Path | None) -> Path:
    """Make `path` absolute: below the scenario's folder if it exists there, else below the working folder if there, else the former."""
    path = path.expanduser()
    if path.is_absolute() or folder is None:
        return path
    beside, here = (folder / path).resolve(), path.resolve()
    return here if here.exists() and not beside.exists() else beside


def _located(name: str, value: Any, folder: Path | None) -> Any:
    if isinstance(value, Path):
        return located(value, folder)
    if isinstance(value, str) and (name in PATH_KEYS or value.endswith(".safetensors")):
        return str(located(Path(value), folder))
    return value


def _load(seam: str, name: str, key: str) -> type:
    try:
        return find(seam, name)
    except (ImportError, AttributeError) as error:
        problem = f"{name} is registered as {registered(seam)[name]}, which cannot be imported ({type(error).__name__})"
        raise fault("E126", problem, "mend or reinstall the package that offers it", at=(key,), found=False) from None


def _own(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: given[item.name] for item in dataclasses.fields(cls) if item.init and item.name in given}


def _field(owner: type, item: dataclasses.Field[Any]) -> tuple[Any, Any]:
    hint = _hints(owner)[item.name]
    options: dict[str, Any] = {"alias": item.name, "description": _described(owner).get(item.name)}
    if isinstance(item.default_factory, Default):
        options["json_schema_extra"] = {"default": item.default_factory.name}
    if item.default is not dataclasses.MISSING:
        return hint, Field(item.default, **options)
    if item.default_factory is not dataclasses.MISSING:
        return hint, Field(default_factory=item.default_factory, **options)
    return hint, Field(**options)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return {name: _wrapped(hint) for name, hint in get_type_hints(cls, include_extras=True).items()}


def _wrapped(hint: Any) -> Any:
    """A plain dataclass within a policy becomes a section, so that its unknown keys are named as well; a policy within one, a policy."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is dict:
        return dict[args[0], _wrapped(args[1])]  # type: ignore[valid-type,misc]
    if origin is Annotated:
        return Annotated[args[0], *(Policy.of(one) if isinstance(one, Within) else one for one in args[1:])]
    return Annotated[hint, Section()] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else hint


def _summary(cls: type) -> str:
    text = cls.__doc__ or ""
    return "" if text.startswith(f"{cls.__name__}(") else text.strip().split("\n\n")[0].replace("\n", " ").strip()


@cache
def _described(cls: type) -> dict[str, str]:
    """Field descriptions out of the docstring's "name: meaning; other: meaning." sentences."""
    text = " ".join((cls.__doc__ or "").split())
    known = "|".join(re.escape(item.name) for item in dataclasses.fields(cls))
    parts = re.split(rf"(?:^|(?<=[;.] ))((?:{known})(?:, (?:{known}))*): ", text) if known else []
    pairs: Iterable[tuple[str, str]] = zip(parts[1::2], parts[2::2], strict=False)
    return {name: meaning.rstrip("; ") for group, meaning in pairs for name in group.split(", ")}
