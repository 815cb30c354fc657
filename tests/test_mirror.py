"""The learning feels the device: who is quarantined is not heard, what was acquired meanwhile is not learnt from, peers get four signs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl import events as facts
from p2pftl.device.coupling import Coupling
from p2pftl.device.troubles import Trouble
from p2pftl.errors import CheckpointError
from p2pftl.gossip.aggregators import PushSum
from p2pftl.gossip.frames import PREFIX, Header
from p2pftl.gossip.mixing import Metropolis, Similarity
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.seams import Side, Signs
from p2pftl.imaging.archive import PARTS, Archive, Arrivals
from p2pftl.imaging.cohort import Cohort, Shard
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.task import Scene, Work
from p2pftl.mirror import ENOUGH, Mirror, Watch
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.swarm.local import LocalSwarm
from p2pftl.terms import CloudTerms
from p2pftl.world.incidents import Crash
from p2pftl.world.topologies import Complete, Ring
from tests.history import check_history
from tests.toys import Grey, Judged, Outcome, Pull, Toy, Ward, play, toy

FOUR = Ring(twins=4).build(1)
BROKEN = {"ct-02": (Trouble("hu_step", 26.5, params={"hu": 8.0}),)}  # seen on day 27, virtual 2 s; repaired, verified and back by 6 s
UPGRADED = {"ct-02": (Trouble("software_upgrade", 27, params={"kernel": "bone"}),)}
PACES = pytest.mark.parametrize("pace", [Synchronous(5.0), Asynchronous()], ids=["synchronous", "asynchronous"])


def ward(**more: Any) -> Ward:
    return Ward(**{"arrivals": Arrivals(rate=10_000)} | more)


def felt(rounds: int = 20, *, mirror: Ward | None = None, **more: Any) -> Toy:
    chosen = {"mixing": Similarity(), "mirror": mirror or ward(troubles=BROKEN), "task": Judged, "rate": 0.2}
    return toy(FOUR, rounds=rounds, **chosen | more)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return play(felt(), tmp_path_factory.mktemp("felt"))


def of(outcome: Outcome, kind: type, twin: str = "ct-02") -> list[Any]:
    return [event for event in outcome.of(kind) if event.twin == twin]


def rounds_of(events: Iterable[Any]) -> set[int]:
    return {event.round for event in events}


# ---------------------------------------------------------------------- a device that fails


def test_a_device_that_fails_is_told_from_the_first_sign_to_its_return(outcome: Outcome) -> None:
    told = [(event.lifecycle, event.quality, event.status) for event in of(outcome, facts.DeviceChanged)]
    assert told == [
        ("active", 1.0, "pass"), ("quarantined", 0.0, "fail"), ("maintenance", 0.0, "fail"), ("verifying", 0.0, "pass"),
        ("active", 0.5, "pass"), ("active", 1.0, "pass"),
    ]  # fmt: skip
    assert "allowed 5" in of(outcome, facts.DeviceChanged)[1].reason
    assert all(len(of(outcome, facts.DeviceChanged, twin)) == 1 for twin in ("ct-01", "ct-03", "ct-04"))


def test_the_log_of_a_device_is_told_whole_once_and_in_order(outcome: Outcome) -> None:
    for twin in FOUR.names:
        entries = [entry for event in of(outcome, facts.DeviceLogged, twin) for entry in event.entries]
        assert [entry["n"] for entry in entries] == list(range(len(entries)))
        assert all(after["previous"] == before["hash"] for before, after in pairwise(entries))
        assert entries[0]["t"] == -25.0
        assert all(entry["t"] <= event.t for event in of(outcome, facts.DeviceLogged, twin) for entry in event.entries)
    lone = ward(troubles=BROKEN)("ct-02")
    lone.device.advance(outcome.events[-1].t)
    told = [entry["hash"] for event in of(outcome, facts.DeviceLogged) for entry in event.entries]
    assert told == [entry.hash for entry in lone.device.log.entries][: len(told)]


def test_studies_of_the_quarantine_window_are_left_out_and_both_facts_are_told(outcome: Outcome) -> None:
    opened, closed = of(outcome, facts.StudiesWithdrawn)
    assert (opened.until, closed.images, closed.since) == (None, 0, opened.since)
    assert opened.since == 1.0, "back to the last phantom that passed"
    assert opened.images == sum(event.images for event in of(outcome, facts.StudiesArrived) if 1.0 < event.t <= opened.t) > 0
    assert opened.t < closed.until <= closed.t
    arrived = [event.t for event in of(outcome, facts.StudiesArrived)]
    assert not [t for t in arrived if opened.t < t < closed.until], "a scanner that stands still scans nobody"
    assert max(arrived) > closed.t
    assert outcome.of(facts.StudiesWithdrawn) == [opened, closed]


def test_no_study_of_the_window_is_learnt_from_again_and_scans_go_on_afterwards() -> None:
    mirror, never = ward(troubles=BROKEN)("ct-02"), ward(troubles=BROKEN, coupling=Coupling(quarantine=False))("ct-02")
    for one in (mirror, never):
        one.advance(0.0, 0)
        assert one.scene() is one.scene()
    for t in (1.9, 2.5, 9.0):
        for one in (mirror, never):
            one.advance(t, 1)
            one.scene()
    used = [study.at for part in mirror.archive._chosen.values() for _, study in part]
    assert used
    assert not [at for at in used if 1.0 <= at < 6.0]
    assert never.archive.left_out == 0
    assert not [event for event in never.advance(30.0, 2) if isinstance(event, facts.StudiesWithdrawn)]


def test_a_withheld_update_is_neither_merged_nor_waited_for(outcome: Outcome, tmp_path: Path) -> None:
    withheld = rounds_of(of(outcome, facts.UpdateWithheld))
    assert len(withheld) >= 5
    for event in outcome.of(facts.Merged):
        if event.twin == "ct-02" and event.round in withheld:
            assert event.weights == {}
        elif event.round in withheld:
            assert "ct-02" not in event.weights
        assert event.missing == ()
    sent = {event.round: event.bytes for event in of(outcome, facts.FrameSent)}
    assert all((sent[round] < min(sent[0], sent[1])) == (round in withheld) for round in sent)
    healthy = play(felt(mirror=ward(arrivals=None)), tmp_path)
    same_work = play(felt(mirror=ward(arrivals=None, troubles=BROKEN)), tmp_path)
    assert same_work.events[-1].t == pytest.approx(healthy.events[-1].t, abs=0.1)
    assert {event.reason.split(":")[0] for event in outcome.of(facts.UpdateWithheld)} == {"quarantined", "maintenance", "verifying"}


def test_who_withholds_keeps_its_own_fit(tmp_path: Path) -> None:
    outcome = play(felt(14, mirror=ward(arrivals=None, troubles=BROKEN)), tmp_path)
    fitted = {event.round: event.loss for event in of(outcome, facts.Fitted)}
    rest = sorted(rounds_of(of(outcome, facts.UpdateWithheld)))
    assert all(fitted[late] < fitted[early] for early, late in pairwise(rest)), "nearer to its own goal every round"


@PACES
def test_nothing_of_a_withheld_round_reaches_the_cloud(pace: Any, tmp_path: Path) -> None:
    run = felt(cloud=CloudTerms(every=1, wait=1.0, deadline=0.5), pace=pace)
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    withheld = rounds_of(of(outcome, facts.UpdateWithheld))
    uploads = rounds_of(event for event in of(outcome, facts.FrameSent) if event.to == "cloud")
    assert withheld
    assert uploads == set(range(20)) - withheld
    assert all(event.weights == {} for event in of(outcome, facts.Merged) if event.round in withheld)
    assert not withheld & rounds_of(of(outcome, facts.CloudMissed))


@pytest.mark.parametrize(
    "mixing", [Metropolis(), Similarity(), Similarity(by_quality=False)], ids=["metropolis", "similarity", "no quality"]
)
@PACES
def test_under_every_mixing_and_pace_the_history_is_possible_and_repeats(mixing: Any, pace: Any, tmp_path: Path) -> None:
    run = felt(14, mixing=mixing, pace=pace)
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert not outcome.degraded
    withheld = rounds_of(of(outcome, facts.UpdateWithheld))
    assert not [event for event in of(outcome, facts.Merged) if event.round in withheld and event.weights]
    assert play(run, tmp_path, shuffle=5).digest == outcome.digest


def test_with_quarantine_switched_off_quality_still_shows_and_the_mixing_alone_decides(tmp_path: Path) -> None:
    for mixing, merged in ((Similarity(), False), (Metropolis(), True)):
        outcome = play(felt(12, mirror=ward(troubles=BROKEN, coupling=Coupling(quarantine=False)), mixing=mixing), tmp_path)
        assert not outcome.of(facts.UpdateWithheld)
        assert not outcome.of(facts.StudiesWithdrawn)
        assert 0.0 in {event.quality for event in of(outcome, facts.DeviceChanged)}
        empty = [event for event in of(outcome, facts.Merged) if not event.weights]
        assert bool(empty) != merged
        assert all(event.missing == () for event in outcome.of(facts.Merged)), "weight 0 is not missing"


# ---------------------------------------------------------------------- weights


SCANNERS = {"ct-01": Scanner(), "ct-02": Scanner(slice_mm=5.0), "ct-03": Scanner(kvp=100.0), "ct-04": Scanner()}
LATE = {"ct-03": (Trouble("missed_qa", 26, 31.5),)}


def weights_of(outcome: Outcome, round: int) -> dict[tuple[str, str], float]:
    return {(event.twin, peer): w for event in outcome.of(facts.Merged) if event.round == round for peer, w in event.weights.items()}


def test_two_levels_of_quality_leave_the_weights_symmetric_and_the_mean_where_it_was(tmp_path: Path) -> None:
    """One phantom is missing for days: stale, q = 0.5. All models together keep their mean, to the last bit of float32."""
    speeds = {"ct-01": 0.7, "ct-04": 1.6}
    run = toy(FOUR, rounds=20, mixing=Similarity(), mirror=Ward(troubles=LATE, scanners=SCANNERS), speeds=speeds, pace=Synchronous(1.0))
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert {event.quality for event in of(outcome, facts.DeviceChanged, "ct-03")} == {1.0, 0.5}
    levels = set()
    for round in range(20):
        weights = weights_of(outcome, round)
        assert len(weights) == 8
        assert all(weights[a, b] == weights[b, a] for a, b in weights), "to the bit"
        assert weights["ct-01", "ct-02"] < 0.32, "another slice thickness"
        levels.add(round_to(weights["ct-03", "ct-04"]))
    assert len(levels) >= 2
    assert max(levels) > 1.8 * min(levels), "half the quality, half the weight"
    starts = np.stack([run(name).vector for name in FOUR.names])  # type: ignore[attr-defined]
    ends = np.stack(list(outcome.vectors.values()))
    assert np.abs(ends.mean(axis=0) - starts.mean(axis=0)).max() < 1e-6
    assert np.square(ends - ends.mean(axis=0)).sum() < 1e-3 * np.square(starts - starts.mean(axis=0)).sum()


def round_to(weight: float) -> float:
    return round(weight, 2)


def test_push_sum_loses_no_mass_to_a_twin_that_withholds_for_a_while(tmp_path: Path) -> None:
    """What came meanwhile waits and is merged when the twin is back."""
    run = toy(Complete(twins=4).build(1), rounds=25, aggregator=PushSum(), mirror=Ward(troubles=BROKEN))
    swarm = LocalSwarm()
    events = list(Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path))))
    twins: Sequence[Any] = [swarm.crew.members[name] for name in run.terms.everyone]
    assert len([event for event in events if isinstance(event, facts.UpdateWithheld)]) > 3
    assert math.fsum(twin.own.mass for twin in twins) == pytest.approx(4, rel=1e-12)
    ends, starts = (np.stack([twin.own.mass * twin.own.vector for twin in twins]), np.stack([run(name).vector for name in run.names]))  # type: ignore[attr-defined]
    assert np.abs(ends.sum(axis=0) - starts.sum(axis=0)).max() < 1e-5


class Water(Grey):
    """Images of nothing but water, in HU."""

    def read(self, samples: Sequence[Any]) -> Cohort:
        return replace(super().read(samples), pixels=np.zeros((len(samples), 24, 24), np.int16), unit="HU", pixel_mm=1.0)


def watered(made: Ward) -> Mirror:
    mirror = made("ct-02")
    old, source = mirror.archive, Water()
    shard = Shard(*(tuple(sample for one in old.patients.values() if one.part == part for sample in one.samples) for part in PARTS), ())
    cohorts = {part: source.read(getattr(shard, part)) for part in PARTS}
    mirror.archive = Archive("ct-02", made.seed, shard, source, cohorts, old.usual, made.arrivals)
    return mirror


def test_images_move_with_the_scanner_that_acquired_them_though_its_phantoms_lie_and_nobody_notices() -> None:
    lying = {"ct-02": (Trouble("lying_qa", 20), Trouble("hu_drift", 27, params={"rate": 4.0}))}
    calm, odd = watered(ward()), watered(ward(troubles=lying))
    shifts = []
    for t in (0.0, 1.9, 6.0, 12.0):
        told = odd.advance(t, int(t))
        calm.advance(t, int(t))
        assert {event.quality for event in told if isinstance(event, facts.DeviceChanged)} <= {1.0}
        assert (odd.withheld, odd.signs.lifecycle) == ("", "active")
        seen, usual = (mirror.scene().cohorts["train"].pixels.astype(float).mean() for mirror in (odd, calm))
        shifts.append(seen - usual)
    assert shifts[:2] == [0.0, 0.0], "acquired before"
    assert 4 < shifts[2] < 21, "4 HU a day since day 27, virtual 2 s"
    assert shifts[2] + 8 < shifts[3] < 45


# ---------------------------------------------------------------------- a device that changes


def test_a_passing_software_change_triggers_adaptation_and_a_careful_return(tmp_path: Path) -> None:
    mirror = Ward(troubles=UPGRADED, coupling=Coupling(adapt=3))
    outcome = play(felt(mirror=mirror), tmp_path)
    adapted = of(outcome, facts.Adapting)
    assert [event.round for event in adapted] == list(range(adapted[0].round, adapted[0].round + 3))
    assert {event.reason for event in adapted} == {"noise, noise texture, sharpness changed"}
    assert adapted[0].t > 3.0, "two phantoms"
    assert rounds_of(of(outcome, facts.UpdateWithheld)) == rounds_of(adapted)
    qualities = [event.quality for event in of(outcome, facts.DeviceChanged) if event.t >= adapted[0].t]
    assert qualities == [0.0, 0.5, 1.0]
    assert not outcome.of(facts.StudiesWithdrawn)
    assert {event.twin for event in outcome.of(facts.Adapting)} == {"ct-02"}


def test_adaptation_can_be_switched_off(tmp_path: Path) -> None:
    outcome = play(felt(mirror=Ward(troubles=UPGRADED, coupling=Coupling(adapt=0))), tmp_path)
    assert not outcome.of(facts.Adapting)
    assert not outcome.of(facts.UpdateWithheld)


FAULTS = {
    "hu_step": {"hu": 8.0}, "hu_drift": {"rate": 2.0}, "gain_drift": {"rate": 0.002}, "ring": {"hu": 8.0}, "cupping": {"hu": 14.0},
    "tube_wear": {"share": 1.2}, "tube_failure": {}, "missed_qa": {}, "arc_burst": {"count": 9},
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_and_its_repair_never_adapt_the_model(kind: str) -> None:
    mirror = Ward(troubles={"ct-02": (Trouble(kind, 27, params=FAULTS[kind]),)})("ct-02")
    told = [event for day in range(20) for event in mirror.advance(float(day), day)]
    assert not [event for event in told if isinstance(event, facts.Adapting)]
    assert kind in ("tube_wear", "arc_burst", "ring") or [event for event in told if isinstance(event, facts.DeviceChanged)][1:]


def test_a_fault_during_adaptation_breaks_it_off_and_it_begins_anew_when_the_device_is_sound() -> None:
    troubles = (*UPGRADED["ct-02"], Trouble("hu_step", 29, params={"hu": 9.0}))
    mirror = Ward(troubles={"ct-02": troubles}, coupling=Coupling(adapt=4))("ct-02")
    begun = 0
    for half in range(24):
        begun += [type(event) for event in mirror.advance(half / 2, half)].count(facts.Adapting)
        mirror.scored({"accuracy": 0.8}, half / 2)
        state = mirror.device.log.state
        if mirror.device.log.state.lifecycle in ("quarantined", "maintenance", "verifying"):
            assert mirror.withheld
            assert mirror.signs.quality == 0
            if state.get("lifecycle.since") < half / 2:
                assert not mirror.adapting
        assert mirror.scene().adapt == mirror.adapting
    assert mirror.change == ""
    assert 4 < begun < 8, "begun, broken off, begun anew"
    assert mirror.device.log.state.lifecycle in ("baseline", "active")


def test_the_careful_return_lasts_until_the_model_is_as_good_as_before() -> None:
    mirror = Ward(troubles=UPGRADED, coupling=Coupling(regain=0.02))("ct-02")
    scores = {"before": 0.9, "after": 0.8, "nearly": 0.885}
    for round in range(4):
        mirror.advance(float(round), round)
        mirror.scored({"accuracy": scores["before" if not mirror.adapting else "after"]}, float(round))
    assert mirror.adapting
    mirror.advance(4.0, 4)
    assert mirror.signs.quality == 0.5
    mirror.scored({"accuracy": scores["after"]}, 4.0)
    assert mirror.signs.quality == 0.5
    mirror.scored({"accuracy": scores["nearly"]}, 4.0)
    assert mirror.signs.quality == 1.0


def mark(*values: float) -> tuple[float, ...]:
    return (*values, 0.2)


USUAL = (1.74, 0.35, 0.51, 1.6, 6.0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_the_scatter_of_days_is_no_change(seed: int) -> None:
    scatter = np.random.default_rng(seed).normal(size=(100, 5)) * [0.035, 0.002, 0.0006, 0, 0]
    watch = Watch()
    assert not [day for day in scatter if watch.seen(mark(*(USUAL + day)), True)]


@pytest.mark.parametrize(("place", "by"), [(0, 0.3), (1, 0.07), (2, -0.14), (3, 0.5), (4, -1.0)])
def test_only_two_passing_phantoms_in_a_row_make_a_change(place: int, by: float) -> None:
    changed = list(USUAL)
    changed[place] += by
    usual, other = mark(*USUAL), mark(*changed)

    def after(*days: tuple[tuple[float, ...], bool]) -> list[bool]:
        watch = Watch([usual] * ENOUGH)
        return [bool(watch.seen(*day)) for day in days]

    assert after((other, True), (other, True), (other, True)) == [False, True, False]
    assert after((other, True), (usual, True), (other, True)) == [False] * 3
    assert after((other, True), (other, False), (other, True)) == [False] * 3
    assert after((other, False), (other, False), (other, False)) == [False] * 3
    assert after((other, True), ((), True), (other, True)) == [False] * 3


def test_uneven_images_are_a_fault_and_no_change() -> None:
    watch, uneven = Watch([mark(*USUAL)] * ENOUGH), (*USUAL, 4.0)
    assert not [day for day in range(9) if watch.seen(uneven, True)]


# ---------------------------------------------------------------------- crash and revival


def plain(events: Iterable[Any]) -> list[bytes]:
    return [facts.pack(event) for event in events]


@pytest.mark.parametrize("at", [0.0, 1.3, 2.1, 4.9, 6.4, 8.0])
def test_a_mirror_resumed_from_its_memory_goes_on_with_the_same_events(at: float) -> None:
    troubles = {"ct-02": (*BROKEN["ct-02"], Trouble("slice_change", 33, params={"slice_mm": 5.0}))}
    made = Ward(troubles=troubles, coupling=Coupling(adapt=2))
    whole, times = made("ct-02"), [0.4 * k for k in range(40)]
    for round, t in enumerate(t for t in times if t <= at):
        whole.advance(t, round)
        whole.scored({"accuracy": 0.7}, t)
    saved = msgpack.unpackb(msgpack.packb(whole.memory()))
    revived = made("ct-02")
    revived.resume(saved)
    for round, t in enumerate(times):
        if t > at:
            assert plain(whole.advance(t, round)) == plain(revived.advance(t, round))
            assert (whole.signs, whole.withheld) == (revived.signs, revived.withheld)
            assert whole.scene() == revived.scene()
            for one in (whole, revived):
                one.scored({"accuracy": 0.7}, t)
    assert whole.memory() == revived.memory()


def test_a_resumed_mirror_has_the_studies_it_had() -> None:
    made = ward(troubles=BROKEN)
    whole, revived = made("ct-02"), made("ct-02")
    for t in (0.0, 0.7, 1.9, 2.6):
        whole.advance(t, 0)
        whole.scene()
    revived.resume(whole.memory())
    for t in (2.6, 7.0):
        assert plain(whole.advance(t, 1)) == plain(revived.advance(t, 1))
        for part in ("train", "validation"):
            one, other = (mirror.scene().cohorts[part] for mirror in (whole, revived))
            assert one.pixels.tobytes() == other.pixels.tobytes()
            assert one.labels.tobytes() == other.labels.tobytes()


def test_another_life_is_not_resumed() -> None:
    whole = ward(troubles=BROKEN)("ct-02")
    whole.advance(3.0, 4)
    for other in (ward(), ward(troubles=BROKEN, arrivals=Arrivals(rate=5_000)), ward(troubles=BROKEN, seed=2)):
        with pytest.raises(CheckpointError, match="E502"):
            other("ct-02").resume(whole.memory())


@PACES
def test_a_crash_in_the_middle_changes_nothing_of_the_devices_life(pace: Any, tmp_path: Path) -> None:
    calm, struck = (play(felt(16, pace=pace, incidents=crashes), tmp_path) for crashes in ((), [Crash("ct-02", 2.7, 0.6)]))
    assert struck.of(facts.Revived)
    assert not struck.degraded
    first, second = ({entry["n"]: entry for event in of(one, facts.DeviceLogged) for entry in event.entries} for one in (calm, struck))
    shared = first.keys() & second.keys()
    assert len(shared) > 130
    assert {n: first[n] for n in shared} == {n: second[n] for n in shared}
    assert [(event.since, event.images) for event in of(calm, facts.StudiesWithdrawn)] == [
        (event.since, event.images) for event in of(struck, facts.StudiesWithdrawn)
    ]
    lives = [[event.lifecycle for event in of(one, facts.DeviceChanged)] for one in (calm, struck)]
    assert all(one == other for one, other in zip(*lives, strict=False))


def test_a_foreseen_fit_is_the_one_that_comes_and_its_events_are_told_when_the_twin_wakes() -> None:
    run = felt(4, mirror=ward(troubles=BROKEN, day_s=0.2))
    steps: list[list[bytes]] = []
    for looks in (False, True):
        twin: Any = run("ct-02")
        found = list(twin.begin(0.0).events)
        for _ in range(5):
            coming = twin.foresee(math.inf) if looks else None
            if coming is not None:
                assert coming.scene == twin._scene()
            found += twin.advance(math.inf).events
        steps.append(plain(found))
    assert steps[0] == steps[1]


# ---------------------------------------------------------------------- nothing to feel


class Idle(Pull):
    """Has no training sample."""

    def work(self, round: int, scene: Scene) -> Work:
        return Work(self.layout.names, 0, 0)


def test_a_round_without_any_training_sample_does_not_fit_and_still_gossips(tmp_path: Path) -> None:
    run = toy(FOUR, rounds=4, task=Idle)
    outcome = play(run, tmp_path)
    assert not outcome.of(facts.FitStarted)
    assert not outcome.of(facts.Fitted)
    assert len(outcome.of(facts.TwinDone)) == 4
    assert all(len(event.weights) == 2 for event in outcome.of(facts.Merged))


def test_a_mirror_of_nothing_changes_nothing(tmp_path: Path) -> None:
    with_, without = (play(toy(FOUR, rounds=6, rate=0.3, mirror=mirror), tmp_path) for mirror in (Mirror, None))
    assert with_.digest == without.digest


def test_studies_can_arrive_where_no_device_is_known() -> None:
    mirror = Mirror("ct-01", None, ward()("ct-01").archive)
    (arrived,) = mirror.advance(5.0, 0)
    assert isinstance(arrived, facts.StudiesArrived)
    assert arrived.held == len(mirror.scene().cohorts["train"])
    assert mirror.signs == Signs()
    assert mirror.withheld == ""


def test_a_device_that_was_just_installed_is_not_heard_before_its_first_days() -> None:
    mirror = Ward()("ct-01")
    mirror.device.rules = replace(mirror.device.rules, history=0)
    (logged, changed) = mirror.advance(0.0, 0)
    assert isinstance(logged, facts.DeviceLogged)
    assert (changed.lifecycle, changed.quality) in (("commissioning", 0.0), ("baseline", 1.0))


# ---------------------------------------------------------------------- what peers learn


class Wiretap(LocalSwarm):
    """Keeps every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[tuple[str, bytes, Any]] = []

    def _deliver(self, turn: int) -> Any:
        parcel = self._flying[turn]
        self.heads.append((parcel.sender, parcel.head, parcel.payload))
        return super()._deliver(turn)


