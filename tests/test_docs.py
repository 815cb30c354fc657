"""The pages a user reads are true: their commands run, their YAML is valid, their tables are complete, their links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from p2pftl import policies
from p2pftl.cli import app
from p2pftl.device.charts import ChartPolicy
from p2pftl.device.protocol import Protocol
from p2pftl.device.qa import Limits, QaPolicy
from p2pftl.device.rules import Ageing, Workload
from p2pftl.device.tube import Wear
from p2pftl.events import KINDS, Event
from p2pftl.imaging.archive import Arrivals
from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.scenario.load import load
from p2pftl.scenario.schema import (
    CloudSection,
    Compute,
    DataSection,
    DeviceSection,
    Every,
    FeatureCache,
    Link,
    ModelSpec,
    Recipe,
    Scanner,
    Scenario,
)
from p2pftl.scenario.source import SourceTask
from p2pftl.world.device_incidents import Moment

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
EXAMPLES = sorted(page.stem for page in (ROOT / "examples").glob("own_*.py"))
SMALL = "--executor local --set rounds=2 --set data.split=iid --set data.slices=1 --set data.patients=60 --set control=false"
SKIPPED = {
    "make run": "installs, and takes a minute",
    "make test": "would run itself",
    "pip install --editable examples": "changes the environment; `examples` registers the same entry points here",
    "p2pftl run scenarios/real-covid.yaml": "takes minutes and needs data that are not in the repository",
    "p2pftl run scenarios/real-dicom.yaml": "takes a minute and needs data that are not in the repository",
}
SHORTENED = {
    "p2pftl run night-shift.yaml --out runs/first": SMALL,
    "p2pftl compare scenarios/quickstart.yaml --bounds --seeds 1 --out runs/gap": f"{SMALL} --jobs 2",
    "p2pftl sweep scenarios/quickstart.yaml --grid fit.lr=0.01,0.1 --seeds 1 --out runs/lr": f"{SMALL} --jobs 2",
    **{f"p2pftl run examples/{name}.yaml": "--executor local --set rounds=2 --set fit.epochs=1" for name in EXAMPLES},
}
LONG = "scenarios/seeds/"
BASE = "rounds: 5\nseed: 1\ntopology: {use: ring, twins: 8}\ndata: {use: phantom}\n"


class Block(NamedTuple):
    """A fenced block: language, what follows it, text."""

    language: str
    about: str
    text: str


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)]


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page) if block.language == "console" for line in block.text.splitlines()]
    assert all(line.startswith("$ ") for line in lines), f"{page}: a console block shows commands only"
    return [line.removeprefix("$ ") for line in lines]


def section(page: str, title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows but the headings."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if "`" in line.split("|")[1] or re.match(r"\| E\d", line)
    ]


def forget() -> None:
    importlib.invalidate_caches()
    policies.offered.cache_clear()
    policies.find.cache_clear()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The examples, registered as pip would register them."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads(text_of("examples/pyproject.toml"))["project"]
    about = site / f"p2pftl_examples-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {what}\n" for name, what in points.items()) for group, points in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(groups))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.syspath_prepend(str(ROOT / "examples"))
        forget()
        yield
    forget()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def desk(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the repository's scenarios, topologies and examples, to work in."""
    for name in ("scenarios", "topologies", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2PFTL_CACHE", str(pictures))
    return tmp_path


def carry_out(command: str) -> None:
    """Run a command as its page shows it, or shorter."""
    if command in SKIPPED:
        return
    words = shlex.split(f"{command} {SHORTENED.get(command, '')}")
    if len(words) > 2 and words[2].startswith(LONG):  # minutes each; docs/figures.py runs the quick ones
        assert Path(words[2]).is_file(), command
        return
    assert words[0] == "p2pftl", f"{command}: neither one of ours nor in SKIPPED"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{command}: exit code {result.exit_code}\n{result.output}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_snippet_of_a_page_runs(page: str, desk: Path, examples: None) -> None:
    for block in blocks(page):
        for line in block.text.splitlines() if block.language == "console" else ():
            carry_out(line.removeprefix("$ "))
        if block.language == "python" and not block.about:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(block.text, page, "exec"), {})
            assert said.getvalue().strip()


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_is_a_valid_scenario_or_part_of_one(page: str, desk: Path, examples: None) -> None:
    for block in blocks(page):
        if block.language != "yaml":
            continue
        written = yaml.safe_load(block.text)
        whole = {"rounds", "topology", "data"} <= written.keys()
        file = desk / "block.yaml"
        file.write_text(block.text if whole else "".join(_without(BASE, written)) + block.text)
        load(file)


def _without(base: str, written: Mapping[str, Any]) -> list[str]:
    return [line for line in base.splitlines(keepends=True) if line.split(":")[0] not in written]


def test_the_exceptions_named_here_still_occur() -> None:
    shown = {command for page in PAGES for command in commands(page)}
    assert shown >= SKIPPED.keys()
    assert shown >= SHORTENED.keys()


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    named = set(re.findall(r"[`$] ?make ([a-z-]+)", text_of(page)))
    assert named <= set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


