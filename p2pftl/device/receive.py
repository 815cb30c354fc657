"""A DICOM receiver: C-STORE of CT images and dose reports, C-ECHO; files are written whole into a folder that is watched.

On loopback unless told otherwise, and then only from application entities that are named: DICOM has no other safeguard here.
Needs the extra `dicomnet` (pynetdicom).
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.filereader import read_dataset

from p2pftl.device.headers import MARKED, Site
from p2pftl.device.ingest import CALM_S, WAIT_S
from p2pftl.device.watch import Totals, watch
from p2pftl.errors import DataError, UsageError
from p2pftl.imaging.files import refusal
from p2pftl.imaging.pixels import decodable
from p2pftl.imaging.slice_file import IMPLICIT, quiet

PORT, TITLE = 11112, "P2PFTL"
LIMIT = 64 * 2**20  # bytes of one object; a CT slice has 0.5 to 2 MB, a dose report less
MOST_SENDERS = 8  # associations at once; each may hold one object in memory
ROOM = 2**16  # bytes that may come around an object: its request, the headers of its parts
IDLE_S = 60.0
PATIENCE_S = 5.0  # for senders that are hung up on

VERIFICATION, CT_IMAGE, DOSE_REPORT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.67"
PLAIN = ("1.2.840.10008.1.2.1", IMPLICIT)
_CLASS, _INSTANCE = 0x00080016, 0x00080018
COMPRESSED = ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5")

# status of a C-STORE, PS3.4 table B.2-1 and PS3.7 annex C
SUCCESS, NOT_SUPPORTED, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0x0122, 0xA700, 0xA900, 0xC000


class Receiver:
    """Objects sent to `port` of `host`, written into `folder`, until `close`. refused: how many, by status.

    port 0 takes a free one. callers: application entities that may send; anybody on this machine where it is empty.
    Raises UsageError E603 (port in use), E614 (pynetdicom is missing), E615 (open to the network without `callers`), DataError E3xx.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = PORT,
        host: str = "127.0.0.1",
        title: str = TITLE,
        callers: Sequence[str] = (),
        limit: int = LIMIT,
    ) -> None:
        if not callers and not _loopback(host):
            raise UsageError(
                "E615", "would take images from anybody on the network", where=f"{host}:{port}", fix="name the senders: --from AE"
            )
        self.folder, self.limit = folder, limit
        self.refused: Counter[str] = Counter()
        self.stored = 0
        self._lock = threading.Lock()
        self._heard: dict[int, int] = {}
        self._sockets: dict[int, Any] = {}
        _make(folder)
        self._entity, bindings = _entity(self, title, callers)
        with ExitStack() as stack:
            stack.enter_context(quiet())
            stack.enter_context(_unlogged())
            self._server: Any = _started(self._entity, host, port, bindings)
            self._quiet = stack.pop_all()
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take nothing more; what is being sent is cut off and leaves no file behind."""
        server, self._server = self._server, None
        if server is None:
            return
        with self._quiet:
            server.shutdown()
            links = self._entity.active_associations
            for link in links:
                link.abort(block=False)
            for link in links:
                link.join(PATIENCE_S)

    # ------------------------------------------------------------------ called by pynetdicom, in a thread for each sender

    def on_store(self, event: Any) -> int:
        """Write one object; return its status."""
        self._heard[id(event.assoc)] = 0
        status = self._store(event)
        with self._lock:
            if status == SUCCESS:
                self.stored += 1
            else:
                self.refused[f"0x{status:04X}"] += 1
        return status

    def on_data(self, event: Any) -> None:
        """Count what a sender sends and hang up on one whose object grows beyond the limit, before it fills the memory."""
        before = self._heard.get(id(event.assoc), 0)
        self._heard[id(event.assoc)] = before + len(event.data)
        if before <= self.limit + ROOM < before + len(event.data):
            with self._lock:
                self.refused["too large"] += 1
            event.assoc.abort()

    def on_open(self, event: Any) -> None:
        """Keep the socket: pynetdicom forgets it open where the peer was quicker to close (its AssociationSocket._shutdown_socket)."""
        self._sockets[id(event.assoc)] = event.assoc.dul.socket.socket

    def on_close(self, event: Any) -> None:
        self._heard.pop(id(event.assoc), None)
        if (socket := self._sockets.pop(id(event.assoc), None)) is not None:
            socket.close()

    def _store(self, event: Any) -> int:
        request = event.request
        if str(request.AffectedSOPClassUID) not in (CT_IMAGE, DOSE_REPORT):
            return NOT_SUPPORTED
        if len(request.DataSet.getbuffer()) > self.limit:
            return OUT_OF_RESOURCES
        found = _identity(request.DataSet, str(event.context.transfer_syntax) == IMPLICIT)
        if found is None:
            return CANNOT_UNDERSTAND
        if found != (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)):
            return MISMATCH
        try:
            _write(self.folder, f"{hashlib.sha256(found[1].encode()).hexdigest()[:32]}.dcm", event.encoded_dataset())
        except OSError:
            return OUT_OF_RESOURCES
        return SUCCESS


def receive(
    folder: Path,
    out: Path,
    *,
    port: int = PORT,
    host: str = "127.0.0.1",
    title: str = TITLE,
    callers: Sequence[str] = (),
    every: float = 1.0,
    calm: float = CALM_S,
    wait: float = WAIT_S,
    site: Site = MARKED,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = print,
) -> Totals:
    """Receive into `folder` and follow it into the twins of `out`, until `stop`, Ctrl-C or SIGTERM. Raises as Receiver and watch do."""
    with Receiver(folder, port=port, host=host, title=title, callers=callers) as receiver:
        say(f"{title} listens on {host}:{receiver.port}")
        found = watch(folder, out, every=every, calm=calm, wait=wait, site=site, stop=stop, say=say)
    if receiver.refused:
        say("not stored: " + ", ".join(f"{status} {n}" for status, n in sorted(receiver.refused.items())))
    return found


def _entity(receiver: Receiver, title: str, callers: Sequence[str]) -> tuple[Any, list[Any]]:
    """The application entity: two storage classes and C-ECHO, anything else is not even negotiated."""
    try:
        from pynetdicom import AE, evt
    except ImportError:
        raise UsageError("E614", "receiving DICOM needs pynetdicom", fix='pip install "p2pftl[dicomnet]"') from None
    entity = AE(ae_title=title)
    entity.add_supported_context(VERIFICATION)
    entity.add_supported_context(CT_IMAGE, [*PLAIN, *filter(decodable, COMPRESSED)])
    entity.add_supported_context(DOSE_REPORT, list(PLAIN))
    entity.require_called_aet = True
    entity.require_calling_aet = list(callers)
    entity.maximum_associations = MOST_SENDERS
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = IDLE_S
    bindings = [
        (evt.EVT_C_STORE, receiver.on_store), (evt.EVT_C_ECHO, lambda event: SUCCESS), (evt.EVT_DATA_RECV, receiver.on_data),
        (evt.EVT_CONN_OPEN, receiver.on_open), (evt.EVT_CONN_CLOSE, receiver.on_close),
    ]  # fmt: skip
    return entity, bindings


def _identity(data: BinaryIO, implicit: bool) -> tuple[str, str] | None:
    """(SOPClassUID, SOPInstanceUID) of an encoded data set, None where it cannot be read."""
    data.seek(0)
    try:
        values = read_dataset(data, implicit, True, stop_when=lambda tag, vr, length: tag > _INSTANCE, specific_tags=[_CLASS, _INSTANCE])
        raw = [getattr(values.get_item(tag), "value", b"") for tag in (_CLASS, _INSTANCE)]
        found = raw[0].decode("ascii").strip(" \0"), raw[1].decode("ascii").strip(" \0")
    except Exception:
        return None
    return found if all(found) else None


def _started(entity: Any, host: str, port: int, bindings: list[Any]) -> Any:
    problem: UsageError
    try:
        return entity.start_server((host, port), block=False, evt_handlers=bindings)
    except OSError as failure:
        problem = UsageError("E603", f"cannot be listened on (errno {failure.errno})", where=f"{host}:{port}", fix="choose another --port")
    except OverflowError:
        problem = UsageError("E603", "is no port; allowed: 0..65535", where=f"{host}:{port}", fix="choose another --port")
    raise problem


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep pynetdicom's log lines from other loggers: they quote what was sent."""
    logger = logging.getLogger("pynetdicom")
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = before


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _make(folder: Path) -> None:
    problem: DataError
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as failure:
        problem = refusal(failure, folder.name)
    raise problem


def _write(folder: Path, name: str, data: bytes) -> None:
    """All of the file or none of it, under a hidden name until it is whole."""
    number, path = tempfile.mkstemp(prefix=".", suffix=".part", dir=folder)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path, folder / name)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
