"""A device's log: the state is its fold, replay gives it back, a changed byte is found."""

import json
import math

import pytest

from p2pftl.device.log import GENESIS, DeviceLog, append, facts, load
from p2pftl.device.state import replay
from p2pftl.device.tube import Tube, Wear
from p2pftl.errors import CheckpointError


def story():
    log = DeviceLog.create("ct-03", 0.0, wear={"cap_MHU": 4.0})
    log.record("observed", 1.0, "header", {"values": {"config.kvp": 120.0, "config.mas": None, "config.kernel": "B30f"}})
    log.record("exposed", 2.0, "rdsr", {"kvp": 120, "ma": 300, "s": 7.5})
    log.record("qa", 3.0, "qa", {"values": {"last.mean": 0.1 + 0.2, "status": "pass", "last_pass": 3.0}})
    log.record("lifecycle", 4.0, "log", {"to": "quarantined", "reason": "noise"})
    log.record("quarantine", 4.0, "log", {"since": 3.0, "until": None, "reason": "noise"})
    log.record("maintained", 5.0, "manual", {"kind": "air_cal", "part": "", "by": "service", "note": "", "downtime_h": 4})
    log.record("desired", 6.0, "log", {"path": "config.mas", "v": 150.0, "reason": "noise"})
    log.record("acknowledged", 7.0, "manual", {"path": "config.mas", "by": "physicist", "accepted": True})
    log.record("happened", 8.0, "sim", {"kind": "ring", "text": "ring"})
    return log


def test_reading_gives_the_same_state_bit_for_bit():
    log = story()
    again = DeviceLog.read(log.lines())
    assert again.state == log.state
    assert again.lines() == log.lines()
    assert again.head == log.head
    assert replay(facts(again.entries)) == log.state
    assert again.state.get("qa.last.mean") == 0.1 + 0.2


def test_every_changed_byte_is_refused_at_its_entry():
    data = story().lines()
    owner = [data[:place].count(b"\n") for place in range(len(data))]
    for place in range(len(data)):
        for bit in (1, 16):
            broken = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            with pytest.raises(CheckpointError) as refused:
                DeviceLog.read(broken)
            assert refused.value.code == "E502"
            assert f"entry {owner[place]} " in str(refused.value) or place == len(data) - 1, (place, str(refused.value))


def test_entries_taken_out_swapped_or_cut_short_are_refused():
    lines = story().lines().splitlines(keepends=True)
    for broken, entry in (
        (lines[:3] + lines[4:], 3),
        ([*lines[:2], lines[3], lines[2], *lines[4:]], 2),
        (lines[1:], 0),
        ([*lines[:-1], lines[-1][:-20]], len(lines) - 1),
        ([], 0),
    ):
        with pytest.raises(CheckpointError, match=f"E502.* entry {entry} "):
            DeviceLog.read(b"".join(broken))


def test_a_lost_end_shows_against_a_head_kept_elsewhere():
    log = story()
    shorter = b"".join(log.lines().splitlines(keepends=True)[:-1])
    assert len(DeviceLog.read(shorter)) == len(log) - 1
    with pytest.raises(CheckpointError, match="E502"):
        DeviceLog.read(shorter, expected=log.head)
    DeviceLog.read(log.lines(), expected=log.head)


def test_a_rehashed_entry_breaks_the_chain_at_the_next_one():
    import hashlib

    lines = story().lines().splitlines()
    raw = json.loads(lines[2])
    raw.pop("hash")
    raw["data"]["ma"] = 301
    body = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    raw["hash"] = hashlib.sha256(body).hexdigest()
    lines[2] = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(CheckpointError, match=r"E502.* entry 3 "):
        DeviceLog.read(b"\n".join(lines) + b"\n")


def test_missing_values_are_missing_and_not_zero():
    state = story().state
    assert state.leaf("config.mas").quality == "missing"
    assert state.leaf("config.mas").source == "header"
    assert state.leaf("config.pitch").v is None
    assert state.leaf("config.pitch").quality == "missing"
    assert state.get("config.mas", "nothing") == "nothing"
    leaf = state.leaf("config.kvp")
    assert (leaf.v, leaf.unit, leaf.t, leaf.source, leaf.quality) == (120.0, "kV", 1.0, "header", "measured")


def test_exposures_heat_and_wear_the_tube_of_this_device():
    state = story().state
    expected = Tube(wear=state.wear, t=2.0).expose(120, 300, 7.5)
    assert state.tube == expected
    assert state.wear.cap_MHU == 4.0
    assert state.get("tube.source") == "rdsr"


def test_a_tube_cools_between_exposures_whatever_the_calendar_says():
    for begin in (-2.2e9, 0.0, 1.7e9):  # dates of de-identified files can lie before 1970
        log = DeviceLog.create("ct-01", begin)
        for hour in (0, 1):
            log.record("exposed", begin + 3600 * hour, "header", {"kvp": 120, "ma": 300, "s": 10})
        heat = 120 * 300 * 10
        assert log.state.get("tube.heat_J") == pytest.approx(heat * (1 + math.exp(-Wear().cooling * 3600)), rel=0.02)
        assert log.state.leaf("tube.heat_J").t == begin + 3610


def test_an_advice_changes_nothing_but_the_advice():
    state = story().state
    wish = state.desired["config.mas"]
    assert (wish.v, wish.by, wish.accepted) == (150.0, "physicist", True)
    assert state.get("config.mas") is None


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("observed", {"values": {"config.kpv": 120}}),
        ("observed", {"values": {"config.kvp": math.nan}}),
        ("observed", {"values": {"config.kvp": object()}}),
        ("observed", {}),
        ("exposed", {"kvp": 120, "ma": -1, "s": 3}),
        ("acknowledged", {"path": "config.mas", "by": "me", "accepted": True}),
        ("remembered", {}),
    ],
)
def test_what_is_not_a_fact_is_refused_and_leaves_the_log_as_it_was(kind, data):
    log = DeviceLog.create("ct-03", 0.0)
    before = log.lines()
    with pytest.raises(CheckpointError, match="E505"):
        log.record(kind, 1.0, "header", data)
    assert log.lines() == before
    assert log.state.revision == 1


def test_a_log_of_another_format_is_named_as_such():
    log = DeviceLog()
    log.record("created", 0.0, "sim", {"name": "ct-03", "format": 99})
    with pytest.raises(CheckpointError, match="E505"):
        DeviceLog.read(log.lines())
    assert DeviceLog().head == GENESIS


def test_a_file_grows_by_what_is_new(tmp_path):
    file, log = tmp_path / "ct-03.device.jsonl", story()
    written = append(file, log, 0)
    log.record("happened", 9.0, "sim", {"kind": "ring", "text": "gone"})
    written = append(file, log, written)
    assert append(file, log, written) == len(log)
    assert load(file).state == log.state
    with pytest.raises(CheckpointError, match="E501"):
        load(tmp_path / "ct-04.device.jsonl")
