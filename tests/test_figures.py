"""The tool that holds the pages of the four source systems against what their commands give; `make seeds-quick` runs those."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from p2pftl.scenario.load import load

ROOT = Path(__file__).parents[1]
PAGE = """# A page

<!-- quick: accuracy, macro_f1 -->
```console
$ p2pftl compare scenarios/x/quick.yaml --out build/seeds/x
```

| variant | metric | mean | low | high |
|---|---|---|---|---|
| `base` | `accuracy` | 0.900 | 0.850 | 0.950 |
| `fedavg` | `accuracy` | 0.700 | 0.650 | 0.750 |
<!-- /quick -->

The end.
"""
TRUE = {("base", "accuracy"): (0.87, 0.8, 0.9), ("fedavg", "accuracy"): (0.7504, 0.7, 0.8)}


def tool() -> ModuleType:
    found = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["figures"] = module
    found.loader.exec_module(module)
    return module


figures = tool()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    written = tmp_path / "page.md"
    written.write_text(PAGE)
    return written


def test_a_page_is_true_while_every_mean_lies_within_its_interval(page: Path) -> None:
    assert figures.faults(figures.quick(page), TRUE) == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (TRUE | {("base", "accuracy"): (0.96, 0.9, 1.0)}, "page.md: base accuracy = 0.900 [0.850, 0.950]: the command gives 0.960"),
        ({("base", "accuracy"): (0.87, 0.8, 0.9)}, "page.md: fedavg accuracy = 0.700 [0.650, 0.750]: the command gives no such row"),
        (TRUE | {("ifca", "accuracy"): (0.5, 0.4, 0.6)}, "page.md: ifca accuracy is not stated"),
    ],
)
def test_a_page_that_is_not_true_is_told(page: Path, found: dict[tuple[str, str], tuple[float, float, float]], told: str) -> None:
    assert figures.faults(figures.quick(page), found) == [told]


def test_what_is_written_is_what_is_read(page: Path) -> None:
    found = TRUE | {("base", "macro_f1"): (0.8, 0.75, 0.85)}
    figures.write(figures.quick(page), found)
    again = figures.quick(page)
    assert again.stated == {key: tuple(round(value, 3) for value in values) for key, values in found.items()}
    assert again.words == ("compare", "scenarios/x/quick.yaml", "--out", "build/seeds/x")
    assert page.read_text().endswith("<!-- /quick -->\n\nThe end.\n")


@pytest.mark.parametrize("name", figures.PAGES)
def test_every_source_system_has_a_page_with_a_quick_version_that_can_be_run(name: str) -> None:
    one = figures.quick(ROOT / "docs" / name)
    scenario = load(ROOT / one.words[1], [])
    assert scenario.variants
    assert one.stated
    assert all(low <= mean <= high for mean, low, high in one.stated.values())
    known = {"base", "local", "pooled", *scenario.variants}
    assert {variant for variant, _ in one.stated} <= known
