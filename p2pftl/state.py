"""What a twin holds of a model, and its saved state: complete or refused, never half; msgpack and raw arrays, never pickle."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from p2pftl.errors import CheckpointError
from p2pftl.learning.task import Memory
from p2pftl.params import Layout, Ranges, Vector, covers, gather, scatter, union

MAGIC, SCHEMA = b"P2TS", 3
PREFIX = struct.Struct(">4sIBI")
STRETCH = 65_536
EMPTY: Vector = np.empty(0, np.float32)


@dataclass(frozen=True)
class Departure:
    """A model as what it holds of its own since it left the start that twins share: a frozen backbone costs a twin nothing.

    start: all parameters in the beginning, never written; ranges: elements that may differ from it; part: their values.
    """

    start: Vector
    ranges: Ranges = ()
    part: Vector = field(default_factory=lambda: EMPTY)

    @property
    def vector(self) -> Vector:
        """All parameters, not to be written: the part itself if it is everything, else made anew."""
        return scatter(self.start, self.ranges, self.part) if self.ranges else self.start

    def put(self, ranges: Ranges, part: Vector) -> Departure:
        """With `part` in `ranges`."""
        if ranges == self.ranges:
            return replace(self, part=part)
        both = union(self.ranges, ranges)
        return Departure(self.start, both, gather(scatter(self.vector, ranges, part), both))

    def moved(self, vector: Vector, layout: Layout) -> Departure:
        """As all of `vector` says; of tensors that never differed from the start only those are held that do now, in any bit."""
        new = [(a, b) for a, b in layout.spans if a < b and not self._holds(a, b) and not _same(vector[a:b], self.start[a:b])]
        both = union(self.ranges, tuple(new))
        return Departure(self.start, both, gather(vector, both))

    def _holds(self, first: int, last: int) -> bool:
        return any(start <= first and last <= stop for start, stop in self.ranges)


def origin(start: Vector, layout: Layout) -> str:
    """Tells one start from another: the model's layout and a checksum."""
    return f"{layout.digest}-{zlib.crc32(np.ascontiguousarray(start).data):08x}"


@dataclass(frozen=True)
class TwinState:
    """completed: rounds done; origin, size: of the start (see `origin`); ranges, part: what may differ from it; shared: ranges that
    travel; age, mass, extra: see gossip.seams.Copy, whose vector is the shared part of the model; told: see gossip.seams.Codec;
    incarnations: of its peers; mirror: see mirror.Mirror.memory, None without a device and arrivals."""

    incarnation: int
    completed: int
    origin: str
    size: int
    ranges: Ranges
    part: Vector
    shared: Ranges
    age: float
    mass: float
    extra: Mapping[str, float]
    memory: Memory | None
    told: Vector | None
    incarnations: Mapping[str, int]
    mirror: Mapping[str, Any] | None = None

    @property
    def vector(self) -> Vector:
        """All parameters. Raises CheckpointError E502 where the state alone does not hold them."""
        if not covers(self.ranges, self.size):
            raise CheckpointError("E502", "this saved state holds only what differs from the first model", fix="run the scenario again")
        return self.part

    def packed(self) -> memoryview:
        """Return b"P2TS" | CRC-32 of all behind it u32 | schema u8 | header length u32 | msgpack header | raw arrays."""
        arrays: list[memoryview] = []
        head = msgpack.packb(
            {
                "incarnation": self.incarnation,
                "completed": self.completed,
                "origin": [self.origin, self.size],
                "model": [self.ranges, _plain(self.part, arrays)],
                "own": [self.shared, self.age, self.mass, dict(self.extra)],
                "memory": _plain(self.memory, arrays),
                "told": _plain(self.told, arrays),
                "incarnations": self.incarnations,
                "mirror": self.mirror,
            }
        )
        crc = _checksum(PREFIX.pack(MAGIC, 0, SCHEMA, len(head)), head, *arrays)
        return _joined(PREFIX.pack(MAGIC, crc, SCHEMA, len(head)), head, *arrays)

    @classmethod
    def unpacked(cls, data: bytes | memoryview) -> TwinState:
        """Inverse of packed. Raises CheckpointError E502 (damaged), E505 (another schema)."""
        schema, body, arrays = _opened(memoryview(data))
        if schema != SCHEMA:
            raise CheckpointError("E505", f"a twin's saved state has schema {schema}, this is {SCHEMA}")
        found = msgpack.unpackb(body, use_list=False, strict_map_key=False)
        start, size = found["origin"]
        ranges, part = found["model"]
        shared, age, mass, extra = found["own"]
        return cls(
            incarnation=found["incarnation"],
            completed=found["completed"],
            origin=start,
            size=size,
            ranges=ranges,
            part=_revived(part, arrays),
            shared=shared,
            age=age,
            mass=mass,
            extra=extra,
            memory=_revived(found["memory"], arrays),
            told=_revived(found["told"], arrays),
            incarnations=found["incarnations"],
            mirror=found["mirror"],
        )


