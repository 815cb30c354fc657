"""Life and trust of a device: steps it has, advice that only a human answers, windows that reach back."""

import itertools

import pytest

from p2pftl.device import checkup
from p2pftl.device.health import fingerprint, health, load, shared, summary
from p2pftl.device.lifecycle import NEXT, SERVICES, Move, acknowledge, advise, after_qa, maintain, move, quality, quarantined
from p2pftl.device.log import DeviceLog
from p2pftl.device.protocol import Reading
from p2pftl.device.qa import QaPolicy
from p2pftl.device.surrogates import Surrogates
from p2pftl.device.tube import DAY
from p2pftl.errors import UsageError

POLICY = QaPolicy()


def phantom(log, t, status, **values):
    passed = {"last_pass": t} if status == "pass" else {}
    log.record("qa", t, "qa", {"values": {"status": status, "reason": "", **passed, **values}})


def active(days=3):
    log = DeviceLog.create("ct-01", 0.0)
    phantom(log, 0.0, "pass", **{"baseline.n": 20})
    move(log, 0.0, Move("baseline", "first"))
    move(log, 0.0, Move("active", "baseline"))
    for day in range(1, days + 1):
        phantom(log, float(day), "pass")
    return log


def test_only_the_steps_of_the_table_are_possible():
    for now, then in itertools.product(NEXT, NEXT):
        log = DeviceLog.create("ct-01", 0.0)
        log.record("lifecycle", 0.0, "log", {"to": now, "reason": ""})
        if then in NEXT[now]:
            move(log, 1.0, Move(then, "test"))
            assert log.state.lifecycle == then
        else:
            with pytest.raises(UsageError, match="E613"):
                move(log, 1.0, Move(then, "test"))


def test_every_state_can_be_reached_and_all_but_retired_left():
    reached, border = {"commissioning"}, ["commissioning"]
    while border:
        fresh = NEXT[border.pop()] - reached
        reached |= fresh
        border += fresh
    assert reached == NEXT.keys()
    assert [name for name, following in NEXT.items() if not following] == ["retired"]


def test_quarantine_reaches_back_to_the_last_phantom_that_passed_and_ends_with_verification():
    log = active()
    phantom(log, 4.0, "warn")
    phantom(log, 5.0, "fail")
    move(log, 5.0, after_qa(log.state, "fail", ("water +7 HU",), POLICY))
    assert [quarantined(log.state, t) for t in (2.9, 3.0, 4.5, 50.0)] == [False, True, True, True]
    move(log, 6.0, Move("maintenance", "service"))
    move(log, 7.0, Move("verifying", "mended"))
    for t in (7.0, 8.0):
        phantom(log, t, "pass")
        assert after_qa(log.state, "pass", (), POLICY) is None
    phantom(log, 9.0, "pass")
    move(log, 9.0, after_qa(log.state, "pass", (), POLICY))
    assert log.state.lifecycle == "active"
    assert [quarantined(log.state, t) for t in (3.0, 8.9, 9.0)] == [True, True, False]


def test_a_phantom_that_fails_in_verification_begins_the_count_anew():
    log = active()
    for step in ("quarantined", "maintenance", "verifying"):
        move(log, 4.0, Move(step, "test"))
    for t, status in ((5.0, "pass"), (6.0, "pass"), (7.0, "warn"), (8.0, "pass"), (9.0, "pass")):
        phantom(log, t, status)
        assert after_qa(log.state, status, (), POLICY) is None
    phantom(log, 10.0, "pass")
    assert after_qa(log.state, "pass", (), POLICY).to == "active"
    phantom(log, 11.0, "fail")
    assert after_qa(log.state, "fail", ("x",), POLICY).to == "quarantined"


