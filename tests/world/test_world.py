"""The world answers the same question the same way, and nothing outruns it."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.world.device_incidents import DoseChange, HuDrift, TubeFailure
from p2pftl.world.incidents import (
    Crash,
    CutLink,
    DeviceFault,
    Down,
    Effect,
    Incident,
    Join,
    Leave,
    Outage,
    Partition,
    SlowLink,
    SlowScanner,
)
from p2pftl.world.links import LEAST, Link
from p2pftl.world.topologies import Clusters, Complete, Ring
from p2pftl.world.world import World

calm = settings(deadline=None)
FOUR = Complete(4).build(0)
PLAIN = Link(latency=1.0, bandwidth=100.0)
A, B, C, D = FOUR.names


def world(*incidents: Incident, link: Link = PLAIN, cloud: Link | None = None, seed: int = 7) -> World:
    return World(FOUR, link, incidents, cloud, seed)


def send(w: World, at: float, src: str = A, dst: str = B, size: int = 100, seq: int = 0) -> float | str:
    """Arrival time, or why there is none."""
    transit = w.transit(src, dst, at, size, 0, seq)
    assert (transit.arrives is None) == bool(transit.lost)
    return transit.lost if transit.arrives is None else transit.arrives


seconds = st.floats(0, 1e4)
links = st.builds(
    Link,
    latency=st.floats(0, 10),
    bandwidth=st.floats(1, 1e9),
    jitter=st.floats(0, 5),
    loss=st.floats(0, 0.5),
    duplication=st.floats(0, 0.9),
)


@calm
@given(links, seconds, st.integers(0, 10**8), st.integers(0, 50), st.integers(0, 50), st.floats(1, 100), seconds)
def test_no_frame_is_earlier_than_fastest_and_no_second_earlier_than_the_first(
    link: Link, sent: float, size: int, round: int, seq: int, factor: float, at: float
) -> None:
    w = world(SlowLink((A, B), at, None, factor), link=link)
    transit = w.transit(A, B, sent, size, round, seq)
    assert w.fastest(A, B) >= LEAST
    if transit.arrives is None:
        assert transit == w.transit(A, B, sent, size, round, seq)
        assert (transit.lost, transit.second) == ("loss", None)
        return
    assert transit.arrives >= sent + w.fastest(A, B)
    assert transit.arrives <= sent + (link.latency + LEAST + size / link.bandwidth) * factor * (1 + 1e-9) + link.jitter + 1e-6
    assert (transit.copies == 2) == (transit.second is not None)
    assert transit.second is None or transit.second > transit.arrives


def test_draws_depend_on_their_frame_alone() -> None:
    jittery = Link(latency=1, jitter=1, duplication=0.3)
    w = world(link=jittery)
    alone = w.transit(A, B, 5.0, 100, 3, 1)
    for seq in range(20):
        w.transit(B, A, 5.0, 100, 3, seq)
    assert w.transit(A, B, 5.0, 100, 3, 1) == alone == world(link=jittery).transit(A, B, 5.0, 100, 3, 1)
    others = {w.transit(A, B, 5.0, 100, 3, seq).arrives for seq in range(2, 9)} | {
        world(link=jittery, seed=8).transit(A, B, 5.0, 100, 3, 1).arrives
    }
    assert len(others) == 8


def test_loss_and_duplication_have_the_stated_rates_and_jitter_is_uniform() -> None:
    w = world(link=Link(latency=1, bandwidth=1e9, jitter=2, loss=0.2, duplication=0.1))
    got = [w.transit(A, B, 0.0, 1, 0, seq) for seq in range(4000)]
    came = [transit.arrives for transit in got if transit.arrives is not None]
    assert sum(transit.lost == "loss" for transit in got) / 4000 == pytest.approx(0.2, abs=0.025)
    assert sum(transit.copies == 2 for transit in got) / len(came) == pytest.approx(0.1, abs=0.02)
    assert sum(came) / len(came) == pytest.approx(2.0, abs=0.06)
    assert 1.0 <= min(came) < 1.02
    assert 2.98 < max(came) < 3.0 + 1e-6


def test_transit_is_latency_plus_size_over_bandwidth() -> None:
    assert send(world(), 10.0, size=50) == 11.5


def test_a_slow_link_takes_its_factor_both_ways_while_it_lasts() -> None:
    w = world(SlowLink((A, B), 10, 20, 3), SlowLink((B, A), 15, 30, 2))
    assert [send(w, t) for t in (9.0, 10.0, 15.0, 20.0, 30.0)] == [11.0, 16.0, 27.0, 24.0, 32.0]
    assert send(w, 12.0, B, A) == 18.0
    assert send(w, 12.0, A, C) == 14.0


def test_nothing_crosses_a_cut_link_at_any_moment_of_its_flight() -> None:
    w = world(CutLink((A, B), 10, 20))
    assert [send(w, t) for t in (7.9, 8.0, 9.0, 19.9, 20.0)] == [9.9, "cut", "cut", "cut", 22.0]
    assert send(w, 12.0, B, A) == "cut"
    assert send(w, 12.0, A, C) == 14.0


def test_a_partition_separates_groups_the_unnamed_and_the_cloud() -> None:
    w = world(Partition(((A,), (B,)), 10, 20), cloud=PLAIN)
    assert send(w, 12.0, A, B) == "partition"
    assert send(w, 12.0, A, C) == "partition"
    assert send(w, 12.0, C, D) == 14.0
    assert send(w, 12.0, A, "cloud") == 14.0
    assert send(w, 12.0, "cloud", D) == "partition"
    assert send(w, 20.0, A, B) == 22.0
    named = world(Partition(((A,), (B, "cloud")), 10, None), cloud=PLAIN)
    assert send(named, 12.0, B, "cloud") == 14.0
    assert send(named, 1e6, A, "cloud") == "partition"


def test_an_outage_loses_what_arrives_in_it() -> None:
    w = world(Outage(B, 10, 20))
    assert [send(w, t) for t in (7.9, 8.0, 17.9, 18.0)] == [9.9, "receiver down", "receiver down", 20.0]
    assert send(w, 12.0, B, A) == 14.0


def test_a_crash_loses_what_is_in_flight_and_what_arrives_before_the_revival() -> None:
    w = world(Crash(B, 10, revive_after=0.5))
    assert [send(w, t) for t in (7.9, 8.0, 9.5, 10.0)] == [9.9, "receiver crashed", "receiver crashed", 12.0]
    slow = world(Crash(B, 10, revive_after=5.0))
    assert [send(slow, t) for t in (10.0, 12.9, 13.0)] == ["receiver crashed", "receiver crashed", 15.0]


def test_who_left_or_has_not_joined_hears_nothing() -> None:
    w = world(Leave(B, 10), Join(C, 10))
    assert (send(w, 8.0), send(w, 1e6)) == ("left", "left")
    assert (send(w, 7.0, A, C), send(w, 8.0, A, C)) == ("receiver down", 10.0)


def test_a_duplicate_may_come_where_the_first_was_lost() -> None:
    twice = Link(latency=1, bandwidth=1e9, duplication=0.999)
    w = world(Outage(B, 0.5, 1.2), link=twice)
    got = [w.transit(A, B, 0.0, 1, 0, seq) for seq in range(50)]
    assert any(transit.arrives is not None and transit.copies == 1 for transit in got)
    assert all(transit.arrives is None or transit.arrives >= 1.2 for transit in got)


def test_links_come_from_the_topology_the_cloud_or_the_common_one() -> None:
    clusters = Clusters(2, 2, latency_factor=3).build(0)
    w = World(clusters, PLAIN, (), Link(latency=9))
    (a, b) = next(iter(clusters.links))
    assert w.link(a, b).latency == 3
    assert w.link("ct-01", "ct-02") == PLAIN
    assert w.link("ct-01", "cloud").latency == w.link("cloud", "ct-01").latency == 9
    assert World(clusters, PLAIN).link("cloud", "ct-01") == PLAIN


def test_time_away_chains_over_outage_crash_and_join() -> None:
    w = world(Outage(A, 10, 20), Crash(A, 18, 5), Outage(A, 23, 30), Join(B, 5), Leave(B, 50), Outage(C, 40))
    assert [w.back(A, t) for t in (9.9, 10.0, 19.0, 25.0, 30.0)] == [None, 30.0, 30.0, 30.0, None]
    assert [w.back(B, t) for t in (0.0, 4.9, 5.0, 50.0)] == [5.0, 5.0, None, math.inf]
    assert (w.back(C, 39.9), w.back(C, 41)) == (None, math.inf)
    assert w.back(D, 41) is None


@calm
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 50)), max_size=6),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 50)), max_size=4),
    st.floats(0, 200),
)
def test_back_agrees_with_walking_from_window_to_window(
    outages: list[tuple[float, float]], crashes: list[tuple[float, float]], t: float
) -> None:
    windows = [(at, at + long) for at, long in outages + crashes]
    w = world(*(Outage(A, at, at + long) for at, long in outages), *(Crash(A, at, long) for at, long in crashes))
    end, moved = t, True
    while moved:
        moved = False
        for start, stop in windows:
            if start <= end < stop:
                end, moved = stop, True
    assert w.back(A, t) == (None if end == t else end)


def test_scanners_slow_down() -> None:
    w = world(SlowScanner(A, 10, 20, 4), SlowScanner(A, 15, 30, 2))
    assert [w.slowdown(A, t) for t in (9, 10, 15, 20, 30)] == [1, 4, 8, 2, 1]
    assert w.slowdown(D, 12) == 1


def test_what_befalls_a_scanner_is_told_in_the_order_of_the_scenario() -> None:
    w = world(HuDrift(B, 100, 300, rate=0.5), TubeFailure(C, 7), DoseChange(B, 5, factor=0.5))
    assert w.faults(B) == (
        DeviceFault(B, "hu_drift", 100, 300, {"rate": 0.5}),
        DeviceFault(B, "dose_change", 5, math.inf, {"factor": 0.5, "qa": False}),
    )
    assert w.faults(C) == (DeviceFault(C, "tube_failure", 7, math.inf, {"downtime_h": 0.0}),)
    assert w.faults(A) == ()
    assert w.changes(C)[0][2] == "began"


def test_changes_are_told_once_by_the_first_named() -> None:
    cut, split, crash, join, leave = CutLink((B, A), 5, 9), Partition(((C, D), (A,)), 3, 8), Crash(A, 7, 2), Join(A, 1), Leave(D, 90)
    w = world(cut, split, crash, join, leave)
    assert w.changes(A) == ((1, join, "began"), (7, crash, "began"), (9, crash, "ended"))
    assert w.changes(B) == ((5, cut, "began"), (9, cut, "ended"))
    assert w.changes(C) == ((3, split, "began"), (8, split, "ended"))
    assert w.changes(D) == ((90, leave, "began"),)
    assert w.crashes(A) == (crash,)
    rows = w.timeline()
    assert [row["at"] for row in rows] == [1, 3, 5, 7, 90]
    assert rows[-1] == {"kind": "leave", "twins": [D], "at": 90, "until": None, "text": "ct-04 leaves for good at 90 s."}


def test_the_world_travels_without_what_it_remembers() -> None:
    w = world(Outage(A, 10, 20), SlowLink((A, B), 0, None, 3))
    fresh = len(pickle.dumps(w))
    assert send(w, 1.0) == 7.0
    again: World = pickle.loads(pickle.dumps(w))
    assert len(pickle.dumps(w)) == fresh
    assert send(again, 1.0) == 7.0
    assert again.back(A, 11) == 20


def test_an_incident_of_ones_own_needs_only_the_four_methods() -> None:
    class Holiday:
        kind = "holiday"

        def text(self) -> str:
            return "Nobody works."

        def spans(self) -> tuple[float, float]:
            return 10.0, 20.0

        def concerns(self) -> tuple[str, ...]:
            return (A, B)

        def effects(self) -> tuple[Effect, ...]:
            return tuple(Down(name, 10.0, 20.0, "holiday") for name in (A, B))

    w = world(Holiday())
    assert send(w, 10.0) == "holiday"
    assert w.back(B, 12) == 20
    assert w.changes(A)[0][2] == "began"


def test_a_thousand_twins_with_a_thousand_incidents_are_told_apart() -> None:
    ring = Ring(1000).build(0)
    w = World(ring, PLAIN, tuple(Outage(name, 10 + i, 20 + i) for i, name in enumerate(ring.names)))
    assert [w.back(name, 500.0) for name in ring.names] == [20.0 + i if 480 < i <= 490 else None for i in range(1000)]
    assert all(len(w.changes(name)) == 2 for name in ring.names)
