"""What the source promises: no unpickling or evaluating of what a file or a peer said, and Ray only where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import p2pftl

PACKAGE = Path(p2pftl.__file__).parent
SOURCES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
each = pytest.mark.parametrize("name", SOURCES)

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "_pickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}


def imported(tree: ast.AST) -> set[str]:
    """First parts of all modules imported anywhere in a file."""
    found: set[str] = set()
    for item in ast.walk(tree):
        if isinstance(item, ast.Import):
            found |= {alias.name.split(".")[0] for alias in item.names}
        elif isinstance(item, ast.ImportFrom) and item.module:
            found.add(item.module.split(".")[0])
    return found


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(item.func) for item in ast.walk(tree) if isinstance(item, ast.Call)}


@each
def test_nothing_is_unpickled_or_evaluated(name: str) -> None:
    tree = SOURCES[name]
    assert not imported(tree) & FORBIDDEN_MODULES
    assert not calls(tree) & FORBIDDEN_CALLS
    loads = [item for item in ast.walk(tree) if isinstance(item, ast.Call) and ast.unparse(item.func) in {"np.load", "numpy.load"}]
    assert all(any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in load.keywords) for load in loads)


@each
def test_ray_and_rich_are_imported_where_they_belong(name: str) -> None:
    found = imported(SOURCES[name])
    assert "ray" not in found or name.startswith("swarm/ray") or name == "observe/metrics.py"
    assert "random" not in found
    assert "rich" not in found or name.startswith(("observe/", "compare/screen", "cli.py"))
    assert not {"pydantic", "typer"} & found or name.startswith(("scenario/", "cli.py", "cli_twin.py", "cli_compare.py"))


@pytest.mark.parametrize("module", ["twin", "cloud.cloud", "swarm.local", "swarm.conductor", "gossip.frames"])
def test_the_core_loads_without_ray_rich_pydantic_and_typer(module: str) -> None:
    program = f"import sys, p2pftl.{module}; print([name for name in ('ray', 'rich', 'pydantic', 'typer', 'torch') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_scan_has_power() -> None:
    tree = ast.parse("import pickle\nfrom ray.util import x\ntorch.load('f')\nz = eval('1')")
    assert imported(tree) == {"pickle", "ray"}
    assert calls(tree) == {"torch.load", "eval"}
