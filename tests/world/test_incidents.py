"""Incidents say what they do in a sentence, and contradictions are refused before anything runs."""

from __future__ import annotations

import math

import pytest

from p2pftl.errors import ScenarioError
from p2pftl.policies import find, registered
from p2pftl.world.device_incidents import DoseChange, HuDrift
from p2pftl.world.incidents import (
    Crash,
    CutLink,
    Incident,
    Join,
    Leave,
    Outage,
    Partition,
    SlowLink,
    SlowScanner,
)
from p2pftl.world.timeline import check_incidents
from p2pftl.world.topologies import Epidemic, Ring
from tests.world.test_device_incidents import CLASSES

RING = Ring(6).build(0)
A, B, C, D, E, F = RING.names

SENTENCES = [
    (Outage(A, 120, 240), "ct-01 is off from 120 s to 240 s."),
    (Outage("cloud", 120), "The cloud is off from 120 s on."),
    (Partition(((A, B), (C,)), 60, 90), "The network is split into ct-01, ct-02 | ct-03 | any others from 60 s to 90 s."),
    (Partition((RING.names,), 0.5), "The network is split into ct-01, ct-02, ct-03, ct-04 and 2 more | any others from 0.5 s on."),
    (SlowLink((A, "cloud"), 60, None, 10), "The link ct-01 - the cloud is 10 times slower from 60 s on."),
    (CutLink((A, B), 60), "The link ct-01 - ct-02 is cut from 60 s on."),
    (SlowScanner(A, 1e6, factor=2.5), "ct-01 computes 2.5 times slower from 1000000 s on."),
    (Join(A, 30), "ct-01 joins at 30 s."),
    (Leave(A, 30), "ct-01 leaves for good at 30 s."),
    (Crash("cloud", 30), "The cloud crashes at 30 s and is revived 5 s later."),
]


@pytest.mark.parametrize(("incident", "sentence"), SENTENCES, ids=lambda value: str(value)[:30])
def test_every_incident_is_one_plain_sentence(incident: Incident, sentence: str) -> None:
    assert incident.text() == sentence
    assert incident.spans()[0] <= incident.spans()[1]


def test_every_registered_incident_is_covered_here() -> None:
    assert {type(incident) for incident, _ in SENTENCES} | CLASSES == {find("incident", name) for name in registered("incident")}
    assert all(find("incident", name).kind == name for name in registered("incident"))


def test_without_until_an_incident_lasts_for_ever() -> None:
    assert Outage(A, 5).spans() == (5, math.inf)
    assert Crash(A, 5, 2).spans() == (5, 7)
    assert Join(A, 5).spans() == (5, 5)


GOOD: tuple[Incident, ...] = (
    Outage(A, 10, 20), Outage(A, 15, 25), Crash(A, 22), Leave(A, 60), Join(B, 5), SlowLink((A, "cloud"), 0), SlowLink((A, B), 0),
    CutLink((F, A), 0, 9), Partition(((A, B, C),), 5, 9), Partition(((A, "cloud"), (B,)), 5, 9), HuDrift(C, 5), DoseChange(C, 5),
    Outage("cloud", 1),
)  # fmt: skip


def test_a_sensible_timeline_passes() -> None:
    check_incidents(GOOD, RING, cloud=True)


BAD: list[tuple[tuple[Incident, ...], str, str]] = [
    ((Outage("ct_04", 1),), "E120", "did you mean ct-04"),
    ((Outage("cloud", 1),), "E120", "unknown twin 'cloud'"),
    ((GOOD[0], HuDrift("nobody", 1)), "E120", r"incidents\[1\]"),
    ((HuDrift(A, 20, 10),), "E121", "later than at"),
    ((CutLink((A, C), 1),), "E120", "ct-01 has links to ct-02, ct-06"),
    ((SlowLink((A, A), 1),), "E120", "two ends"),
    ((Outage(A, 20, 10),), "E121", "not after its beginning"),
    ((Outage(A, 20, 20),), "E121", "later than at"),
    ((Outage(A, 20), Crash(A, 30)), "E121", "gone for good at 20 s"),
    ((Leave(A, 20), Outage(A, 20, 30)), "E121", "gone for good"),
    ((Leave(A, 20), Join(A, 30)), "E121", "gone for good"),
    (tuple(Leave(name, 10 + i) for i, name in enumerate(RING.names)), "E122", "no twin is left from 15 s on"),
    ((Partition(((A, B), (B, C)), 1),), "E123", "overlap: ct-02"),
    ((Partition(((A,), ()), 1),), "E123", "empty group"),
    ((Partition((), 1),), "E123", "empty group"),
    ((Partition((RING.names,), 1),), "E123", "every twin"),
    ((Join(A, 5), Join(A, 6)), "E128", "two join"),
]


@pytest.mark.parametrize(("incidents", "code", "says"), BAD, ids=lambda value: str(value)[:40])
def test_contradictions_are_refused(incidents: tuple[Incident, ...], code: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=says) as caught:
        check_incidents(incidents, RING, cloud=False)
    assert caught.value.code == code


def test_the_cloud_has_no_scanner() -> None:
    for incident in (SlowScanner("cloud", 1), HuDrift("cloud", 1)):
        with pytest.raises(ScenarioError, match="no scanner"):
            check_incidents((incident,), RING, cloud=True)


def test_in_a_graph_that_changes_any_pair_may_be_cut() -> None:
    check_incidents((CutLink((A, D), 1),), Epidemic(2, 6).build(0), cloud=False)
