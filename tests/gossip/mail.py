"""A frame from ct-02 to ct-01 over the toy layout, and its receiver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np

from p2pftl.gossip.codecs import Dense
from p2pftl.gossip.frames import KINDS, MAGIC, PREFIX, VERSION, Expectation, Header, digest, plain, seal
from p2pftl.gossip.mailbox import Mailbox
from p2pftl.gossip.seams import Signs
from p2pftl.params import Vector
from tests.toys import LAYOUT

WHOLE = ((0, LAYOUT.size),)
PART = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
SIGNS = Signs((1.7, 0.35, 0.5, 0.4, 6.0, 0.2), 0.5, "warn", "standard")
EXPECTED = Expectation("run", "ct-01", frozenset({"ct-01", "ct-02", "ct-03"}), dict.fromkeys(KINDS, Dense()), LAYOUT)


def header(part: Vector = PART, **changes: Any) -> Header:
    made = Header(
        run="run", kind="update", sender="ct-02", incarnation=1, receiver="ct-01", round=3, seq=7, codec="Dense", layout=LAYOUT.digest,
        ranges=WHOLE, samples=10, age=2.0, mass=1.0, degree=2, closes=9.0, met=-1, sent_at=4.0, answers=-1,
        signs=SIGNS, sha256=digest(Dense().encode(part)),
    )  # fmt: skip
    return replace(made, **changes)


def frame(part: Vector = PART, **changes: Any) -> tuple[bytes, memoryview]:
    """Head and payload, as they would arrive."""
    payload = Dense().encode(part)
    return seal(header(part, **changes), payload), payload.data


def wrapped(body: bytes, size: int, *, magic: bytes = MAGIC, version: int = VERSION, said: int | None = None) -> bytes:
    """A head around any header bytes."""
    return PREFIX.pack(magic, version, len(body) if said is None else said, size) + body


def altered(change: Callable[[dict[str, Any]], Mapping[Any, Any]]) -> tuple[bytes, memoryview]:
    """The good frame with its header map changed, correctly packed."""
    payload = Dense().encode(PART)
    return wrapped(msgpack.packb(change(plain(header()))), payload.nbytes), payload.data


def mailbox() -> Mailbox:
    return Mailbox(EXPECTED)
