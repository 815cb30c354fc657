"""What a coordinator policy takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from p2pftl.params import Ranges, Vector


@dataclass(frozen=True)
class Upload:
    """What a twin sent to the cloud. part: the elements of `ranges`; samples: its training samples."""

    part: Vector
    ranges: Ranges
    samples: int


class Coordinator(Protocol):
    """The cloud's answer to what it heard (entry point `p2pftl.cloud`)."""

    def answer(self, uploads: Mapping[str, Upload], size: int) -> dict[str, Vector]:
        """Return for each uploading twin the new values of the ranges it sent. size: elements of the whole model."""
        ...