def test_commands_page_has_every_command_and_option() -> None:
    page = text_of("docs/commands.md")
    for name, command in get_command(app).commands.items():
        assert f"`p2pftl {name}" in page
        for option in (opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")):
            assert f"`{option}" in page, f"{name} {option}"
    options = {opt for command in get_command(app).commands.values() for parameter in command.params for opt in parameter.opts}
    assert set(re.findall(r"^\| `(--[a-z-]+)", page, re.MULTILINE)) <= options


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in {_slug(title) for title in re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)}, f"{page}: {target}"


def _slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_pages_name_no_machine(page: str) -> None:
    assert not re.search(r"/work/|/tmp/|/home/|/root/|localhost|127\.0\.0\.1|pypi|artifactory", text_of(page))


# ---------------------------------------------------------------------- examples


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_shown_in_full_and_has_a_scenario(name: str) -> None:
    source = text_of(f"examples/{name}.py")
    assert len(source.splitlines()) < 30
    assert [block.text for block in blocks("docs/extending.md") if block.about == f"file=examples/{name}.py"] == [source]
    assert f"p2pftl run examples/{name}.yaml" in commands("docs/extending.md")


def test_an_example_in_turn_chooses_every_neighbour_equally_often(examples: None) -> None:
    policy = policies.find("partners", "in_turn")(k=2)
    chosen = [name for round in range(5) for name in policy.choose("a", ("b", "c", "d", "e", "f"), (), round, 0)]
    assert sorted(chosen) == sorted(2 * "bcdef")
    assert policy.choose("a", (), (), 3, 0) == ()
    assert policy.choose("a", ("b",), (), 3, 0) == ("b",)


def test_extending_lists_every_seam_once_with_its_protocol() -> None:
    found = {row[0].strip("`"): row[1:] for row in rows(section("docs/extending.md", "A policy"))}
    assert found.keys() == {f"p2pftl.{seam}" for seam in policies.SEAMS}
    for place, methods in found.values():
        module, _, name = place.strip("`").rpartition(".")
        protocol = getattr(importlib.import_module(module), name)
        for method in re.findall(r"`(\w+)`", methods):
            assert callable(getattr(protocol, method))


# ---------------------------------------------------------------------- tables


SPELT_OUT = (ModelSpec, Recipe, Compute, FeatureCache, Link, QaPolicy, Limits, ChartPolicy, Workload, Ageing, Wear)  # in their own tables


def default_of(item: dataclasses.Field[Any]) -> object:
    """The default as YAML would say it; dataclasses.MISSING where there is none."""
    value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    named = policies.name_of(value) if dataclasses.is_dataclass(value) and not isinstance(value, Every) else ""
    if named and named != type(value).__qualname__:
        return named
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = dataclasses.asdict(value)
        return {} if isinstance(value, SPELT_OUT) else kept
    return list(value) if isinstance(value, tuple) else value


SECTIONS = {
    "Top level": (Scenario, {"seed_chosen"}),
    "data": (DataSection, {"source"}),
    "model": (ModelSpec, set()),
    "source": (SourceTask, set()),
    "detector": (DetectorSpec, set()),
    "universal": (UniversalSpec, set()),
    "masked": (MaskedSpec, set()),
    "fit": (Recipe, set()),
    "compute": (Compute, set()),
    "features": (FeatureCache, set()),
    "cloud": (CloudSection, {"coordinator"}),
    "links": (Link, set()),
    "twins": (Scanner, set()),
    "evaluate": (Every, set()),
    "checkpoint": (Every, set()),
    "device": (DeviceSection, set()),
    "device.protocol": (Protocol, set()),
    "device.qa": (QaPolicy, set()),
    "device.qa.limits": (Limits, set()),
    "device.qa.charts": (ChartPolicy, set()),
    "device.workload": (Workload, set()),
    "device.ageing": (Ageing, set()),
    "device.wear": (Wear, set()),
    "arrivals": (Arrivals, set()),
}
WORDS = {"required": dataclasses.MISSING, "chosen and printed": dataclasses.MISSING, "the file's name": dataclasses.MISSING}


@pytest.mark.parametrize("title", SECTIONS)
def test_scenario_page_lists_every_key_with_its_default(title: str) -> None:
    kind, hidden = SECTIONS[title]
    found = {row[0].strip("`"): row[1] for row in rows(section("docs/scenario.md", title))}
    if hidden & {"source", "coordinator"}:
        assert found.pop("use") == "required"
    expected = {item.name: default_of(item) for item in dataclasses.fields(kind) if item.name not in hidden}
    assert found.keys() == expected.keys()
    for key, shown in found.items():
        assert (WORDS[shown] if shown in WORDS else number(shown.strip("`"))) == expected[key], key


def number(text: str) -> object:
    """YAML 1.2: 1e7 is a number."""
    with contextlib.suppress(ValueError):
        return float(text)
    return yaml.safe_load(text)


