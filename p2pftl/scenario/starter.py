"""A first scenario to change."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from p2pftl.errors import UsageError
from p2pftl.scenario.schema import NAME


def starter(name: str) -> str:
    """Return the text of a commented scenario called `name`."""
    return files("p2pftl.scenario").joinpath("starter.yaml").read_text("utf-8").replace("NAME", name)


def write_starter(target: str, *, force: bool = False) -> Path:
    """Write the starter to `target` (".yaml" is added if missing) and return where it is.

    Raises UsageError E601 if something is there already and `force` is False, or if it cannot be written; E613 for a name that
    cannot be a scenario's.
    """
    path = Path(target if target.endswith((".yaml", ".yml")) else f"{target}.yaml")
    if not NAME.fullmatch(path.stem):
        fix = "use letters, digits, '.', '_' and '-', up to 64, the first a letter or digit"
        raise UsageError("E613", "this cannot name a scenario", where=str(path)[:100], fix=fix)
    if path.is_dir() or (path.exists() and not force):
        raise UsageError("E601", "exists already", where=str(path), fix="choose another name" + ("" if path.is_dir() else ", or --force"))
    try:
        path.write_text(starter(path.stem), "utf-8")
    except OSError as error:
        raise UsageError("E601", f"cannot be written ({type(error).__name__})", where=str(path), fix="choose an existing folder") from None
    return path
