"""The device logs that a run writes, and what `p2pftl twin` makes of the folder of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pftl import events as fact
from p2pftl.cli import app
from p2pftl.device.life import Device
from p2pftl.device.show import SUFFIX, opened, verify
from p2pftl.device.troubles import Trouble
from p2pftl.errors import CheckpointError, UsageError
from p2pftl.events import pack, unpack
from p2pftl.folder import RunFolder
from p2pftl.observe.logbook import DeviceLogs
from tests.observe.devices import DAY_S, HISTORY, entry_of, lived, rules


@pytest.fixture(scope="module")
def device() -> Device:
    found = Device.new("ct-02", seed=3, rules=rules(), troubles=[Trouble("hu_step", HISTORY + 4.0, params={"hu": 9.0})])
    found.advance(12 * DAY_S)
    return found


def told(device: Device, first: int, stop: int, t: float = 0.0) -> fact.DeviceLogged:
    """Some of its entries as they come out of a recorded event."""
    event = fact.DeviceLogged(t=t, twin=device.name, entries=tuple(map(entry_of, device.log.entries[first:stop])))
    back = unpack(pack(event))
    assert isinstance(back, fact.DeviceLogged)
    return back


def test_the_log_of_a_run_is_the_log_of_its_device_byte_for_byte(device: Device, tmp_path: Path) -> None:
    logs = DeviceLogs(tmp_path / "twins")
    for first in range(0, len(device.log), 7):
        logs(told(device, first, first + 7))
    logs.close()
    assert (tmp_path / "twins" / f"ct-02{SUFFIX}").read_bytes() == device.log.lines()
    assert device.log.head in verify(tmp_path, "ct-02", expected=device.log.head)


def test_what_a_revived_twin_tells_again_is_written_once(device: Device, tmp_path: Path) -> None:
    logs = DeviceLogs(tmp_path)
    for first, stop in ((0, 40), (25, 60), (0, 30), (60, len(device.log))):
        logs(told(device, first, stop))
    assert opened(tmp_path, "ct-02").state == device.log.state


def test_a_gap_and_a_folder_that_cannot_be_written_are_errors(device: Device, tmp_path: Path) -> None:
    logs = DeviceLogs(tmp_path / "twins")
    logs(told(device, 0, 5))
    with pytest.raises(CheckpointError, match=r"E502.*entry 5 "):
        logs(told(device, 6, 9))
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="E509"):
        DeviceLogs(tmp_path / "file")(told(device, 0, 5))


def test_other_events_make_no_file(tmp_path: Path) -> None:
    logs = DeviceLogs(tmp_path / "twins")
    logs(fact.RoundDone(t=1.0, twin="ct-01", round=0, bytes_sent=0, heard=0))
    logs.close()
    assert not (tmp_path / "twins").exists()


def test_force_takes_an_earlier_runs_twins_away_and_never_those_of_real_scanners(tmp_path: Path) -> None:
    (tmp_path / "events.msgpack").write_bytes(b"")
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / f"ct-01{SUFFIX}").write_text("old")
    RunFolder(tmp_path, "x", force=True).fill("rounds: 1\n")
    assert not (tmp_path / "twins").exists()
    (tmp_path / "events.msgpack").write_bytes(b"")
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "sync.sqlite").write_text("")
    with pytest.raises(UsageError, match=r"E601.*real scanners"):
        RunFolder(tmp_path, "x", force=True)


def test_a_run_folder_its_twins_and_one_log_are_all_places_to_ask(tmp_path: Path) -> None:
    logs = DeviceLogs(tmp_path / "twins")
    for event in lived("ct-01", [], 10 * DAY_S):
        logs(event)
    base = "rounds: 5\nseed: 1\ntopology: {use: ring, twins: 8}\ndata: {use: phantom}\n"
    (tmp_path / "scenario.yaml").write_text(f"{base}device: {{day_s: {DAY_S}}}\n")
    log = tmp_path / "twins" / f"ct-01{SUFFIX}"
    before = log.read_bytes()
    texts = set()
    for place in (tmp_path, tmp_path / "twins", log):
        for command in (("show",), ("history", "--all"), ("export",), ("verify",), ("whatif", "--dose", "0.5")):
            result = CliRunner().invoke(app, ["twin", command[0], str(place), "ct-01", *command[1:]])
            assert result.exit_code == 0, result.output
            texts.add(result.stdout)
    assert len(texts) == 5, "the same answer wherever one asks"
    days = [float(day) for text in texts for day in re.findall(r"^ +\d+ +day ([\d.]+)", text, flags=re.M)]
    assert min(days) == 0
    assert max(days) == HISTORY + 9
    assert any("no model of ct-01" in text for text in texts)
    assert log.read_bytes() == before, "what-if touches nothing"