def test_after_a_new_tube_a_verified_device_learns_a_baseline_first():
    log = active()
    for step in ("quarantined", "maintenance"):
        move(log, 4.0, Move(step, "test"))
    maintain(log, 4.5, "tube_replace", by="service", downtime_h=30)
    move(log, 5.0, Move("verifying", "mended"))
    for t in (5.0, 6.0, 7.0):
        phantom(log, t, "pass")
    assert after_qa(log.state, "pass", (), POLICY).to == "baseline"


@pytest.mark.parametrize(("state", "status", "expected"), [
    ("active", "pass", 1.0), ("active", "warn", 0.5), ("warn", "pass", 0.5), ("active", "stale", 0.5), ("active", "fail", 0.0),
    ("quarantined", "pass", 0.0), ("maintenance", "pass", 0.0), ("verifying", "pass", 0.0), ("offline", "pass", 0.0),
    ("commissioning", "pass", 0.0), ("baseline", "pass", 1.0),
])  # fmt: skip
def test_quality_follows_lifecycle_and_phantom(state, status, expected):
    log = active()
    log.record("lifecycle", 4.0, "log", {"to": state, "reason": ""})
    phantom(log, 4.0, status)
    assert quality(log.state) == expected
    assert quality(log.state, stale=True) <= 0.5


def test_who_just_rejoined_is_half_trusted_until_the_next_phantom():
    log = active()
    for step in ("quarantined", "maintenance", "verifying", "active"):
        move(log, 4.0, Move(step, "test"))
    assert quality(log.state) == 0.5
    phantom(log, 5.0, "pass")
    assert quality(log.state) == 1.0


def test_an_advice_waits_for_a_human_and_never_acts():
    log = active()
    log.record("observed", 3.0, "header", {"values": {"config.mas": 100.0}})
    advise(log, 4.0, "config.mas", 120.0, "noise 12 % above baseline")
    assert log.state.desired["config.mas"].at is None
    acknowledge(log, 5.0, "config.mas", "physicist", accepted=True)
    assert log.state.get("config.mas") == 100.0
    log.record("observed", 6.0, "header", {"values": {"config.mas": 120.0}})
    assert log.state.get("config.mas") == 120.0


@pytest.mark.parametrize("wrong", [("qa.status", "pass"), ("config.colour", 1), ("config.mas", None)])
def test_what_is_no_setting_of_the_device_cannot_be_advised(wrong):
    with pytest.raises(UsageError, match="E613"):
        advise(active(), 4.0, *wrong, "test")


def test_nobody_acknowledges_what_was_not_advised_or_without_a_name():
    log = active()
    with pytest.raises(UsageError, match="E613"):
        acknowledge(log, 4.0, "config.mas", "physicist", accepted=True)
    advise(log, 4.0, "config.mas", 120.0, "noise")
    with pytest.raises(UsageError, match="E613"):
        acknowledge(log, 4.0, "config.mas", "", accepted=True)


def test_services_are_recorded_in_order_and_only_known_ones():
    log = active()
    for number, kind in enumerate(SERVICES):
        maintain(log, 4.0 + number, kind, by="service")
    assert [record["kind"] for record in log.state.maintenance] == list(SERVICES)
    with pytest.raises(UsageError, match="E613"):
        maintain(log, 9.0, "exorcism")


def test_health_is_missing_before_it_is_known_and_falls_to_zero_at_the_limits():
    log = DeviceLog.create("ct-01", 0.0)
    found = health(log.state, 0.0, 1.0, POLICY)
    assert found["health.calibration"] is None
    assert found["health.data_freshness"] == 0
    values = {
        "last.mean": 2.5,
        "last.sd": 6.0,
        "last.unif": 5.0,
        "baseline.sd": 5.0,
        "baseline.n": 20,
        "last.nps_f": 0.35,
        "last.mtf50": 0.5,
    }
    phantom(log, 1.0, "pass", **values)
    log.record("observed", 1.0, "qa", {"values": {"sync.last_qa": 1.0}})
    found = health(log.state, 1.0, 1.0, POLICY)
    assert (found["health.calibration"], found["health.uniformity"]) == (0.5, 0.0)
    assert found["health.noise"] == pytest.approx(0)
    assert found["health.data_freshness"] == 1
    assert fingerprint(log.state) is None
    log.record("observed", 1.0, "header", {"values": {"config.slice_mm": 1.0, "config.kvp": 120.0}})
    assert fingerprint(log.state)[3:] == [0.0, 6.0, 5.0]
    log.record("observed", 2.0, "log", {"values": summary(log.state, 2.0, 1.0, POLICY, per_day=330.0)})
    assert log.state.get("tube.rul_days.p10") < log.state.get("tube.rul_days.p50") < log.state.get("tube.rul_days.p90")


