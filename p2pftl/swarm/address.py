"""Is there a Ray cluster at this address, and may we use it? Asked at once: Ray takes from 20 seconds to for ever to say no."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from p2pftl.errors import UsageError

PATIENCE = 2.0
LOCAL = "use --executor local"
_PLACE = re.compile(r"(?P<client>ray://)?(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\s:/\[\]]+)):(?P<port>\d{1,5})")
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"

Answer = Literal["ray", "token", "other"]


def check_address(address: str | None) -> None:
    """Make sure that a Ray answers at `address` (HOST:PORT, ray://HOST:PORT or "auto") and takes this user's token if it wants one.

    Sets RAY_AUTH_MODE as the cluster has it, which has to be known before Ray is imported: a driver in the other mode fails late
    and without a reason. Raises UsageError E604 when nobody answers, E606 when the token is missing or not the cluster's.
    """
    if address in (None, "local"):
        return
    place = _current() if address == "auto" else address
    if place is None:
        raise UsageError("E604", "no Ray cluster runs on this machine", fix=f"start one (ray start --head), give its address, or {LOCAL}")
    found = _PLACE.fullmatch(place)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise UsageError("E604", f"--address {place!r} is no HOST:PORT", fix="for instance 10.0.0.5:6379, or auto")
    host, port = found["six"] or found["host"], int(found["port"])
    _connect(place, host, port)
    if found["client"] or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    answer = _ask(host, port, "")
    if answer == "other":
        raise UsageError("E604", f"something answers at {place}, but not Ray", fix=f"check --address, or {LOCAL}")
    if answer == "ray":
        os.environ["RAY_AUTH_MODE"] = "disabled"
        return
    token = _token()
    if not token or _ask(host, port, token) != "ray":
        problem = f"the Ray cluster at {place} wants a token; {'this user has another' if token else 'this user has none'}"
        raise UsageError("E606", problem, fix="set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH (ray get-auth-token on the cluster shows it)")
    os.environ["RAY_AUTH_MODE"] = "token"


def _connect(place: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except (OSError, UnicodeError) as error:
        raise UsageError("E604", f"no Ray cluster at {place} ({type(error).__name__})", fix=f"check --address, or {LOCAL}") from None


def _ask(host: str, port: int, token: str) -> Answer:
    """Ask the cluster's head whether it is alive."""
    import grpc

    told = [("authorization", f"Bearer {token}")] if token else None
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(place) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=PATIENCE, metadata=told)
        except grpc.RpcError as error:
            return "token" if error.code() is grpc.StatusCode.UNAUTHENTICATED else "other"
    return "ray"


def _current() -> str | None:
    """The address that Ray itself would take for "auto"."""
    if os.environ.get("RAY_ADDRESS", "auto") != "auto":
        return os.environ["RAY_ADDRESS"]
    with suppress(OSError, UnicodeError):
        folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        return (folder / "ray" / "ray_current_cluster").read_text().strip() or None
    return None


def _token() -> str:
    """This user's token, where Ray looks for it; empty if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    with suppress(OSError, UnicodeError):
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser().read_text().strip()
    return ""
