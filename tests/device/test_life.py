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
from p2pftl.device.troubles import KINDS, MOMENTS, Trouble, rehearse
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
        (("tube_wear", 1.0, math.inf, {"share": -0.1}), "E118"), (("arc_burst", 1.0, math.inf, {"count": 0}), "E118"),
        (("ring", 1.0, math.inf, {"hu": -1.0}), "E118"), (("ring", 1.0, math.inf, {"eps": -0.1}), "E118"),
        (("ring", 1.0, math.inf, {"hu": 1.0, "channels": -1}), "E118"), (("dose_change", 1.0, math.inf, {"factor": 0.0}), "E118"),
        (("tube_failure", 1.0, math.inf, {"downtime_h": -1.0}), "E118"),
    ],
)  # fmt: skip
def test_a_wrong_incident_is_refused(wrong, code):
    with pytest.raises(ScenarioError, match=code):
        Trouble(*wrong)


def test_an_incident_cannot_lead_out_of_the_model():
    with pytest.raises(ScenarioError, match="E118"):
        lived(3, Trouble("kvp_change", 1, params={"kvp": 200.0}))


def test_a_rehearsal_finds_what_would_lead_out_of_the_model_before_a_day_is_lived():
    dose = [Trouble("dose_change", day, params={"factor": 10.0, "qa": True}) for day in (1, 2)]
    for wrong in ([Trouble("kvp_change", 1, params={"kvp": 200.0})], dose):
        with pytest.raises(ScenarioError, match="E118"):
            rehearse(Scanner(), Protocol(), wrong)
    rehearse(Scanner(), Protocol(), [Trouble("kvp_change", 1, 4, {"kvp": 100.0, "qa": True}), dose[0]])


# ---------------------------------------------------------------------- the calendar


def test_days_before_the_run_are_the_same_life_at_negative_times():
    plain = lived(30)
    early = lived(30, rules=Rules(history=25, day_s=100.0, workload=CALM.workload, ageing=CALM.ageing))
    assert [entry.fact.kind for entry in early.log.entries] == [entry.fact.kind for entry in plain.log.entries]
    assert [entry.fact.t for entry in early.log.entries] == pytest.approx(
        [(entry.fact.t / DAY - 25) * 100 for entry in plain.log.entries], abs=1e-6
    )
    for path in ("qa.last.sd", "qa.baseline.n", "tube.damage", "tube.output", "health.tube", "learning.q"):
        assert early.log.state.get(path) == plain.log.state.get(path), path
    assert DeviceLog.read(early.log.lines()).state == early.log.state


def test_at_the_start_of_a_run_a_device_with_a_history_is_active():
    device = Device.new("ct-03", seed=1, rules=Rules(history=25, day_s=60.0, workload=CALM.workload, ageing=CALM.ageing))
    assert device.advance(-1e-9)
    assert device.day == 25
    assert device.log.state.lifecycle == "active"
    assert device.log.state.get("lifecycle.since") < 0
    device.advance(0.0)
    assert device.day == 26


def test_a_service_takes_as_long_before_the_run_as_within_it():
    step = Trouble("hu_step", 22, params={"hu": 9.0})
    plain, early = lived(40, step), lived(40, step, rules=Rules(history=30, workload=CALM.workload, ageing=CALM.ageing))
    assert states(early) == [(day - 30, to) for day, to in states(plain)]
    window = early.log.state.quarantine[0]
    assert window["since"] < window["until"] < 0


def test_an_incident_at_noon_is_in_the_images_of_the_afternoon_only():
    device = Device.new("ct-03", seed=1, rules=CALM, troubles=[Trouble("hu_step", 5.5, 6.25, {"hu": 20.0})])
    seen = []
    for days in (5.0, 5.4, 5.5, 6.2, 6.3):
        device.advance(days * DAY)
        seen.append(device.condition.offset)
    assert seen == pytest.approx([0, 0, 20, 20, 0], abs=1.5)


def test_a_drift_counts_from_its_moment_however_the_days_are_lived():
    rules = Rules(workload=Workload(exams=0), ageing=Ageing(day_hu=0.0, walk_hu=0.0, ring_hu=0.0))
    drift = Trouble("hu_drift", 5.5, 7.25, {"rate": 2.0})
    walked, jumped = (Device.new("ct-03", seed=1, rules=rules, troubles=[drift]) for _ in range(2))
    for hour in range(9 * 24):
        walked.advance(hour * DAY / 24)
    jumped.advance(8.99 * DAY)
    assert walked.truth.offset == jumped.truth.offset == pytest.approx(2.0 * 1.75)
    assert walked.log.lines() == jumped.log.lines()