def _checksum(*pieces: bytes | memoryview) -> int:
    """It finds what a disk does; who can write the file can do anything anyway. SHA-256 would take longer than all the rest."""
    return reduce(lambda crc, piece: zlib.crc32(piece, crc), pieces, 0)


def _joined(*pieces: bytes | memoryview) -> memoryview:
    """As numpy's memory, whose large pages come five times as fast as those of `bytes`."""
    whole = np.empty(sum(map(len, pieces)), np.uint8)
    at = 0
    for piece in pieces:
        whole[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return whole.data


def _opened(data: memoryview) -> tuple[int, memoryview, memoryview]:
    """Return schema, header and arrays of a whole file. Raises CheckpointError E502, E505 for one from before there was a prefix."""
    if len(data) > 32 and hashlib.sha256(data[32:]).digest() == data[:32]:
        raise CheckpointError("E505", f"a twin's saved state has schema 1, this is {SCHEMA}")
    if len(data) >= PREFIX.size:
        magic, crc, schema, length = PREFIX.unpack_from(data)
        if magic == MAGIC and crc == _checksum(PREFIX.pack(MAGIC, 0, schema, length), data[PREFIX.size :]):
            return schema, data[PREFIX.size : PREFIX.size + length], data[PREFIX.size + length :]
    raise CheckpointError("E502", "a twin's saved state is damaged", fix="run the scenario again")


def _same(one: Vector, other: Vector) -> bool:
    """Whether they are equal to the bit."""
    return bool(np.array_equal(one.view(np.uint32), other.view(np.uint32)))


def _plain(value: Any, arrays: list[memoryview]) -> Any:
    """`value` without its arrays, which go to `arrays`, less the zeros at their ends: an optimiser keeps none for what is frozen."""
    if isinstance(value, np.ndarray):
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        first, stop = _used(raw)
        at = sum(map(len, arrays))
        arrays.append(raw[first:stop].data)
        return {"dtype": value.dtype.str, "shape": value.shape, "first": first, "at": at, "bytes": stop - first}
    if isinstance(value, Mapping):
        return {key: _plain(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    return value


def _revived(value: Any, arrays: memoryview) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "first", "at", "bytes"}:
            whole = np.zeros(value["shape"], np.dtype(value["dtype"]))
            first, at, size = value["first"], value["at"], value["bytes"]
            whole.reshape(-1).view(np.uint8)[first : first + size] = np.frombuffer(arrays, np.uint8, size, at) if size else 0
            return whole
        return {key: _revived(item, arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_revived(item, arrays) for item in value]
    return value


def _used(raw: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """The first byte that is not zero, and the end of the last one."""
    stretches = range(0, len(raw), STRETCH)
    first = next((at for at in stretches if raw[at : at + STRETCH].any()), None)
    if first is None:
        return 0, 0
    last = next(at for at in reversed(stretches) if raw[at : at + STRETCH].any())
    inside, behind = np.flatnonzero(raw[first : first + STRETCH]), np.flatnonzero(raw[last : last + STRETCH])
    return first + int(inside[0]), last + int(behind[-1]) + 1
