"""Is there a Ray cluster at this address? Asked at once, because Ray itself takes from half a minute to for ever to say no."""

from __future__ import annotations

import os
import re
import socket

from p2pftl.errors import UsageError

PATIENCE = 3.0
_PLACE = re.compile(r"(?:ray://)?(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How every gRPC connection opens: preface and empty SETTINGS frame (RFC 9113, section 3.4)."""


def check_address(address: str | None) -> None:
    """Raise UsageError E604 when no Ray answers at `address` (HOST:PORT; None, "auto" and "local" are Ray's to find)."""
    if address in (None, "auto", "local"):
        return
    assert address is not None
    found = _PLACE.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UsageError("E604", f"--address {address!r} is no HOST:PORT", fix="for instance 10.0.0.5:6379, or auto")
    try:
        spoken = _answer(found["six"] or found["host"], int(found["port"]))
    except (OSError, UnicodeError) as error:
        problem = f"no Ray cluster at {address} ({type(error).__name__})"
        raise UsageError("E604", problem, fix="check --address, or use --executor local") from None
    if not spoken:
        raise UsageError("E604", f"something answers at {address}, but not Ray", fix="check --address, or use --executor local")


def _answer(host: str, port: int) -> bool:
    """Whether a gRPC server answers. Raises OSError when nobody does."""
    with socket.create_connection((host, port), timeout=PATIENCE) as line:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return True
        try:
            line.sendall(_HELLO)
            frame = line.recv(9)
        except OSError:
            return False
    return len(frame) > 3 and frame[3] == 4  # its SETTINGS come first
