"""The conductor lets everybody go as far as nothing can surprise them, loses no event, and survives every death."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.agenda import Step
from p2pftl.draw import draw
from p2pftl.errors import CheckpointError
from p2pftl.events import Event
from p2pftl.gossip.aggregators import PushSum
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import Epidemic, Nobody, Random
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import REVIVALS, Conductor, incident_events
from p2pftl.swarm.local import LocalSwarm
from p2pftl.swarm.seams import Advanced, Delivered, Died, Report
from p2pftl.world.incidents import Crash, Leave, Outage, Partition
from p2pftl.world.links import Link
from p2pftl.world.topologies import Complete, Ring, Star
from p2pftl.world.topologies import Epidemic as EpidemicGraph
from tests.history import check_history
from tests.toys import Toy, conduct, play, storm, toy

PACES = pytest.mark.parametrize("pace", [Synchronous(4.0), Asynchronous()], ids=["synchronous", "asynchronous"])


class Watched(LocalSwarm):
    """Asserts that nobody was told to go beyond a frame that was still to come; counts who is busy at once."""

    def start(self, *brief: Any) -> list[Step]:
        self.promised: Counter[str] = Counter()
        self.busiest = 0
        return super().start(*brief)

    def advance(self, name: str, until: float) -> None:
        assert name not in {told for told, _ in self._told}, "one thing at a time"
        super().advance(name, until)
        self.promised[name] = until  # type: ignore[assignment]
        self.busiest = max(self.busiest, len(self._told))

    def _deliver(self, turn: int) -> Delivered:
        parcel = self._flying[turn]
        assert all(arrival >= self.promised[parcel.receiver] for arrival in parcel.arrives)
        return super()._deliver(turn)


class Frail(LocalSwarm):
    """Participants that die when told to advance for the n-th time: name -> those n, counted over all lives."""

    def __init__(self, deaths: dict[str, Sequence[int]], *, shuffle: np.random.Generator | None = None, revivable: bool = True) -> None:
        super().__init__(shuffle=shuffle)
        self.deaths, self.revivable = deaths, revivable
        self.advanced: Counter[str] = Counter()

    def completed(self) -> Sequence[Report]:
        for name, _ in self._told:
            if self.advanced[name] + 1 in self.deaths.get(name, ()):
                self.advanced[name] += 1
                self.kill(name)
                return [Died((name,), "its process is gone")]
        reports = super().completed()
        self.advanced.update(report.step.name for report in reports if isinstance(report, Advanced))
        return reports

    def revive(self, name: str, incarnation: int, at: float) -> Step:
        if not self.revivable:
            raise CheckpointError("E501", "no saved state")
        return super().revive(name, incarnation, at)


# ---------------------------------------------------------------------- safe times


@PACES
@pytest.mark.parametrize("shuffle", [None, 0, 1, 2])
def test_no_frame_ever_arrives_in_its_receivers_past(pace: Any, shuffle: int | None, tmp_path: Path) -> None:
    for run in (storm(pace=pace), storm(pace=pace, aggregator=PushSum(), partners=Epidemic(2))):
        conduct(run, Watched(shuffle=None if shuffle is None else np.random.default_rng(shuffle)), tmp_path)


def test_all_fits_of_a_round_may_run_at_once(tmp_path: Path) -> None:
    swarm = Watched(shuffle=np.random.default_rng(0))
    conduct(toy(Complete(twins=6).build(1)), swarm, tmp_path)
    assert swarm.busiest == 6


def test_unequal_scanners_do_not_take_turns(tmp_path: Path) -> None:
    """While the slow hub fits, its fast leaves go on."""
    swarm = Watched(shuffle=np.random.default_rng(0))
    run = toy(Star(twins=5).build(1), pace=Asynchronous(), speeds={"ct-01": 0.1, "ct-02": 2.0, "ct-03": 3.0}, rounds=6)
    conduct(run, swarm, tmp_path)
    assert swarm.busiest >= 4


def test_twins_without_links_between_them_never_wait(tmp_path: Path) -> None:
    class Counted(Watched):
        calls = 0

        def advance(self, name: str, until: float) -> None:
            Counted.calls += 1
            super().advance(name, until)

    conduct(toy(rounds=4, partners=Nobody(), link=Link(latency=1000.0)), Counted(), tmp_path)
    assert Counted.calls == 8 * 5


@pytest.mark.parametrize("latency", [0.0, 1e-9, 0.05, 300.0])
def test_time_goes_on_whatever_the_latency(latency: float, tmp_path: Path) -> None:
    outcome = play(toy(rounds=3, link=Link(latency=latency), pace=Synchronous(1000.0)), tmp_path)
    assert len(outcome.of(facts.TwinDone)) == 8
    assert outcome.events[-1].t == pytest.approx(3 * (0.5 + latency), rel=0.01)


def test_who_can_never_go_on_is_named() -> None:
    run = toy(Ring(names=("a", "b")).build(1))
    stuck = [Step(name, (), (), next=5.0, sends=0.0, reacts=0.0, round_done=False, done=False) for name in ("a", "b")]
    with pytest.raises(RuntimeError, match="virtual time stands still: a, b wait"):
        list(Conductor(run.world, LocalSwarm(), stuck))


# ---------------------------------------------------------------------- the stream of events


@PACES
def test_events_leave_in_the_order_of_time_and_name(pace: Any, tmp_path: Path) -> None:
    events = play(storm(pace=pace), tmp_path, shuffle=3).events
    assert [(event.t, event.twin) for event in events] == sorted((event.t, event.twin) for event in events)


@PACES
def test_events_leave_as_soon_as_nothing_earlier_can_come(pace: Any, tmp_path: Path) -> None:
    """Not all at the end: the live view lives from it."""
    run = toy(rounds=10, pace=pace)
    swarm = LocalSwarm()
    conductor = Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path)))
    held = [len(conductor._heap) for _ in conductor]
    assert max(held[: len(held) // 2]) < len(held) / 4


@PACES
@pytest.mark.parametrize("after", [1, 7, 40, 90])
def test_an_interrupted_run_told_the_beginning_of_the_whole_one(pace: Any, after: int, tmp_path: Path) -> None:
    class Interrupted(LocalSwarm):
        left = after

        def completed(self) -> Sequence[Report]:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().completed()

    run, told = storm(pace=pace), list[Event]()
    whole = play(run, tmp_path).events
    swarm = Interrupted()
    conductor = Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path)), incident_events(run.world.timeline()))
    with pytest.raises(KeyboardInterrupt):
        told.extend(conductor)  # keeps what was told before the interruption
    told += conductor.remaining()
    settled = [event for event in told if event.t < told[-1].t]
    assert settled == whole[: len(settled)]
    assert len(told) <= len(whole)


def test_incidents_are_told_when_they_begin_and_end_and_not_after_the_run(tmp_path: Path) -> None:
    incidents = [Outage("ct-02", 1.0, 2.0), Partition((("ct-03",),), 1.5, None), Leave("ct-04", 2.0), Outage("ct-01", 900.0, 901.0)]
    outcome = play(toy(rounds=5, incidents=incidents, pace=Synchronous(2.0)), tmp_path)
    began = [(event.kind, event.t, event.twin) for event in outcome.of(facts.IncidentBegan)]
    assert began == [("outage", 1.0, "ct-02"), ("partition", 1.5, "ct-03"), ("leave", 2.0, "ct-04")]
    assert [(event.kind, event.t) for event in outcome.of(facts.IncidentEnded)] == [("outage", 2.0)]
    assert max(event.t for event in outcome.events) == max(event.t for event in outcome.of(facts.TwinDone))


def test_the_timeline_becomes_events_of_plain_sentences() -> None:
    run = toy(incidents=[Outage("ct-02", 1.0, 2.0), Crash("ct-03", 4.0)])
    told = incident_events(run.world.timeline())
    assert [(type(event).__name__, event.t) for event in told] == [
        ("IncidentBegan", 1.0), ("IncidentEnded", 2.0), ("IncidentBegan", 4.0), ("IncidentEnded", 9.0)
    ]  # fmt: skip
    assert all(event.text.endswith(".") for event in told if isinstance(event, facts.IncidentBegan))


# ---------------------------------------------------------------------- crashes that were scripted


@PACES
def test_a_scripted_crash_is_no_degradation_and_everybody_finishes(pace: Any, tmp_path: Path) -> None:
    run = toy(rounds=10, rate=0.1, pace=pace, incidents=[Crash("ct-03", 2.2, 1.5), Crash("ct-03", 4.4, 0.5), Crash("ct-07", 2.2, 3.0)])
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert not outcome.degraded
    revived = [(event.twin, round(event.t, 3), event.incarnation) for event in outcome.of(facts.Revived)]
    assert revived == [("ct-03", 3.7, 2), ("ct-03", 4.9, 3), ("ct-07", 5.2, 2)] or sorted(revived) == sorted(
        [("ct-03", 3.7, 2), ("ct-03", 4.9, 3), ("ct-07", 5.2, 2)]
    )
    assert [(event.twin, event.rounds) for event in sorted(outcome.of(facts.TwinDone), key=lambda event: event.twin)] == [
        (name, 10) for name in run.terms.everyone
    ]


def test_frames_from_before_a_crash_are_refused_once_the_new_incarnation_was_heard(tmp_path: Path) -> None:
    link = Link(latency=0.05, jitter=8.0)
    run = toy(Complete(twins=4).build(1), rounds=30, pace=Asynchronous(), link=link, incidents=[Crash("ct-02", 6.1, 0.2)])
    outcome = play(run, tmp_path)
    old = [event for event in outcome.of(facts.FrameRefused) if event.code == "E408"]
    assert old
    assert {event.sender for event in old} == {"ct-02"}
    check_history(outcome, run)


def test_a_twin_that_is_done_does_not_crash(tmp_path: Path) -> None:
    outcome = play(toy(rounds=2, incidents=[Crash("ct-03", 500.0)]), tmp_path)
    assert not outcome.of(facts.Crashed)


# ---------------------------------------------------------------------- deaths that were not


@PACES
@pytest.mark.parametrize("shuffle", range(4))
def test_who_dies_is_revived_and_the_run_is_degraded(pace: Any, shuffle: int, tmp_path: Path) -> None:
    run = toy(rounds=10, rate=0.1, pace=pace, link=Link(jitter=0.2, loss=0.05))
    swarm = Frail({"ct-03": [9], "ct-04": [9], "ct-07": [4, 15]}, shuffle=np.random.default_rng(shuffle))
    outcome = conduct(run, swarm, tmp_path)
    crashed = Counter(event.twin for event in outcome.of(facts.Crashed) if not event.scripted)
    assert crashed == {"ct-03": 1, "ct-04": 1, "ct-07": 2}
    assert Counter(event.twin for event in outcome.of(facts.Revived)) == crashed
    assert {(event.twin, event.rounds) for event in outcome.of(facts.TwinDone)} == {(name, 10) for name in run.terms.everyone}
    assert len([why for why in outcome.degraded if "died" in why]) == 4
    times = [event.t for event in outcome.events]
    assert times == sorted(times)


@PACES
def test_who_dies_again_and_again_is_lost_and_the_others_finish(pace: Any, tmp_path: Path) -> None:
    run = toy(rounds=6, pace=pace)
    outcome = conduct(run, Frail({"ct-03": range(3, 99)}), tmp_path)
    assert [event.incarnation for event in outcome.of(facts.Crashed)] == list(range(1, REVIVALS + 2))
    assert [(event.twin, event.reason) for event in outcome.of(facts.TwinLost)] == [("ct-03", "it died again and again")]
    assert {event.twin for event in outcome.of(facts.TwinDone)} == set(run.terms.everyone) - {"ct-03"}
    assert "ct-03" not in outcome.vectors


def test_who_cannot_be_revived_is_lost_at_once(tmp_path: Path) -> None:
    outcome = conduct(toy(rounds=6, pace=Synchronous(3.0)), Frail({"ct-03": [5], "ct-08": [7]}, revivable=False), tmp_path)
    assert {(event.twin, event.reason) for event in outcome.of(facts.TwinLost)} == {(name, "no saved state") for name in ("ct-03", "ct-08")}
    assert len(outcome.of(facts.TwinDone)) == 6
    assert len(outcome.degraded) == 4


@pytest.mark.parametrize(
    "deaths", [{"ct-03": [1]}, {f"ct-0{k}": [3 + k % 3] for k in range(1, 9)}, {"cloud": [2, 4]}], ids=["first", "all", "cloud"]
)
def test_whoever_dies_the_run_ends(deaths: dict[str, Sequence[int]], tmp_path: Path) -> None:
    run = storm(pace=Synchronous(4.0), partners=Random(1))
    outcome = conduct(run, Frail(deaths), tmp_path)
    assert len(outcome.of(facts.TwinDone)) == 8
    assert outcome.degraded
    assert math.isfinite(outcome.events[-1].t)


@PACES
def test_a_death_at_any_moment_the_last_round_too_does_not_turn_time_back(pace: Any, tmp_path: Path) -> None:
    died = set()
    for moment in range(1, 16):
        run = toy(Ring(twins=4).build(1), rounds=3, speeds={"ct-01": 0.4, "ct-02": 2.0}, pace=pace)
        outcome = conduct(run, Frail({"ct-02": [moment]}), tmp_path)
        died |= {event.t for event in outcome.of(facts.Crashed)}
        times = [event.t for event in outcome.events]
        assert times == sorted(times)
        assert {event.twin for event in outcome.of(facts.TwinDone)} == set(run.names)
    assert len(died) >= 3


def test_every_twin_dead_for_good_ends_the_run(tmp_path: Path) -> None:
    run: Toy = toy(Ring(twins=3).build(1), rounds=3)
    outcome = conduct(run, Frail(dict.fromkeys(run.names, (2,)), revivable=False), tmp_path)
    assert len(outcome.of(facts.TwinLost)) == 3
    assert outcome.vectors == {}


def test_a_loss_is_told_even_if_an_incident_was_due_between_the_others_end_and_it(tmp_path: Path) -> None:
    run = toy(Ring(twins=3).build(1), rounds=4, partners=Nobody(), speeds={"ct-02": 0.1}, incidents=[Outage("ct-03", 9.0, 10.0)])
    outcome = conduct(run, Frail({"ct-02": [4]}, revivable=False), tmp_path)
    assert [event.twin for event in outcome.of(facts.TwinLost)] == ["ct-02"]
    assert outcome.of(facts.TwinLost)[0].t > 9.0


# ---------------------------------------------------------------------- cost


@PACES
@pytest.mark.parametrize("shuffle", [None, 0])
def test_who_is_far_ahead_waits_when_too_many_events_are_held_back(pace: Any, shuffle: int | None, tmp_path: Path) -> None:
    """A slow twin holds back the events of all others; how many are kept changes nothing of what is told."""

    def told(run: Toy, held: int) -> tuple[list[Event], int]:
        swarm = LocalSwarm(shuffle=None if shuffle is None else np.random.default_rng(shuffle))
        first = swarm.start(run, [run.names], Vault(tmp_path))
        conductor, most, events = Conductor(run.world, swarm, first, incident_events(run.world.timeline()), held=held), 0, list[Event]()
        for event in conductor:
            events.append(event)
            most = max(most, len(conductor._heap))
        return events, most

    alone = toy(rounds=40, pace=pace, partners=Nobody(), link=Link(latency=1000.0), speeds={"ct-01": 0.05})
    (bounded, few), (free, many) = told(alone, 40), told(alone, 10**6)
    assert bounded == free
    assert few < 120
    assert many > 2 * few
    assert told(storm(pace=pace), 10)[0] == told(storm(pace=pace), 10**6)[0]


@PACES
@pytest.mark.parametrize("shape", ["ring", "epidemic"])
def test_the_work_per_event_does_not_grow_with_the_number_of_twins(pace: Any, shape: str, tmp_path: Path) -> None:
    """Counted in calls of the conductor's functions, not in time."""

    def looks(twins: int) -> float:
        topology = Ring(twins=twins).build(1) if shape == "ring" else EpidemicGraph(s=2, twins=twins).build(1)
        speeds = {name: 1.0 + 7 * draw(1, "speed", name).random() for name in topology.names}
        run, count = toy(topology, rounds=3, pace=pace, speeds=speeds), Counter[str]()

        def watch(frame: Any, event: str, _: Any) -> None:
            if event == "call" and frame.f_code.co_filename.endswith(("conductor.py", "horizon.py")):
                count[frame.f_code.co_name] += 1

        swarm = LocalSwarm()
        conductor = Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path / str(twins), every=3)))
        sys.setprofile(watch)
        try:
            events = sum(1 for _ in conductor)
        finally:
            sys.setprofile(None)
        return sum(count.values()) / events

    few, many = looks(32), looks(128)
    assert many < 1.2 * few
