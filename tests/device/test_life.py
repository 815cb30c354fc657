"""Days of simulated scanners: every incident shows in what the twin can see, service mends it, the log replays."""

import math
import time

import numpy as np
import pytest

from p2pftl.device import lifecycle
from p2pftl.device.life import Device
from p2pftl.device.lifecycle import quality, quarantined
from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Protocol
from p2pftl.device.rules import Ageing, Rules, Workload
from p2pftl.device.troubles import KINDS, MOMENTS, Trouble
from p2pftl.device.tube import DAY, Wear
from p2pftl.errors import CheckpointError, ScenarioError
from p2pftl.imaging.scanner import Scanner

CALM = Rules(workload=Workload(exams=2), ageing=Ageing(day_hu=0.2))


def lived(days, *troubles, rules=CALM, seed=1, name="ct-03"):
    device = Device.new(name, seed=seed, rules=rules, troubles=troubles)
    while device.day < days:
        device.live()
    return device


def states(device):
    """(day, state) of each change of the lifecycle."""
    return [(entry.fact.t / device.rules.day_s, entry.fact.data["to"]) for entry in device.log.entries if entry.fact.kind == "lifecycle"]


def daily(device, path):
    """What the log says of `path`, day by day."""
    found = {}
    for entry in device.log.entries:
        values = entry.fact.data.get("values", {})
        key = path.removeprefix("qa.") if entry.fact.kind == "qa" else path
        if key in values:
            found[round(entry.fact.t / device.rules.day_s)] = values[key]
    return found


def first(device, state):
    return next(day for day, to in states(device) if to == state)


def test_a_new_scanner_learns_its_baseline_and_becomes_active():
    device = lived(30)
    assert [to for _, to in states(device)] == ["baseline", "active"]
    assert first(device, "active") == 19
    assert device.log.state.get("qa.baseline.n") == 20
    assert quality(device.log.state) == 1


def test_the_same_seed_lives_the_same_life_and_another_name_another():
    once, again, other = lived(40), lived(40), lived(40, name="ct-04")
    assert once.log.lines() == again.log.lines()
    assert once.log.head != other.log.head


def test_a_lived_log_replays_to_the_same_state_bit_for_bit():
    device = lived(60, Trouble("hu_step", 30, params={"hu": 8.0}))
    assert DeviceLog.read(device.log.lines()).state == device.log.state


def test_what_happens_later_does_not_change_the_days_before():
    calm, struck = lived(35), lived(35, Trouble("ring", 30, params={"hu": 3.0}))
    assert [daily(calm, "qa.last.sd")[day] for day in range(30)] == [daily(struck, "qa.last.sd")[day] for day in range(30)]


def test_a_drift_is_found_quarantined_mended_and_verified():
    device = lived(60, Trouble("hu_drift", 30, params={"rate": 0.5}), rules=Rules(workload=Workload(exams=2)))
    way = [to for _, to in states(device)][2:]
    assert way == ["quarantined", "maintenance", "verifying", "active"]
    found = first(device, "quarantined")
    assert 32 <= found <= 37
    window = device.log.state.quarantine[0]
    assert 30 * DAY <= window["since"] < found * DAY
    assert window["until"] == max(day for day, to in states(device) if to == "active") * DAY
    assert quarantined(device.log.state, window["since"])
    assert not quarantined(device.log.state, window["until"])
    assert {record["kind"] for record in device.log.state.maintenance} == {"air_cal", "water_cal"}
    assert abs(device.truth.offset) < 0.5
    assert not device.ongoing


def test_quality_is_zero_from_quarantine_to_verification():
    device = Device.new("ct-03", seed=1, rules=CALM, troubles=[Trouble("hu_step", 30, params={"hu": 9.0})])
    seen = {}
    while device.day < 45:
        device.live()
        seen[device.log.state.lifecycle] = quality(device.log.state)
    assert {name: seen[name] for name in ("quarantined", "maintenance", "verifying")} == dict.fromkeys(
        ("quarantined", "maintenance", "verifying"), 0.0
    )
    assert seen["active"] == 1


