"""A model that got worse raises a flag at its scanner, which asks for a phantom and stops nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest

from p2pftl import events as facts
from p2pftl.device import show
from p2pftl.device.coupling import Coupling
from p2pftl.device.flag import SAME_DAY
from p2pftl.device.log import DeviceLog
from p2pftl.device.troubles import Trouble
from p2pftl.learning.task import Scene
from p2pftl.mirror import Mirror
from p2pftl.observe.chronicle import Chronicle
from p2pftl.observe.fleet import Fleet
from p2pftl.params import Vector
from p2pftl.world.topologies import Ring
from tests.toys import Pull, Ward, play, toy

GOOD, FALLEN = 0.8, 0.4
FALL = (GOOD, GOOD, FALLEN, FALLEN)


def followed(mirror: Mirror, values: Sequence[float | None], metric: str = "map_50", since: int = 0) -> list[Any]:
    """What is told if one value is scored in the middle of each day."""
    told: list[Any] = []
    for round, value in enumerate(values, since):
        told += mirror.advance(round + 0.3, round)
        mirror.scored({metric: value}, round + 0.5)
    return told + mirror.advance(since + len(values) + 0.0, since + len(values))


def flags(mirror: Mirror) -> list[tuple[float, str]]:
    return [
        (round(entry.fact.t, 3), ("up: " if entry.fact.data["up"] else "down: ") + entry.fact.data["text"])
        for entry in mirror.device.log.entries
        if entry.fact.kind == "model_flag"
    ]


@pytest.mark.parametrize(("metric", "name"), [("map_50", "mAP@0.5"), ("accuracy", "accuracy")])
def test_a_fall_that_lasts_raises_the_flag_and_a_passing_phantom_of_the_same_day_clears_it(metric: str, name: str) -> None:
    mirror = Ward()("ct-02")
    told = followed(mirror, FALL, metric)
    assert flags(mirror) == [(3.5, f"up: validation {name} fell from 0.80 to 0.40"), (3.5 + SAME_DAY, "down: the phantom passes")]
    phantoms = [entry.fact.t for entry in mirror.device.log.entries if entry.fact.kind == "qa" and entry.fact.t >= 3]
    assert phantoms == [3.0, 3.5 + SAME_DAY, 4.0]
    reasons = [event.reason for event in told if isinstance(event, facts.DeviceChanged)]
    assert f"validation {name} fell from 0.80 to 0.40" in reasons
    assert DeviceLog.read(mirror.device.log.lines(), expected=mirror.device.log.head).head == mirror.device.log.head


def test_the_flag_takes_nothing_from_the_scanner_and_its_peers_hear_nothing_of_it() -> None:
    calm, fallen = Ward()("ct-02"), Ward()("ct-02")
    followed(calm, (GOOD,) * 4)
    for round, value in enumerate(FALL):
        fallen.advance(round + 0.3, round)
        fallen.scored({"map_50": value}, round + 0.5)
    fallen.advance(3.55, 3)
    assert fallen.device.log.state.get("maintenance.flag")
    assert (fallen.withheld, fallen.signs.quality, fallen.signs.lifecycle) == ("", 1.0, "active")
    assert fallen.signs.fingerprint == calm.signs.fingerprint or fallen.signs.lifecycle == calm.signs.lifecycle
    assert not fallen.device.log.state.quarantine


@pytest.mark.parametrize(
    "values",
    [(GOOD, FALLEN, GOOD, FALLEN, GOOD), (GOOD, 0.7, 0.66, 0.7), (0.1, 0.3, 0.5, 0.7), (None, None, None), (FALLEN, FALLEN, FALLEN)],
    ids=["one at a time", "by little", "learning", "undefined", "never better"],
)
def test_scatter_and_learning_raise_no_flag(values: Sequence[float | None]) -> None:
    mirror = Ward()("ct-02")
    followed(mirror, values)
    assert flags(mirror) == []


def test_the_flag_can_be_switched_off() -> None:
    mirror = Ward(coupling=Coupling(drop=0.0))("ct-02")
    followed(mirror, FALL)
    assert flags(mirror) == []


def test_without_phantoms_the_flag_stays_up_until_quality_is_back() -> None:
    mirror = Ward(troubles={"ct-02": (Trouble("missed_qa", 26, 60),)})("ct-02")
    followed(mirror, FALL)
    state = mirror.device.log.state
    assert "fell from 0.80 to 0.40" in show.show(state)
    assert "model_flag    raised: validation mAP@0.5 fell" in show.history(mirror.device.log)
    assert [text for _, text in flags(mirror)] == ["up: validation mAP@0.5 fell from 0.80 to 0.40"]
    followed(mirror, (FALLEN, 0.75), since=4)
    assert flags(mirror)[1:] == [(5.5, "down: validation mAP@0.5 is back at 0.75")]


def test_where_the_phantom_fails_its_verdict_decides_and_the_flag_waits_for_one_that_passes() -> None:
    mirror = Ward(troubles={"ct-02": (Trouble("hu_step", 28.3, params={"hu": 9.0}),)})("ct-02")
    told = followed(mirror, (*FALL, *(FALLEN,) * 5))
    log = mirror.device.log.entries
    fell = next(entry.fact.t for entry in log if entry.fact.kind == "model_flag")
    quarantined = next(entry.fact for entry in log if entry.fact.kind == "lifecycle" and entry.fact.data["to"] == "quarantined")
    assert (fell, quarantined.t) == (3.5, 3.5 + SAME_DAY), "half a day before the next morning's phantom would have shown it"
    assert "HU" in quarantined.data["reason"]
    (_, _), (cleared, why) = flags(mirror)
    assert why == "down: the phantom passes"
    assert cleared > quarantined.t + 1
    both = [event.reason for event in told if isinstance(event, facts.DeviceChanged) and event.lifecycle == "quarantined"]
    assert all("allowed 5" in reason and "fell from" in reason for reason in both)
    assert both


def test_after_a_passing_phantom_the_model_is_measured_against_what_it_is_now() -> None:
    mirror = Ward()("ct-02")
    followed(mirror, (*FALL, FALLEN, FALLEN, FALLEN))
    assert len(flags(mirror)) == 2
    followed(mirror, (0.1, 0.1), since=7)
    assert [text for _, text in flags(mirror)][2:] == ["up: validation mAP@0.5 fell from 0.40 to 0.10", "down: the phantom passes"]


@pytest.mark.parametrize("after", [0.2, 0.0], ids=["later", "at once"])
@pytest.mark.parametrize("upto", range(1, 9))
def test_a_mirror_resumed_with_a_flag_goes_on_with_the_same_events(upto: int, after: float) -> None:
    troubles = {"ct-02": (Trouble("hu_step", 30.6, params={"hu": 8.0}),)}
    made, values = Ward(troubles=troubles), (*FALL, GOOD, FALLEN, FALLEN, FALLEN, FALLEN, FALLEN, FALLEN)
    whole, revived = made("ct-02"), made("ct-02")

    def lived(mirror: Mirror, rounds: range) -> list[bytes]:
        packed = []
        for round in rounds:
            packed += [facts.pack(event) for event in mirror.advance(round + 0.3, round)]
            mirror.scored({"map_50": values[round]}, round + 0.3 + after)
        return packed

    lived(whole, range(upto))
    revived.resume(msgpack.unpackb(msgpack.packb(whole.memory())))
    assert lived(whole, range(upto, len(values))) == lived(revived, range(upto, len(values)))
    assert whole.memory() == revived.memory()
    assert len(flags(whole)) >= 3


# ---------------------------------------------------------------------- in a run, and for a reader


@dataclass(frozen=True)
class Falls(Pull):
    """The first twin's detector falls in round 6, for two rounds."""

    def score(self, vector: Vector, split: str, scene: Scene, round: int) -> Mapping[str, Any]:
        return {"map_50": FALLEN if self.name == "ct-01" and round in (6, 7) else GOOD, "accuracy": GOOD}


