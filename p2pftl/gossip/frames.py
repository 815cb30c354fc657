"""Frames: what crosses a link. A closed-schema msgpack header, then the tensor bytes. No pickle, no class names.

    b"P2PF" | version u8 | header length u16 | payload length u64 | header | payload

Every check happens before anything is believed: sizes before reading, the header's schema before its
values, the hash before the numbers, the numbers before the merge. A frame that fails raises FrameRefused.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from p2pftl.errors import FrameRefused
from p2pftl.gossip.seams import LIFECYCLES, MARKS, Codec, Signs
from p2pftl.params import Layout, Ranges, length

MAGIC = b"P2PF"
VERSION = 2
PREFIX = struct.Struct(">4sBHQ")
HEADER_CAP = 4096
KINDS = ("update", "upload", "answer")
STRETCH = 65_536
FARTHEST = 1e6
"""Above every number of a fingerprint; a NaN is not below it."""
LARGEST = 1e12
"""Above every age, mass and virtual time that a run can reach, and far below where their sums overflow."""


@dataclass(frozen=True)
class Header:
    """What a frame says about itself.

    run: id of the run; kind: "update" (twin to twin), "upload" (twin to cloud), "answer" (cloud to twin);
    seq: number of the frame at its sender's incarnation; layout: Layout.digest; ranges: element ranges of
    the flat vector that travel; samples: the sender's training samples; age, mass: see gossip.seams.Copy;
    degree: the sender's partners this round; closes: virtual time until which the sender waits for this
    round; met: last round in which the sender merged what it had from the receiver, else -1; of an answer, the round that the
    cloud's twins are in, by their lower median; sent_at: virtual seconds; answers: order of the upload an answer belongs to, else -1;
    model, models: of an answer, which of how many the twin may choose from; of an upload, which it chose last, -1 for none;
    signs: of the sender's device, all that is told of it.
    A sender that withholds its update sends no ranges, no payload and quality 0, so that nobody waits for it; an upload like that
    asks for the answer alone.
    """

    run: str
    kind: str
    sender: str
    incarnation: int
    receiver: str
    round: int
    seq: int
    codec: str
    layout: str
    ranges: Ranges
    samples: int
    age: float
    mass: float
    degree: int
    closes: float
    met: int
    sent_at: float
    answers: int
    signs: Signs
    sha256: bytes
    model: int = 0
    models: int = 1

    @property
    def withheld(self) -> bool:
        """Whether this frame only says that no update comes."""
        return not self.ranges


_TYPES: Mapping[str, type] = {
    key.name: {"str": str, "int": int, "float": float, "bytes": bytes, "Ranges": tuple, "Signs": tuple}[str(key.type)]
    for key in fields(Header)
}


@dataclass(frozen=True)
class Expectation:
    """What a receiver is ready to accept. peers: who may send, perhaps with `me` among them; codecs: by kind of frame."""

    run: str
    me: str
    peers: frozenset[str]
    codecs: Mapping[str, Codec]
    layout: Layout


def seal(header: Header, payload: npt.NDArray[np.uint8]) -> bytes:
    """Return prefix and header for `payload`. `header.sha256` must be digest(payload)."""
    body: bytes = msgpack.packb(plain(header), use_bin_type=True)
    if len(body) > HEADER_CAP:
        raise FrameRefused("E404", f"header of {len(body)} bytes, at most {HEADER_CAP}")
    return PREFIX.pack(MAGIC, VERSION, len(body), payload.nbytes) + body


def plain(header: Header) -> dict[str, Any]:
    """Every key of `header` with what travels of it."""
    return {name: getattr(header, name) for name in _TYPES} | {"signs": astuple(header.signs)}


def digest(payload: npt.NDArray[np.uint8]) -> bytes:
    """SHA-256 of the payload bytes."""
    return hashlib.sha256(payload.data).digest()


def unseal(head: bytes, payload: memoryview, expected: Expectation, hashed: bytes | None = None) -> Header:
    """Return the checked header of a frame addressed to `expected.me`. hashed: the payload's digest if it is known here.

    Raises FrameRefused: E401 short, E402 not a frame, E403 version, E404 too long, E405 unknown sender,
    E406 hash, E410 other run or receiver, E412 header schema, E413 tensors, E414 size, E417 samples.
    """
    header = _parse(head, payload, 8 * expected.layout.size + HEADER_CAP)
    if header.run != expected.run or header.receiver != expected.me:
        raise FrameRefused("E410", "addressed to another run or receiver")
    if header.sender == expected.me or header.sender not in expected.peers:
        raise FrameRefused("E405", "sender is not a peer")
    if header.codec != type(expected.codecs[header.kind]).__name__:
        raise FrameRefused("E414", "another codec")
    if header.layout != expected.layout.digest:
        raise FrameRefused("E413", "tensors of another model")
    if not (header.withheld and header.kind != "answer" and header.signs.quality == 0 and payload.nbytes == 0):
        _check_ranges(header.ranges, expected.layout.size)
    if (hashed or hashlib.sha256(payload).digest()) != header.sha256:
        raise FrameRefused("E406", "payload does not match its hash")
    return header


def finite(vector: npt.NDArray[np.float32]) -> None:
    """Raise FrameRefused E415 unless every element is finite."""
    for start in range(0, len(vector), STRETCH):
        if not np.isfinite(vector[start : start + STRETCH]).all():
            raise FrameRefused("E415", "not a finite number among the values")


def _parse(head: bytes, payload: memoryview, payload_cap: int) -> Header:
    if len(head) < PREFIX.size:
        raise FrameRefused("E401", f"{len(head)} bytes, at least {PREFIX.size}")
    magic, version, header_length, payload_length = PREFIX.unpack_from(head)
    if magic != MAGIC:
        raise FrameRefused("E402", "not a frame")
    if version != VERSION:
        raise FrameRefused("E403", f"version {version}, this is {VERSION}")
    if header_length > HEADER_CAP or payload_length > payload_cap:
        raise FrameRefused("E404", "longer than this model's frames can be")
    if len(head) != PREFIX.size + header_length or payload.nbytes != payload_length:
        raise FrameRefused("E401", "shorter or longer than it says")
    return _typed(_unpack(head[PREFIX.size :]))


def _unpack(body: bytes) -> Mapping[str, Any]:
    try:
        found = msgpack.unpackb(
            body, raw=False, use_list=False, strict_map_key=True, object_pairs_hook=_unique,
            max_str_len=128, max_bin_len=64, max_array_len=HEADER_CAP, max_map_len=32, max_ext_len=0,
        )  # fmt: skip
    except FrameRefused:
        raise
    except Exception as error:
        raise FrameRefused("E412", "header is not valid msgpack") from error
    if not isinstance(found, dict):
        raise FrameRefused("E412", "header is not a map")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FrameRefused("E412", "duplicate key in the header")
    return found


def _typed(found: Mapping[str, Any]) -> Header:
    if found.keys() != _TYPES.keys():
        raise FrameRefused("E412", "unknown or missing key in the header")
    for name, kind in _TYPES.items():
        value = found[name]
        if type(value) is not kind or (kind is float and not _plausible(name, value)):
            raise FrameRefused("E412", f"header key {name} has an impossible value")
    header = Header(**{**found, "signs": _signs(found["signs"])})
    natural = (header.round, header.seq, header.incarnation, header.degree, header.models - 1)
    or_none = (header.met, header.answers, header.model)
    if header.kind not in KINDS or min(natural) < 0 or min(or_none) < -1:
        raise FrameRefused("E412", "impossible value in the header")
    if not 1 <= header.samples <= 10**9:
        raise FrameRefused("E417", "impossible number of samples")
    return header


def _signs(found: tuple[Any, ...]) -> Signs:
    """Four values, and no room for more: device serials, dates, counts or free text do not fit in."""
    if len(found) != 4:
        raise FrameRefused("E412", "header key signs has an impossible value")
    marks, quality, lifecycle, kernel = found
    known = type(marks) is tuple and len(marks) in (0, MARKS) and all(type(mark) is float and abs(mark) <= FARTHEST for mark in marks)
    trusted = type(quality) is float and 0 <= quality <= 1
    word = type(kernel) is str and 1 <= len(kernel) <= 16 and kernel.isascii() and kernel.isalpha() and kernel.islower()
    if not (known and trusted and type(lifecycle) is str and lifecycle in LIFECYCLES and word):
        raise FrameRefused("E412", "header key signs has an impossible value")
    return Signs(marks, quality, lifecycle, kernel)


def _plausible(name: str, value: Any) -> bool:
    return bool(0 <= value <= LARGEST or (name == "closes" and value == math.inf))


def _check_ranges(ranges: Ranges, size: int) -> None:
    at = 0
    for pair in ranges:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(type(edge) is int for edge in pair)):
            raise FrameRefused("E413", "tensor ranges are malformed")
        start, stop = pair
        if not at <= start < stop <= size:
            raise FrameRefused("E413", "tensor ranges overlap or leave the model")
        at = stop
    if length(ranges) == 0:
        raise FrameRefused("E413", "no tensors")
