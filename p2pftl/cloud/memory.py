"""The cloud's saved state: complete or refused; msgpack and raw arrays, never pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from p2pftl.cloud.seams import Memory
from p2pftl.errors import CheckpointError

SCHEMA = 2
_ARRAY = 1  # msgpack's number for an array of ours


@dataclass(frozen=True)
class CloudState:
    """completed: answers given; incarnations: of the twins; memory: the coordinator's."""

    completed: int
    incarnations: Mapping[str, int]
    memory: Memory

    def packed(self) -> bytes:
        """Return SHA-256 of all behind it | msgpack."""
        body: bytes = msgpack.packb([SCHEMA, self.completed, self.incarnations, self.memory], default=_plain)
        return hashlib.sha256(body).digest() + body

    @classmethod
    def unpacked(cls, saved: bytes) -> CloudState:
        """Inverse of packed. Raises CheckpointError E502 (damaged), E505 (another schema)."""
        if hashlib.sha256(saved[32:]).digest() != saved[:32]:
            raise CheckpointError("E502", "the cloud's saved state is damaged", fix="run the scenario again")
        found = msgpack.unpackb(saved[32:], ext_hook=_revived, strict_map_key=False)
        if len(found) != 4 or found[0] != SCHEMA:
            raise CheckpointError("E505", f"the cloud's saved state has another schema than {SCHEMA}")
        return cls(*found[1:])


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a coordinator cannot remember a {type(value).__name__}")
    return msgpack.ExtType(_ARRAY, msgpack.packb([value.dtype.str, value.shape, value.tobytes()]))


def _revived(code: int, data: bytes) -> Any:
    assert code == _ARRAY
    kind, shape, raw = msgpack.unpackb(data)
    return np.frombuffer(raw, np.dtype(kind)).reshape(shape)
