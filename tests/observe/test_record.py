"""The event log on disk."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest

from p2pftl import events
from p2pftl.errors import CheckpointError
from p2pftl.observe.record import Record, digest, read
from tests.observe.staged import staged


def written(path, stream, clock=None):
    with Record(path, *([clock] if clock else [])) as sink:
        for event in stream:
            sink(event)
    return sink


def test_what_was_written_is_read_back_bit_for_bit(tmp_path):
    stream = staged()
    written(tmp_path / "run" / "events.msgpack", stream)
    back = [event for _, event in read(tmp_path / "run" / "events.msgpack")]
    assert list(map(events.pack, back)) == list(map(events.pack, stream))


def test_the_digest_knows_nothing_of_the_wall_clock_but_everything_of_the_events(tmp_path):
    stream = staged()
    slow, fast = itertools.count(0, 7), itertools.count(0, 1)
    first = written(tmp_path / "a", stream, lambda: float(next(slow))).digest
    second = written(tmp_path / "b", stream, lambda: float(next(fast))).digest
    assert first == second == digest(stream)
    assert len(first) == 32
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    swapped = [*stream[:5], stream[6], stream[5], *stream[7:]]
    assert digest(swapped) != first


def test_wall_seconds_never_fall(tmp_path):
    written(tmp_path / "a", staged())
    walls = [wall for wall, _ in read(tmp_path / "a")]
    assert walls == sorted(walls)
    assert walls[0] >= 0


def test_a_log_cut_anywhere_gives_the_events_before_the_cut(tmp_path):
    stream = staged(twins=2, rounds=2)
    written(tmp_path / "a", stream)
    whole = (tmp_path / "a").read_bytes()
    packed = list(map(events.pack, stream))
    last = 0
    for cut in range(0, len(whole) + 1, 23):
        (tmp_path / "b").write_bytes(whole[:cut])
        back = [events.pack(event) for _, event in read(tmp_path / "b")]
        assert back == packed[: len(back)]
        assert len(back) >= last
        last = len(back)


def test_a_killed_process_leaves_every_event_it_wrote(tmp_path):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from tests.observe.staged import staged; from p2pftl.observe.record import Record\n"
        "sink = Record(Path(sys.argv[1]))\n"
        "for event in staged()[:100]: sink(event)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a"), str(Path(__file__).parents[2])], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(read(tmp_path / "a"))) == 100


@pytest.mark.parametrize(
    "item",
    [
        [0.0, "Exploded", {}], [0.0, "TwinDone", {"t": 1.0}], [0.0, "RunFinished", {"t": 1.0, "status": "done", "more": 2}],
        {"a": 1}, [1, 2], 7, ["soon", "RunFinished", {"t": 1.0, "status": "done"}], [0.0, "RunFinished", 3], [0.0, ["a"], {}],
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_with_its_place(tmp_path, item):
    (tmp_path / "a").write_bytes(msgpack.packb(item))
    with pytest.raises(CheckpointError, match="E505") as caught:
        list(read(tmp_path / "a"))
    assert "event 1" in str(caught.value)


@pytest.mark.parametrize("junk", [b"\xc1" * 20, b"\x93\xff\xff\xff", b"P2PF" * 9, b"\x91" * 3000, b"\x93\x01\xa2\xff\xfe\x80"])
def test_bytes_that_are_no_log_are_refused(tmp_path, junk):
    (tmp_path / "a").write_bytes(junk)
    with pytest.raises(CheckpointError, match="E505"):
        list(read(tmp_path / "a"))


def test_a_log_that_is_not_there_and_one_that_cannot_be_made_say_so(tmp_path):
    with pytest.raises(CheckpointError, match="E501"):
        list(read(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match="E501"):
        list(read(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="E510"):
        Record(tmp_path / "file" / "events.msgpack")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_named():
    sink = Record(Path("/dev/full"))
    with pytest.raises(CheckpointError, match="E509"):
        sink(staged()[0])
    sink.close()
    with pytest.raises(CheckpointError, match="E509"), Record(Path("/dev/full")) as again:
        again(staged()[0])
