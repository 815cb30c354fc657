"""A run on disk: `events.msgpack`, a stream of msgpack arrays [wall seconds, kind, fields], and the digest over all but the wall time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgpack

from p2pftl import events
from p2pftl.errors import CheckpointError
from p2pftl.events import Event

FILE = "events.msgpack"
LARGEST = 1 << 28  # bytes of one event; the plan of 10,000 twins takes a tenth of it
DIGEST_BYTES = 16


class Digest:
    """The run's fingerprint: blake2b over the canonical bytes of every event, in order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)

    def feed(self, packed: bytes) -> None:
        self._hash.update(packed)

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


class Record:
    """Sink that writes every event at once, so that a run that is killed leaves all it had.

    `path`: the file, made anew. `clock`: wall seconds, counted from the first call of this class.
    Raises CheckpointError E509 when the file cannot be written, E510 when it cannot be made.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.events = 0
        self._clock = clock
        self._start = clock()
        self._digest = Digest()
        self._failed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise CheckpointError("E510", f"cannot be written ({_cause(error)})", where=str(path), fix="choose another --out") from error

    def __call__(self, event: Event) -> None:
        packed = events.pack(event)
        # pack() gives the msgpack array [kind, fields]: its first byte 0x92 says "array of 2". 0x93 makes it an array of 3.
        line = b"\x93" + msgpack.packb(round(self._clock() - self._start, 4)) + packed[1:]
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            self._failed = True
            raise self._full(error) from error
        self._digest.feed(packed)
        self.events += 1

    @property
    def digest(self) -> str:
        """32 hexadecimal characters: equal for equal events, whenever and wherever they were recorded."""
        return self._digest.hex

    def close(self) -> None:
        """Close the file; calling it twice is fine. What a full disk refused once is not refused again."""
        try:
            self._file.close()
        except OSError as error:
            if not self._failed:
                raise self._full(error) from error

    def _full(self, error: OSError) -> CheckpointError:
        problem = f"events cannot be written ({_cause(error)})"
        return CheckpointError("E509", problem, where=str(self.path), fix="free some space")

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read(path: Path) -> Iterator[tuple[float, Event]]:
    """Yield (wall seconds, event) in order; a last record cut short by a kill is left out.

    Raises CheckpointError: E501 no such file, E505 an unknown kind or something that is no event.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError("E501", f"no events here ({_cause(error)})", where=str(path), fix="give the folder of a run") from error
    with file:
        unpacker = msgpack.Unpacker(file, use_list=False, raw=False, max_buffer_size=LARGEST, read_size=1 << 16)
        count = 0
        while True:
            try:
                item = unpacker.unpack()
            except msgpack.OutOfData:
                return
            except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
                raise _unreadable(path, count + 1) from error
            count += 1
            yield _event(item, path, count)


def digest(stream: Iterable[Event]) -> str:
    """The digest of events that were read back, or never written."""
    whole = Digest()
    for event in stream:
        whole.feed(events.pack(event))
    return whole.hex


def _event(item: Any, path: Path, count: int) -> tuple[float, Event]:
    try:
        wall, kind, fields = item
        return float(wall), events.KINDS[kind](**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, count) from error


def _unreadable(path: Path, count: int) -> CheckpointError:
    return CheckpointError("E505", f"event {count} cannot be read", where=str(path), fix="was it written by a newer p2pftl?")


def _cause(error: OSError) -> str:
    return {13: "no permission", 2: "no such file", 28: "the disk is full", 30: "read-only", 21: "is a folder", 20: "not a folder"}.get(
        error.errno or 0, f"errno {error.errno}"
    )