def test_in_a_run_only_the_fallen_twin_is_flagged_and_every_order_tells_the_same(tmp_path: Path) -> None:
    run = toy(Ring(twins=4).build(1), rounds=12, mirror=Ward(day_s=0.5), task=Falls, rate=0.2)
    outcome = play(run, tmp_path)
    told = [
        (event.twin, entry["data"]["up"])
        for event in outcome.of(facts.DeviceLogged)
        for entry in event.entries
        if entry["kind"] == "model_flag"
    ]
    assert told == [("ct-01", True), ("ct-01", False)]
    assert not outcome.of(facts.UpdateWithheld)
    assert play(run, tmp_path, shuffle=3).digest == outcome.digest
    fleet, chronicle = Fleet(), Chronicle()
    said = []
    for event in outcome.events:
        if event.twin == "ct-01" and isinstance(event, facts.DeviceLogged | facts.DeviceChanged):
            said.append(fleet.take(event))
            chronicle.feed(event)
    scanner = fleet.of("ct-01")
    assert scanner is not None
    assert (scanner.flag, scanner.flags) == ("", 1)
    assert [text for _, up, text in chronicle.flags] == ["validation mAP@0.5 fell from 0.80 to 0.40", "the phantom passes"]
    assert [one for one in said if one] == [
        ("warn", "the model of ct-01 got worse, its scanner is to be looked at: validation mAP@0.5 fell from 0.80 to 0.40"),
        ("good", "the flag at the scanner of ct-01 is cleared: the phantom passes"),
    ]