@pytest.mark.parametrize(
    ("trouble", "path", "shift", "near"),
    [
        (Trouble("hu_step", 30.0, params={"hu": 3.0}), "qa.last.mean", 3.0, 0.4),
        (Trouble("hu_step", 30.0, params={"hu": 3.0}), "qa.last.air", 3.0, 0.4),
        (Trouble("cupping", 30.0, params={"hu": 4.0}), "qa.last.unif", 2.0, 0.4),
        (Trouble("cupping", 30.0, params={"hu": 4.0}), "qa.last.mean", -4.0, 0.4),
        (Trouble("gain_drift", 29.0, 30.0, {"rate": 0.003}), "qa.last.mean", 3.0, 0.4),
        (Trouble("gain_drift", 29.0, 30.0, {"rate": 0.003}), "qa.last.air", 0.0, 0.4),
        (Trouble("ring", 30.0, params={"hu": 2.0}), "qa.last.ring", 1.3, 0.3),
        (Trouble("ring", 30.0, params={"eps": 0.002}), "qa.last.ring", 1.3, 0.3),
        (Trouble("ring", 30.0, params={"hu": 2.0}), "qa.last.sd", 1.6, 1.0),
        (Trouble("tube_wear", 30.0, params={"share": 0.5}), "tube.output", -0.04, 0.002),
        (Trouble("arc_burst", 30.0, params={"count": 25}), "tube.arcs", 25, 0.1),
        (Trouble("dose_change", 30.0, params={"factor": 0.5, "qa": True}), "qa.last.sd", 2.37, 0.4),
        (Trouble("kvp_change", 30.0, params={"kvp": 80.0, "qa": True}), "qa.last.sd", 4.9, 0.8),
        (Trouble("kernel_change", 30.0, params={"kernel": "bone", "qa": True}), "qa.last.sd", 5.4, 0.8),
        (Trouble("kernel_change", 30.0, params={"kernel": "bone", "qa": True}), "qa.last.nps_f", 0.142, 0.015),
        (Trouble("slice_change", 30.0, params={"slice_mm": 1.5, "qa": True}), "qa.last.sd", 4.6, 0.8),
        (Trouble("dose_change", 30.0, params={"factor": 0.5}), "config.mas", -50, 0),
        (Trouble("dose_change", 30.0, params={"factor": 0.5}), "qa.last.sd", 0, 0.3),
        (Trouble("case_mix_shift", 30.0), "qa.last.sd", 0, 0.3),
        (Trouble("lying_qa", 29.5, math.inf), "qa.last.mean", 0, 0.3),
    ],
    ids=lambda value: f"{value.kind}" if isinstance(value, Trouble) else str(value),
)  # fmt: skip
def test_an_incident_has_its_signature(trouble, path, shift, near):
    rules = Rules(workload=Workload(exams=2), ageing=Ageing(day_hu=0.05, ring_hu=0.005))
    series = daily(lived(31, trouble, rules=rules), path)
    before = [value for day, value in series.items() if day < 29]
    assert series[30 if 30 in series else 0] - np.mean(before) == pytest.approx(shift, abs=near + 1e-9)


def test_each_kind_of_incident_is_lived_through():
    needed = {
        "rate": 0.3, "hu": 6.0, "share": 0.2, "count": 5, "factor": 0.5, "kvp": 100.0, "kernel": "soft", "slice_mm": 3.0, "seconds": 60.0
    }  # fmt: skip
    for kind, parameters in KINDS.items():
        params = {name: needed[name] for name, default in parameters.items() if default is None}
        device = lived(36, Trouble(kind, 25, math.inf if kind in MOMENTS else 28, params))
        assert DeviceLog.read(device.log.lines()).state == device.log.state
        assert any(entry.fact.kind == "happened" for entry in device.log.entries), kind


def test_a_failed_tube_is_replaced_and_a_new_baseline_is_learnt():
    device = lived(90, Trouble("tube_failure", 30))
    way = [to for _, to in states(device)]
    assert way == ["baseline", "active", "offline", "maintenance", "verifying", "baseline", "active"]
    away = next(day for day, to in states(device) if to == "verifying") - 30
    assert 1 <= away <= 4
    state = device.log.state
    assert state.get("tube.number") == 2
    assert state.get("tube.installed") > 30 * DAY
    assert state.get("tube.damage") < 0.1 * device.truth.tube.wear.eta_s
    assert state.get("qa.baseline.n") == 20


def test_a_tube_wears_out_by_itself():
    rules = Rules(workload=Workload(exams=40), wear=Wear(eta_s=8e3))
    device = lived(120, rules=rules)
    assert device.tubes > 2
    assert any(entry.fact.kind == "happened" and entry.fact.data["kind"] == "tube_failure" for entry in device.log.entries)


def test_missed_phantoms_make_a_device_stale_and_half_trusted():
    device = lived(36, Trouble("missed_qa", 30))
    assert device.log.state.get("qa.status") == "stale"
    assert device.log.state.lifecycle == "warn"
    assert quality(device.log.state, stale=True) == 0.5
    assert device.log.state.get("health.data_freshness") == 0


def test_phantoms_that_come_back_end_the_warning():
    assert lived(40, Trouble("missed_qa", 30, 34)).log.state.lifecycle == "active"


def test_an_outage_is_offline_and_comes_back_by_verification():
    device = lived(45, Trouble("outage", 30, 33))
    assert [to for _, to in states(device)][2:] == ["offline", "verifying", "active"]
    assert not [day for day in daily(device, "qa.last.sd") if 30 <= day < 33]


def test_a_lying_phantom_passes_while_images_are_wrong():
    device = lived(40, Trouble("lying_qa", 29), Trouble("hu_step", 30, params={"hu": 30.0}))
    assert device.log.state.lifecycle == "active"
    assert device.condition.offset == pytest.approx(30, abs=1.5)


def test_new_software_needs_another_baseline_and_changes_the_kernel_of_patients():
    device = lived(32, Trouble("software_upgrade", 30, params={"software": "2", "kernel": "bone"}))
    assert device.log.state.lifecycle == "baseline"
    assert device.truth.scanner.kernel == "bone"
    assert device.log.state.get("config.software") == "2"


