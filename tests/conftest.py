"""What all tests share: a machine that may be slow, the same examples every time, and phantoms drawn once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.modules["triton"] = None  # type: ignore[assignment]  # torch.func imports torch's compiler, and that triton, which prints pages at exit

settings.register_profile("p2pftl", deadline=None, derandomize=True)
settings.load_profile("p2pftl")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the phantoms that this session draws; what is in it costs nothing to use again."""
    return tmp_path_factory.mktemp("phantoms")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real files (shared/data/README.md), which is no part of the repository."""
    folder = Path(os.environ.get("P2PFTL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set P2PFTL_DATA")
    return folder