TABLES = {
    "topology": "topology", "mixing": "mixing", "partners": "partners", "pace": "pace", "aggregator": "aggregator", "codec": "codec",
    "transfer": "transfer", "knowledge": "knowledge", "gate": "gate",
    "cloud policies": "cloud", "data sources": "data", "split": "split", "incidents": "incident",
}  # fmt: skip


def test_every_seam_has_its_table() -> None:
    assert set(TABLES.values()) == set(policies.SEAMS)


@pytest.mark.parametrize("title", TABLES)
def test_scenario_page_lists_every_policy_with_its_keys_and_defaults(title: str) -> None:
    seam = TABLES[title]
    found = {row[0].strip("`"): row[1] for row in rows(section("docs/scenario.md", title))}
    ours = {name for name, target in policies.registered(seam).items() if target.startswith("p2pftl.")}
    assert found.keys() == ours
    for name, shown in found.items():
        keys = {key: number(default) if colon else dataclasses.MISSING for key, colon, default in re.findall(r"`(\w+)(: )?([^`]*)`", shown)}
        cls = policies.find(seam, name)
        common = {"twins", "names"} if seam == "topology" else {"at", "day", "until", "until_day"} if issubclass(cls, Moment) else set()
        fields = [item for item in dataclasses.fields(cls) if item.init and item.metadata.get("key", True) and item.name not in common]
        assert keys == {item.name: default_of(item) for item in fields}, name


@cache
def raised_codes() -> set[str]:
    """Codes in the text constants of the source; docstrings do not raise."""
    found: set[str] = set()
    for file in (ROOT / "p2pftl").rglob("*.py"):
        tree = ast.parse(file.read_text())
        owners = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docs = {id(node.body[0].value) for node in owners if node.body and isinstance(node.body[0], ast.Expr)}
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
        ]
        found |= {code for text in texts for code in re.findall(r"\b[EI]\d{3}\b", text)}
    return found


def test_error_page_has_every_code_of_the_source_and_no_other() -> None:
    shown = [row[0] for row in rows(text_of("docs/errors.md"))]
    assert sorted(shown) == sorted(raised_codes())


@pytest.mark.parametrize("page", PAGES)
def test_codes_named_on_a_page_exist(page: str) -> None:
    assert set(re.findall(r"\bE\d{3}\b", text_of(page))) <= raised_codes()


def test_summary_page_lists_every_event_with_its_fields() -> None:
    found = {
        row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1].replace("`p2pftl plan`", "")))
        for row in rows(section("docs/summary.md", "events.msgpack"))
    }
    common = {item.name for item in dataclasses.fields(Event)}
    assert found == {name: {item.name for item in dataclasses.fields(kind)} - common for name, kind in KINDS.items()}


def test_summary_page_lists_every_key_of_a_real_summary(desk: Path, examples: None) -> None:
    settings = ["rounds=1", "control=true", "fit.epochs=1", "cloud={use: fedavg}", "gate=watch"]
    words = [
        "run",
        "examples/own_source.yaml",
        "--executor",
        "local",
        "--out",
        "run",
        "-q",
        *(word for text in settings for word in ("--set", text)),
    ]
    assert CliRunner().invoke(app, words).exit_code == 0
    document = json.loads((desk / "run" / "summary.json").read_text())
    top = {row[0].strip("`") for row in rows(section("docs/summary.md", "summary.json"))}
    flat = {key for key in document if key != "frames"} | {f"frames.{key}" for key in document["frames"]}
    assert top == flat | {"source"}  # that one only with a source task: tests/test_two_stage.py
    for title, part in (
        ("twins.NAME", document["twins"]["ct-01"]), ("cloud", document["cloud"]), ("control", document["control"]),
        ("ledger", document["ledger"]),
    ):  # fmt: skip
        assert {row[0].strip("`") for row in rows(section("docs/summary.md", title))} == part.keys(), title
    written = {f"{path.name}/" if path.is_dir() else path.name for path in (desk / "run").iterdir()}
    listed = {row[0].strip("`") for row in rows(section("docs/summary.md", "The run folder, `summary.json` and `events.msgpack`"))}
    assert {name.partition("/")[0] + ("/" if "/" in name else "") for name in listed} == written | {"source/"}


# ---------------------------------------------------------------------- pictures and figures


def test_pictures_are_small_and_whole() -> None:
    drawing = text_of("docs/terminal.svg")
    assert "synthetic" in drawing
    assert "@font-face" not in drawing
    assert not re.search(r"(href|src|url\()=?[\"']?https?:", drawing)
    assert 20_000 < os.path.getsize(ROOT / "docs/report.png") < 300_000


def test_figures_of_the_readme_come_with_their_command_and_kind_of_data() -> None:
    measured = dict(re.findall(r"<!-- measured: ([\w-]+) -->\n(.*?)<!-- /measured -->", text_of("README.md"), re.DOTALL))
    assert measured.keys() == {"quickstart", "real-covid"}
    assert "synthetic" in measured["quickstart"]
    assert "`make run`" in measured["quickstart"]
    assert "`p2pftl run scenarios/real-covid.yaml`" in measured["real-covid"]
