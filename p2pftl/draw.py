"""All randomness: counter-based, keyed by names, so that a new twin or frame never shifts another's draws."""

from __future__ import annotations

import hashlib
import struct

import numpy as np

Key = str | int | float


def draw(seed: int, *what: Key) -> np.random.Generator:
    """Return the generator that belongs to `what` under `seed`.

    The same key gives the same stream on every machine and in every process:
    `draw(7, "link", "ct-01", "ct-02", 3).random()`.
    """
    return np.random.Generator(np.random.Philox(key=number(seed, *what, bits=128)))


def number(seed: int, *what: Key, bits: int = 63) -> int:
    """Return a non-negative integer of `bits` bits (a multiple of 8, or 63) derived from `seed` and `what`."""
    digest = hashlib.blake2b(digest_size=(bits + 7) // 8)
    for part in (seed, *what):
        digest.update(_bytes(part))
    return int.from_bytes(digest.digest(), "big") >> (-bits % 8)


def _bytes(part: Key) -> bytes:
    if isinstance(part, str):
        text = part.encode()
        return b"s" + struct.pack(">I", len(text)) + text
    if isinstance(part, float):
        return b"f" + struct.pack(">d", part)
    return b"i" + int(part).to_bytes(16, "big", signed=True)
