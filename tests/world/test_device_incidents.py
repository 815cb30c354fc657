"""Incidents of scanners: one sentence each, in seconds or in device days, and the device knows every one of them."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any

import pytest

from p2pftl.device.troubles import KINDS, MOMENTS, Trouble
from p2pftl.errors import ScenarioError
from p2pftl.world.device_incidents import (
    TIMES,
    AirCalibration,
    ArcBurst,
    CaseMixShift,
    ClockSkew,
    Cupping,
    DoseChange,
    GainDrift,
    HuDrift,
    HuStep,
    KernelChange,
    KvpChange,
    Lasting,
    LyingQa,
    MissedQa,
    Moment,
    Ring,
    SliceChange,
    SoftwareUpgrade,
    TubeFailure,
    TubeReplace,
    TubeWear,
    WaterCalibration,
    in_seconds,
)
from p2pftl.world.incidents import DeviceFault, Outage

A = "ct-01"
SENTENCES: list[tuple[Moment, str]] = [
    (HuDrift(A, 300, rate=0.5), "The CT numbers of ct-01 drift by +0.5 HU per day from 300 s on."),
    (HuDrift(A, day=30, until_day=40, rate=-1), "The CT numbers of ct-01 drift by -1 HU per day from device day 30 to 40."),
    (HuStep(A, 0, 60, hu=8), "The CT numbers of ct-01 are off by +8 HU from 0 s to 60 s."),
    (GainDrift(A, 5, rate=0.001), "The gain of ct-01 drifts by +0.1 % per day from 5 s on."),
    (Ring(A, 5, hu=6), "The images of ct-01 have rings (6 HU) from 5 s on."),
    (Ring(A, 5, eps=0.002), "The images of ct-01 have rings (channels 0.2 % off) from 5 s on."),
    (Cupping(A, 5, hu=6), "The images of ct-01 are cupped by 6 HU from 5 s on."),
    (TubeWear(A, 5, share=0.5), "The tube of ct-01 wears by 0.5 of its life at 5 s."),
    (ArcBurst(A, day=2, count=25), "The tube of ct-01 arcs 25 times on device day 2."),
    (TubeFailure(A, 5), "The tube of ct-01 fails at 5 s."),
    (TubeReplace(A, 5), "ct-01 gets a new tube at 5 s."),
    (AirCalibration(A, 5), "ct-01 is calibrated in air at 5 s."),
    (WaterCalibration(A, 5), "ct-01 is calibrated in water at 5 s."),
    (SoftwareUpgrade(A, 5, kernel="bone"), "ct-01 gets new software and the bone kernel at 5 s."),
    (SoftwareUpgrade(A, 5), "ct-01 gets new software at 5 s."),
    (DoseChange(A, 300, 400, factor=0.5), "ct-01 scans with 0.5 times its dose from 300 s to 400 s."),
    (KvpChange(A, 5, kvp=100), "ct-01 scans with 100 kV from 5 s on."),
    (KernelChange(A, 5, kernel="bone"), "ct-01 reconstructs with the bone kernel from 5 s on."),
    (SliceChange(A, 5, slice_mm=3), "ct-01 scans slices of 3 mm from 5 s on."),
    (MissedQa(A, day=4), "Nobody scans the phantom of ct-01 from device day 4 on."),
    (LyingQa(A, 5), "The phantom of ct-01 shows no fault whatever is wrong from 5 s on."),
    (CaseMixShift(A, 5, labels={"ggo": 0.9}), "Other patients come to ct-01 (ggo 0.9) from 5 s on."),
    (ClockSkew(A, 5, seconds=-60), "The clock of ct-01 is off by -60 s from 5 s on."),
]
CLASSES = {type(incident) for incident, _ in SENTENCES}
IDS = [incident.kind for incident, _ in SENTENCES]


@pytest.mark.parametrize(("incident", "sentence"), SENTENCES, ids=IDS)
def test_every_incident_is_one_plain_sentence(incident: Moment, sentence: str) -> None:
    assert incident.text() == sentence


@pytest.mark.parametrize(("incident", "sentence"), SENTENCES, ids=IDS)
def test_every_incident_is_one_that_a_device_can_live_through(incident: Moment, sentence: str) -> None:
    (fault,) = incident.on(60.0).effects()
    assert isinstance(fault, DeviceFault)
    trouble = Trouble(fault.kind, fault.start, fault.stop, fault.params)
    assert all(trouble[name] == value for name, value in fault.params.items())


def test_the_incidents_are_those_a_device_knows_with_the_same_parameters() -> None:
    assert {cls.kind for cls in CLASSES} == KINDS.keys() - {"outage"}  # an outage is the twin's, its scanner goes on
    assert {cls.kind for cls in CLASSES if not issubclass(cls, Lasting)} == MOMENTS
    for cls in CLASSES:
        own = {item.name: item.default for item in fields(cls) if item.name not in TIMES}
        assert own.keys() == KINDS[cls.kind].keys()
        for name, default in KINDS[cls.kind].items():
            assert own[name] == default or default in (None, {}), (cls.kind, name)
            assert own[name] is not MISSING or default in (None, {}), (cls.kind, name)


def test_device_days_become_virtual_seconds() -> None:
    drift = HuDrift(A, day=30, until_day=40.5, rate=0.5)
    assert drift.on(3600.0) == HuDrift(A, 108_000, 145_800, rate=0.5)
    assert drift.on(3600.0).spans() == (108_000, 145_800)
    assert HuDrift(A, 7).on(3600.0) == HuDrift(A, 7)
    assert TubeFailure(A, day=2).on(10.0).spans() == (20, 20)
    assert HuDrift(A, day=2).on(10.0).spans() == (20, math.inf)
    assert in_seconds([Outage(A, 5), ArcBurst(A, day=1, count=1)], 10.0) == (Outage(A, 5), ArcBurst(A, 10, count=1))
    with pytest.raises(ValueError, match="device days"):
        drift.spans()


def test_the_effect_says_what_and_how_much() -> None:
    assert Ring(A, 5, 9, hu=6, channels=3).effects() == (DeviceFault(A, "ring", 5, 9, {"hu": 6, "eps": 0.0, "channels": 3}),)
    assert TubeFailure(A, 5).effects() == (DeviceFault(A, "tube_failure", 5, math.inf, {"downtime_h": 0.0}),)


WRONG: list[tuple[type[Moment], dict[str, Any], str]] = [
    (MissedQa, {}, "E110"),
    (TubeFailure, {}, "E110"),
    (MissedQa, {"at": 1, "day": 1}, "E128"),
    (MissedQa, {"at": 1, "until_day": 2}, "E128"),
    (MissedQa, {"day": 1, "until": 2}, "E128"),
    (MissedQa, {"day": 2, "until_day": 2}, "E121"),
    (Ring, {"at": 1}, "E128"),
    (Ring, {"at": 1, "hu": 2, "eps": 0.1}, "E128"),
    (CaseMixShift, {"at": 1, "labels": {"a": 0.6, "b": 0.6}}, "E118"),
]


@pytest.mark.parametrize(("cls", "given", "code"), WRONG)
def test_times_and_amounts_that_contradict_each_other_are_refused(cls: type[Moment], given: dict[str, Any], code: str) -> None:
    with pytest.raises(ScenarioError, match=code):
        cls(A, **given)
