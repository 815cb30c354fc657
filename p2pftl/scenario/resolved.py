"""A Scenario as text again, every key spelt out, so that a run folder says exactly what was run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml

from p2pftl import __version__
from p2pftl.errors import ScenarioError
from p2pftl.policies import Within
from p2pftl.scenario.forms import Policy, policy_name
from p2pftl.scenario.schema import Scenario
from p2pftl.scenario.yaml_text import Refused, scalar


def resolved(scenario: Scenario) -> str:
    """Return YAML that `load` reads back to an equal Scenario, defaults and absolute paths included.

    Raises ScenarioError E126 for a policy that is not registered under any name.
    """
    plain = _fields(scenario)
    if plain["fit"].get("steps") is not None:
        del plain["fit"]["epochs"]  # unused then, and both together are refused
    return f"# resolved by p2pftl {__version__}\n{dumped(plain)}"


def dumped(plain: Mapping[str, Any]) -> str:
    """Return YAML of plain values that `yaml_text.read` reads back to the same."""
    text: str = yaml.dump(plain, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    return text


def _fields(value: Any) -> dict[str, Any]:
    hints = get_type_hints(type(value), include_extras=True)
    items = [item for item in dataclasses.fields(value) if item.init and item.metadata.get("key", True)]
    return {item.name: _plain(getattr(value, item.name), _policy(hints[item.name])) for item in items}


def _plain(value: Any, policy: Policy | None) -> Any:
    """policy: how `value`, or what it holds, was named in the text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part, policy) for key, part in value.items()}
    if policy and policy.slot and value is not None:
        rest = _fields(value)
        own = getattr(value, policy.slot)
        del rest[policy.slot]
        return {policy.key: _name(policy.seam, own), **_fields(own), **rest}
    if isinstance(value, tuple | list | set | frozenset):
        parts = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(part, policy) for part in parts]
    if policy and value is not None:
        return {policy.key: _name(policy.seam, value), **_fields(value)}
    if dataclasses.is_dataclass(value):
        return _fields(value)
    return str(value) if isinstance(value, Path) else value


def _policy(hint: Any) -> Policy | None:
    """The Policy annotation anywhere within `hint`."""
    if get_origin(hint) is Annotated:
        found = next((extra for extra in hint.__metadata__ if isinstance(extra, Policy | Within)), None)
        if found:
            return Policy.of(found) if isinstance(found, Within) else found
    return next((found for part in get_args(hint) if (found := _policy(part))), None)


def _name(seam: str, policy: object) -> str:
    name = policy_name(seam, policy)
    if not name:
        raise ScenarioError("E126", f"{type(policy).__qualname__} is not registered for {seam}", fix=f"add an entry point to p2pftl.{seam}")
    return name


class _Plain(yaml.SafeDumper):
    """Quotes whatever our reader would not take as text, and repeats values instead of aliasing them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        quoted = scalar(value) != value or value == "<<"
    except Refused:
        quoted = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="'" if quoted else None)


_Plain.add_representer(str, _text)
