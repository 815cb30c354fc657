"""A twin's saved state: complete or refused, never half; msgpack and raw arrays, never pickle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from p2pftl.errors import CheckpointError
from p2pftl.gossip.seams import Copy
from p2pftl.learning.task import Memory
from p2pftl.params import Ranges, Vector

SCHEMA = 1


@dataclass(frozen=True)
class TwinState:
    """completed: rounds done; vector: all parameters; own: the shared copy; incarnations: of its peers."""

    incarnation: int
    completed: int
    vector: Vector
    own: Copy
    shared: Ranges
    memory: Memory | None
    incarnations: dict[str, int]

    def packed(self) -> bytes:
        """Return SHA-256 and body."""
        body: bytes = msgpack.packb(
            {
                "schema": SCHEMA,
                "incarnation": self.incarnation,
                "completed": self.completed,
                "vector": self.vector.tobytes(),
                "own": [self.own.vector.tobytes(), self.own.age, self.own.mass, dict(self.own.state)],
                "shared": self.shared,
                "memory": _plain(self.memory),
                "incarnations": self.incarnations,
            }
        )
        return hashlib.sha256(body).digest() + body

    @classmethod
    def unpacked(cls, data: bytes) -> TwinState:
        """Inverse of packed. Raises CheckpointError E502 (damaged), E505 (newer schema)."""
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise CheckpointError("E502", "a twin's saved state is damaged", fix="run the scenario again")
        found = msgpack.unpackb(data[32:], use_list=False, strict_map_key=False)
        if found["schema"] > SCHEMA:
            raise CheckpointError("E505", f"a twin's saved state has schema {found['schema']}, this is {SCHEMA}")
        vector, age, mass, state = found["own"]
        return cls(
            incarnation=found["incarnation"],
            completed=found["completed"],
            vector=_array(found["vector"]),
            own=Copy(_array(vector), age, mass, state),
            shared=found["shared"],
            memory=_revived(found["memory"]),
            incarnations=found["incarnations"],
        )


def _array(raw: bytes) -> Vector:
    return np.frombuffer(raw, np.float32).copy()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "raw": np.ascontiguousarray(value).tobytes()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "raw"}:
            return np.frombuffer(value["raw"], np.dtype(value["dtype"])).reshape(value["shape"]).copy()
        return {key: _revived(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_revived(item) for item in value]
    return value