def reading(mean=0.0, sd=5.7):
    return Reading(mean=mean, sd=sd, unif=0.2, air=-1000.0, ring=0.27, mtf50=0.51, nps_f=0.35)


def test_phantoms_of_a_real_device_lead_it_through_its_life():
    log = DeviceLog.create("ct-09", 0.0, source="log")
    for day in range(25):
        checkup.phantom(log, reading(), day * DAY, POLICY)
    assert log.state.lifecycle == "active"
    assert log.state.leaf("qa.last.mean").source == "qa"
    assert log.state.get("sync.noise_residual_pct") is None
    verdict = checkup.phantom(log, reading(mean=-9.0), 25 * DAY, POLICY, expected=5.0)
    assert verdict.status == "fail"
    assert log.state.lifecycle == "quarantined"
    assert log.state.get("sync.noise_residual_pct") == pytest.approx(14)
    assert log.state.quarantine[0]["since"] == 24 * DAY


def test_an_alarm_without_a_second_phantom_is_a_warning_and_with_one_it_is_decided():
    for again, expected in ((None, "warn"), (reading, "active"), (lambda: reading(2.5), "quarantined")):
        log = DeviceLog.create("ct-09", 0.0)
        for day in range(26):
            checkup.phantom(log, reading(2.5 if day >= 24 else 0.0), day * DAY, POLICY, again=again)
        assert log.state.lifecycle == expected


def test_staleness_is_recorded_once_and_only_of_trusted_devices():
    log = active()
    log.record("observed", 3.0, "qa", {"values": {"sync.last_qa": 3.0}})
    assert not checkup.stale(log, 4.0, 1.0, POLICY)
    assert checkup.stale(log, 6.0, 1.0, POLICY)
    known = len(log)
    assert checkup.stale(log, 7.0, 1.0, POLICY)
    assert len(log) == known
    assert (log.state.lifecycle, log.state.get("qa.status")) == ("warn", "stale")


def test_patients_warn_without_moving_the_lifecycle():
    log = active()
    assert checkup.patients(log, [Surrogates(-950.0, -60.0, None)], 4.0) == "warn"
    assert log.state.lifecycle == "active"
    assert log.state.get("qa.surrogate.air") == -950
    assert log.state.leaf("qa.surrogate.aorta").quality == "missing"
    assert quality(log.state) == 1


def test_a_load_needs_a_week_and_a_known_beginning():
    log = active()
    assert load(log.state, 9e9, DAY) == 0
    log.record("observed", 0.0, "log", {"values": {"tube.installed": 0.0}})
    log.record("exposed", 1.0, "rdsr", {"kvp": 120, "ma": 200, "s": 10})
    assert load(log.state, 6 * DAY, DAY) == 0
    assert load(log.state, 10 * DAY, DAY) == pytest.approx(log.state.get("tube.damage") / 10)


def test_peers_learn_four_things_and_no_others():
    log = active()
    log.record("observed", 3.0, "header", {"values": {"attributes.serial_hmac": "secret", "config.kernel_group": "bone"}})
    assert shared(log.state) == {"fingerprint": None, "q": 1.0, "lifecycle": "active", "kernel_group": "bone"}
