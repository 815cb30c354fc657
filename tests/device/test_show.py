"""What people and other programs see of a device."""

import json
import re

import pytest

from p2pftl.device import export, show
from p2pftl.device.life import Device
from p2pftl.device.log import DeviceLog, append
from p2pftl.device.schema import FEATURES, LOCAL, SCHEMA
from p2pftl.device.troubles import Trouble
from p2pftl.errors import CheckpointError, UsageError

SECRET = "0123456789abcdef"


@pytest.fixture(scope="module")
def device():
    found = Device.new("ct-03", seed=2, troubles=[Trouble("hu_step", 25, params={"hu": 9.0})])
    found.log.record("observed", 0.0, "header", {"values": {"attributes.serial_hmac": SECRET, "config.pitch": None}})
    while found.day < 32:
        found.live()
    return found


@pytest.fixture
def folder(device, tmp_path):
    (tmp_path / "twins").mkdir()
    append(tmp_path / "twins" / f"ct-03{show.SUFFIX}", device.log, 0)
    return tmp_path


def test_an_export_is_a_ditto_thing_with_every_value_or_that_it_is_missing(device):
    thing = json.loads(export.to_json(device.log))
    assert thing["thingId"] == "p2pftl:ct-03"
    assert thing["features"].keys() == set(FEATURES)
    leaf = thing["features"]["qa"]["properties"]["last"]["mean"]
    assert leaf.keys() == {"v", "unit", "t", "source", "quality"}
    assert thing["features"]["config"]["properties"]["pitch"] == {"v": None, "unit": "", "t": 0.0, "source": "header", "quality": "missing"}
    assert thing["features"]["config"]["properties"]["wed_mm"]["quality"] == "missing"
    assert thing["_revision"] == thing["_log"]["entries"] == len(device.log)
    assert len(thing["features"]["maintenance"]["properties"]["records"]) == len(device.log.state.maintenance) > 0


def test_serial_numbers_and_dates_stay_in_the_twin(device):
    assert SECRET not in export.to_json(device.log)
    assert SECRET not in show.show(device.log.state)
    assert SECRET in export.to_json(device.log, local=True)
    assert set(LOCAL) < SCHEMA.keys()


def test_the_model_is_sound_dtdl():
    interfaces = json.loads(export.dtdl())
    ids = {interface["@id"] for interface in interfaces}
    assert all(re.fullmatch(r"dtmi:[a-z0-9]+(:[a-z0-9]+)*;1", name) for name in ids)
    for interface in interfaces:
        names = [content["name"] for content in interface["contents"]]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"[a-zA-Z]([a-zA-Z0-9_]{0,510}[a-zA-Z0-9])?", name) for name in names)
        assert {content["@type"] for content in interface["contents"]} <= {"Property", "Telemetry", "Component", "Command"}
        for content in interface["contents"]:
            assert content["@type"] != "Component" or content["schema"] in ids
    described = sum(len(interface["contents"]) for interface in interfaces[1:])
    assert described == len(SCHEMA) - len(LOCAL)


def test_show_says_state_values_units_and_sources(device):
    text = show.show(device.log.state)
    assert text.startswith("ct-03: ")
    assert re.search(r"last\.mean\s+-?[\d.]+ HU  \(sim, measured, day \d+\.0\)", text)
    assert "missing at the source: pitch" in text
    assert "air cal, by service" in text
    assert "None" not in text
    assert not re.search(r"\bnan\b", text)


def test_simulated_times_are_days_of_its_life_and_real_ones_are_dates(device):
    simulated, real = show.Calendar.of(device.log), DeviceLog.create("siemens-1", 1074515460.0, source="header")
    assert simulated.when(3 * 86_400.0) == "day 3.0"
    assert show.Calendar(10.0, -50.0).when(20.0) == "day 7.0"
    assert show.Calendar.of(real).when(1074515460.0) == "2004-01-19 12:31"
    assert show.Calendar.of(real).when(1e300).startswith("t 1000")
    assert simulated.when(None) == "no time"
    assert "2004-01-19 12:31  created" in show.history(real)
    assert re.search(r"day 0\.0 +created", show.history(device.log))


def test_history_tells_the_story_in_order_and_can_be_narrowed(device):
    lines = show.history(device.log).splitlines()
    assert len(lines) == len(device.log)
    story = show.history(device.log, kinds=("lifecycle", "happened", "maintained", "quarantine"))
    for earlier, later in (("hu step", "now quarantined"), ("now quarantined", "now maintenance"), ("now maintenance", "now verifying")):
        assert story.index(earlier) < story.index(later)
    assert len(show.history(device.log, last=3).splitlines()) == 3
    assert "nothing" in show.history(device.log, kinds=("desired",))


def test_a_log_in_a_folder_is_found_verified_and_exported(folder, device):
    log = show.opened(folder, "ct-03")
    assert log.state == device.log.state
    assert device.log.head in show.verify(folder, "ct-03")
    assert "as expected" in show.verify(folder, "ct-03", expected=log.head)
    assert json.loads(show.exported(log))["thingId"] == "p2pftl:ct-03"
    assert json.loads(show.exported(log, "dtdl"))[0]["@type"] == "Interface"
    with pytest.raises(UsageError, match="E613"):
        show.exported(log, "xml")
    with pytest.raises(UsageError, match=r"E613.*did you mean ct-03"):
        show.opened(folder, "ct-04")
    with pytest.raises(CheckpointError, match="E501"):
        show.opened(folder / "nowhere", "ct-03")


def test_a_changed_log_is_named_by_its_entry(folder):
    file = folder / "twins" / f"ct-03{show.SUFFIX}"
    lines = file.read_bytes().split(b"\n")
    lines[7] = lines[7].replace(b"0", b"1", 1)
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(CheckpointError, match=r"E502.*entry 7 "):
        show.verify(folder, "ct-03")
