"""The JSON schema for editors, the starter, and policies from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from p2pftl import policies
from p2pftl.errors import ScenarioError, UsageError
from p2pftl.scenario import forms
from p2pftl.scenario.load import load
from p2pftl.scenario.resolved import resolved
from p2pftl.scenario.schema import schema
from p2pftl.scenario.starter import write_starter
from p2pftl.scenario.yaml_text import read
from tests.scenario.conftest import Write, text
from tests.scenario.test_resolved import RICH

SHIPPED = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


@pytest.fixture(scope="module")
def editor() -> jsonschema.protocols.Validator:
    described = json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(described)
    return jsonschema.Draft202012Validator(described)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_schema_accepts_every_shipped_scenario(editor: jsonschema.protocols.Validator, path: Path) -> None:
    editor.validate(read(path.read_text(), path.name).value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_scenario_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parents[1])
    try:
        assert load(path).name
    except ScenarioError as error:
        if error.code != "E127":
            raise
        pytest.skip(f"needs weights that are not here: {error.problem}")


def test_the_schema_accepts_what_load_accepts(editor: jsonschema.protocols.Validator, write: Write) -> None:
    scenario = load(write(**RICH))
    editor.validate(read(text(**RICH), "f").value)
    editor.validate(read(resolved(scenario), "f").value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rouds", "3"), ("rounds", "0"), ("rounds", "ten"), ("name", "a/b"),
        ("topology", "{use: rng}"), ("topology", "{use: ring, twin: 3}"),
        ("aggregator", "mean"), ("fit", "{lr: -1}"), ("twins", "{ct-01: {vendor: X}}"), ("incidents", "[{kind: crash}]"),
        ("cloud", "{every: 1}"),
        ("links", "{loss: 2}"), ("version", "2"), ("data", "{use: phantom, test: 1}"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_load_refuses(editor: jsonschema.protocols.Validator, key: str, value: str) -> None:
    assert not editor.is_valid(read(text(**{key: value}), "f").value)


def test_the_schema_describes_every_policy_and_its_fields() -> None:
    described = schema()
    found = json.dumps(described)
    for seam in policies.SEAMS:
        for name in policies.registered(seam):
            assert f'"const": "{name}"' in found, (seam, name)
    assert described["properties"]["rounds"]["description"] == "gossip rounds of every twin"
    assert described["properties"]["aggregator"]["default"] == "weighted_mean"
    assert all("description" in entry for entry in described["properties"].values())


def test_the_starter_is_valid_and_shows_its_keys(tmp_path: Path, editor: jsonschema.protocols.Validator) -> None:
    path = write_starter(str(tmp_path / "mine"))
    scenario = load(path)
    assert (path.name, scenario.name) == ("mine.yaml", "mine")
    editor.validate(read(path.read_text(), "mine").value)
    assert "\t" not in path.read_text()


def test_what_the_starter_has_commented_out_is_valid_too(tmp_path: Path) -> None:
    path = write_starter(str(tmp_path / "mine.yaml"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], *(line.removeprefix("# ") for line in lines[2:])]))
    scenario = load(path)
    assert scenario.cloud is not None
    assert scenario.variants


def test_the_starter_overwrites_only_when_forced(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("precious")
    with pytest.raises(UsageError, match=r"E601 .*exists already"):
        write_starter(str(target))
    assert target.read_text() == "precious"
    assert load(write_starter(str(target), force=True)).name == "mine"


@pytest.mark.parametrize("name", ["", "..", "a b", "x" * 70, ".hidden", "nowhere/mine"])
def test_the_starter_needs_a_name_and_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="E6"):
        write_starter(f"{tmp_path}/{name}")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package of somebody else, with a codec of its own and one that cannot be imported."""
    (tmp_path / "guests.py").write_text(GUESTS)
    info = tmp_path / "guests-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guests\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[p2pftl.codec]\nrounded = guests:Rounded\nbroken = nowhere:Codec\n")
    monkeypatch.syspath_prepend(tmp_path)
    caches = (policies.offered, policies.find, forms.form)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


GUESTS = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from annotated_types import Interval

@dataclass(frozen=True)
class Table:
    """A table."""
    rows: int = 1

@dataclass(frozen=True)
class Rounded:
    """Rounds. digits: how many digits stay; table: where it is."""
    digits: Annotated[int, Interval(ge=1, le=9)]
    json: str = "x"
    table: Table = Table()
    book: Path | None = None

    def __post_init__(self):
        if self.digits == 7:
            raise ValueError("secret")
'''


@pytest.mark.usefixtures("outside")
def test_a_policy_from_outside_is_an_equal_citizen(write: Write, tmp_path: Path) -> None:
    scenario = load(write(codec="{use: rounded, digits: 3, table: {rows: 2}, book: b.csv}"))
    assert repr(scenario.codec) == f"Rounded(digits=3, json='x', table=Table(rows=2), book={tmp_path / 'b.csv'!r})"
    assert "digits: 3" in resolved(scenario)
    again = tmp_path / "again.yaml"
    again.write_text(resolved(scenario))
    assert load(again) == scenario


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("codec", "code", "says"),
    [
        ("rounded", "E110", "codec.digits is missing"),
        ("{use: rounded, digits: 0}", "E118", "must be >= 1"),
        ("{use: rounded, digit: 3}", "E109", "did you mean digits?"),
        ("{use: rounded, digits: 3, table: {row: 1}}", "E109", "did you mean rows?"),
        ("{use: rounded, digits: 7}", "E118", "Rounded refuses these values (ValueError)"),
        ("broken", "E126", "cannot be imported (ModuleNotFoundError)"),
    ],
)
def test_a_policy_from_outside_is_checked_like_ours(write: Write, codec: str, code: str, says: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(write(codec=codec))
    assert (caught.value.code, "s.yaml:6:" in caught.value.where) == (code, True)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