def test_a_skewed_clock_changes_times_and_nothing_else():
    calm, skewed = lived(33), lived(33, Trouble("clock_skew", 30, params={"seconds": -7200.0}))
    assert [entry.fact.kind for entry in calm.log.entries] == [
        entry.fact.kind for entry in skewed.log.entries if entry.fact.kind != "happened"
    ]
    assert skewed.log.state.get("qa.last.t") == calm.log.state.get("qa.last.t") - 7200


def test_a_shorter_device_day_is_the_same_life_on_another_calendar():
    long, short = lived(40), lived(40, rules=Rules(day_s=60.0, workload=CALM.workload, ageing=CALM.ageing))
    assert list(daily(long, "qa.last.sd").values()) == list(daily(short, "qa.last.sd").values())
    assert short.log.state.get("lifecycle.since") == long.log.state.get("lifecycle.since") / DAY * 60
    assert long.log.state.get("tube.damage") == short.log.state.get("tube.damage")


def test_phantoms_in_pixels_lead_the_same_life():
    rules = Rules(measure="image", protocol=Protocol(size=256), workload=CALM.workload, ageing=CALM.ageing)
    drift = Trouble("hu_step", 22, params={"hu": 9.0})
    assert [to for _, to in states(lived(27, drift, rules=rules))] == [to for _, to in states(lived(27, drift))]


def test_twin_and_truth_are_apart():
    device = lived(32, Trouble("hu_step", 30, params={"hu": 3.0}))
    assert device.condition.offset == pytest.approx(3, abs=0.8)
    assert device.log.state.get("calibration.offset_hu") is None


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("dose_change", {"factor": 0.5}), ("kvp_change", {"kvp": 80.0}), ("kernel_change", {"kernel": "bone"}),
        ("slice_change", {"slice_mm": 3.0}),
    ],
)  # fmt: skip
def test_a_changed_protocol_that_ends_is_the_usual_one_again(kind, params):
    during, after = lived(27, Trouble(kind, 25, 28, params)), lived(30, Trouble(kind, 25, 28, params))
    assert during.truth.scanner != Scanner()
    assert after.truth.scanner == Scanner()
    assert after.log.state.get("config.mas") == 100


def test_images_acquired_after_an_incident_carry_it():
    device = Device.new("ct-03", seed=1, rules=CALM, troubles=[Trouble("hu_step", 5, params={"hu": 20.0})])
    true = np.zeros((2, 64, 64), np.float32)
    before = device.scan(true, 4.0, "patient", 1).hu.double()
    assert device.advance(5.5 * DAY)
    assert device.day == 6
    assert device.advance(5.9 * DAY) == []
    after = device.scan(true, 4.0, "patient", 1).hu.double()
    assert (after - before).mean().item() == pytest.approx(20, abs=1.5)


def test_an_interrupted_life_goes_on_as_it_was():
    whole, half = lived(30), lived(17)
    again = Device.new("ct-03", seed=1, rules=CALM)
    again.resume(half.day, half.log.head)
    while again.day < 30:
        again.live()
    assert again.log.lines() == whole.log.lines()
    with pytest.raises(CheckpointError, match="E502"):
        Device.new("ct-03", seed=2, rules=CALM).resume(half.day, half.log.head)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (("flood", 1.0), "E126"), (("hu_drift", 1.0), "E110"), (("hu_drift", -1.0, math.inf, {"rate": 1.0}), "E118"),
        (("hu_drift", 5.0, 4.0, {"rate": 1.0}), "E118"), (("hu_step", 1.0, math.inf, {"hu": math.nan}), "E118"),
        (("hu_step", 1.0, math.inf, {"hu": 1.0, "colour": 2}), "E109"), (("tube_wear", 1.0, 2.0, {"share": 0.1}), "E118"),
    ],
)  # fmt: skip
def test_a_wrong_incident_is_refused(wrong, code):
    with pytest.raises(ScenarioError, match=code):
        Trouble(*wrong)


def test_an_incident_cannot_lead_out_of_the_model():
    with pytest.raises(ScenarioError, match="E118"):
        lived(3, Trouble("kvp_change", 1, params={"kvp": 200.0}))


def test_false_quarantines_of_sound_scanners_are_rare():
    days = [len(lived(200, rules=Rules(workload=Workload(exams=0)), seed=seed).log.state.quarantine) for seed in range(3)]
    assert sum(days) <= 2


@pytest.mark.slow
def test_two_years_of_twenty_scanners_take_less_than_a_minute_on_two_cores():
    began = time.process_time()
    devices = [Device.new(f"ct-{number:02d}", seed=7, scanner=Scanner()) for number in range(20)]
    for device in devices:
        while device.day < 730:
            device.live()
    assert time.process_time() - began < 2 * 60
    for device in devices:
        assert device.log.state.lifecycle in lifecycle.NEXT
        assert DeviceLog.read(device.log.lines()).state == device.log.state
