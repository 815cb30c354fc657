"""A small valid scenario that every test changes in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from p2pftl.errors import P2pftlError
from p2pftl.scenario.load import load

BASE = {
    "name": "small",
    "seed": "7",
    "rounds": "5",
    "topology": "{use: ring, twins: 8}",
    "data": "{use: phantom, split: {use: dirichlet, alpha: 0.3}}",
}

Write = Callable[..., Path]
Refusal = Callable[..., P2pftlError]


def text(**changes: str | None) -> str:
    """The base scenario with top-level keys replaced, added or (None) left out, one per line in this order."""
    entries = {**BASE, **changes}
    return "".join(f"{key}: {value}\n" for key, value in entries.items() if value is not None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a scenario; returns its path."""

    def written(content: str | bytes | None = None, **changes: str | None) -> Path:
        path = tmp_path / "s.yaml"
        data = text(**changes) if content is None else content
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return written


@pytest.fixture
def refusal(write: Write) -> Refusal:
    """Load a scenario that must be refused; returns the error."""

    def refused(content: str | bytes | None = None, overrides: tuple[str, ...] = (), **changes: str | None) -> P2pftlError:
        with pytest.raises(P2pftlError) as caught:
            load(write(content, **changes), overrides)
        assert "\n" not in str(caught.value)
        return caught.value

    return refused