def test_peers_get_four_signs_of_a_device_and_nothing_else_of_it(tmp_path: Path) -> None:
    run, swarm = felt(12, mirror=ward(troubles=BROKEN, scanners=SCANNERS)), Wiretap()
    events = list(Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path))))
    assert len(swarm.heads) > 80
    entries = [entry for event in events if isinstance(event, facts.DeviceLogged) for entry in event.entries]
    assert len(entries) > 400
    texts = words(entries) - words([event.__dict__ for event in events if isinstance(event, facts.DeviceChanged)], ("lifecycle",))
    texts -= {"standard", "active", "quarantined", "maintenance", "verifying", *FOUR.names}
    seen = set()
    for _, head, payload in swarm.heads:
        body = msgpack.unpackb(head[PREFIX.size :])
        assert set(body) == set(Header.__dataclass_fields__)
        marks, quality, lifecycle, kernel = body["signs"]
        assert len(marks) == 6
        seen.add((quality, lifecycle, kernel))
        said = {value for value in flat({key: value for key, value in body.items() if key != "sha256"}) if isinstance(value, str)}
        assert not said & texts
        assert (len(payload) == 0) == (quality == 0)
    assert {(1.0, "active", "standard"), (0.0, "quarantined", "standard")} <= seen


def words(found: Any, names: tuple[str, ...] = ()) -> set[str]:
    """All texts among the values, or those of some keys."""
    if names:
        return {str(one[name]) for one in found for name in names}
    return {value for value in flat(found) if isinstance(value, str)}


def flat(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


def test_weight_falls_with_the_difference_that_the_phantoms_of_two_scanners_show() -> None:
    made = Ward(scanners=SCANNERS)
    signs = {}
    for name in SCANNERS:
        mirror = made(name)
        mirror.advance(0.0, 0)
        signs[name] = mirror.signs
    weight = {name: Similarity().weight(Side(2, signs["ct-01"]), Side(2, signs[name])) for name in SCANNERS}
    assert weight["ct-04"] > 0.95 * weight["ct-01"], "the same kind of scanner"
    assert weight["ct-02"] < weight["ct-03"] < weight["ct-04"]