def test_a_life_interrupted_at_noon_goes_on_as_it_was():
    troubles = [Trouble("hu_step", 5.25, params={"hu": 2.0}), Trouble("arc_burst", 5.5, params={"count": 3})]
    for noon, there in ((5.3, 1), (5.6, 2), (5.1, 0)):
        half, again = (Device.new("ct-03", seed=1, rules=CALM, troubles=troubles) for _ in range(2))
        half.advance(noon * DAY)
        again.resume(half.day, half.log.head)
        assert again.log.lines() == half.log.lines()
        assert len(again.struck) == there
        assert again.condition == half.condition


# ---------------------------------------------------------------------- what the phantom sees


def test_new_software_reconstructs_the_phantom_with_its_kernel_as_well():
    device = lived(33, Trouble("software_upgrade", 30, params={"software": "2", "kernel": "bone"}))
    sharp = daily(device, "qa.last.nps_f")
    assert sharp[30] - sharp[29] == pytest.approx(0.142, abs=0.015)
    assert device.log.state.get("qa.status") == "pass"
    assert not device.log.state.quarantine


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("dose_change", {"factor": 0.5}), ("kvp_change", {"kvp": 80.0}), ("kernel_change", {"kernel": "bone"}),
        ("slice_change", {"slice_mm": 1.5}),
    ],
)  # fmt: skip
def test_a_phantom_that_follows_a_legitimate_change_passes_with_another_baseline(kind, params):
    device = lived(90, Trouble(kind, 30, 60, {**params, "qa": True}))
    assert not device.log.state.quarantine
    noise = daily(device, "qa.baseline.sd")
    assert noise[29] == pytest.approx(noise[89], rel=0.05)
    assert noise[59] > 1.2 * noise[29]
    assert [to for _, to in states(device)] == ["baseline", "active"] * 3


def test_the_calibration_error_of_a_scanner_shows_in_its_phantom_and_once_in_images():
    device = Device.new("ct-03", seed=1, rules=Rules(workload=Workload(exams=0)), scanner=Scanner(hu_offset=30.0))
    device.live()
    assert device.log.state.get("qa.last.mean") == pytest.approx(30, abs=2.5)
    assert device.log.state.lifecycle == "quarantined"
    true = np.zeros((4, 64, 64), np.float32)
    assert device.scan(true, 4.0, "patient", 1).hu.double().mean().item() == pytest.approx(30, abs=2.5)
    while device.day < 30:
        device.live()
    assert device.log.state.lifecycle in ("baseline", "active"), "a water calibration mends it"
    assert device.scan(true, 4.0, "patient", 1).hu.double().mean().item() == pytest.approx(0, abs=2.5)


def test_a_sharp_thin_low_dose_scanner_is_no_finding_by_its_noise_alone():
    scanner = Scanner(kernel="bone", dose=0.5)
    device = Device.new("ct-03", seed=1, scanner=scanner, rules=Rules(protocol=Protocol.of(scanner), workload=Workload(exams=2)))
    while device.day < 60:
        device.live()
    assert [to for _, to in states(device)][:2] == ["baseline", "active"]
    assert not device.log.state.quarantine
    assert device.log.state.get("qa.last.sd") > 30


def test_a_phantom_is_scanned_with_the_clinical_settings_of_its_scanner():
    assert Protocol.of(Scanner(kernel="soft", kvp=100, mas=150, dose=2, slice_mm=3)) == Protocol(
        kvp=100, mas=300, slice_mm=3, kernel="soft"
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Protocol(kvp=60), lambda: Protocol(mas=0), lambda: Protocol(slice_mm=20), lambda: Protocol(kernel="sharp"),
        lambda: Rules(protocol=Protocol(diameter_mm=300)), lambda: Rules(protocol=Protocol(edge_mm=95)),
        lambda: Ageing(repair_h=(8.0, 2.0)),
    ],
)  # fmt: skip
def test_a_phantom_or_a_service_that_cannot_be_is_refused(make):
    with pytest.raises(ScenarioError, match="E118"):
        make()


def test_who_comes_is_told_while_the_mix_is_another():
    device = Device.new("ct-03", seed=1, rules=CALM, troubles=[Trouble("case_mix_shift", 2.5, 4.0, {"labels": {"ggo": 1.0}})])
    told = []
    for days in (2.4, 2.6, 3.9, 4.0):
        device.advance(days * DAY)
        told.append(dict(device.labels))
    assert told == [{}, {"ggo": 1.0}, {"ggo": 1.0}, {}]


def test_a_fast_clock_does_not_delay_the_engineer():
    step = Trouble("hu_step", 30, params={"hu": 9.0})
    calm, skewed = lived(45, step), lived(45, step, Trouble("clock_skew", 29, params={"seconds": 5 * DAY}))
    assert [to for _, to in states(skewed)] == [to for _, to in states(calm)]
    assert len(skewed.log.state.maintenance) == len(calm.log.state.maintenance)


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
