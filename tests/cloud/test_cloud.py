"""The cloud averages what it heard by samples, answers in time, and is missed by nobody when it is gone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl import events as facts
from p2pftl.agenda import Parcel
from p2pftl.cloud.cloud import Cloud
from p2pftl.cloud.clustered import Clustered
from p2pftl.cloud.fedavg import FedAvg
from p2pftl.cloud.ifca import IFCA
from p2pftl.cloud.memory import CloudState
from p2pftl.cloud.seams import Coordinator, Memory, Upload
from p2pftl.cloud.swarm_leader import SwarmLeader
from p2pftl.errors import CheckpointError
from p2pftl.gossip.codecs import Dense, TopK
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import All, Nobody
from p2pftl.params import Layout
from p2pftl.policies import find, registered
from p2pftl.swarm.local import LocalSwarm
from p2pftl.terms import CloudTerms
from p2pftl.world.incidents import Crash, Outage
from p2pftl.world.links import Link
from p2pftl.world.topologies import Ring
from p2pftl.world.topology import CLOUD
from tests.history import check_history
from tests.toys import Pull, Toy, conduct, play, toy

SIZE = 6
FLAT = Layout(("a", "b"), ((4,), (2,)), ("weight", "statistic"), (0, 1))
OURS: tuple[Coordinator, ...] = (
    FedAvg(), Clustered(after=0), Clustered(after=0, linkage="single", gamma=0.0), IFCA(), IFCA(k=3),
    SwarmLeader(1), SwarmLeader(1, "median"), SwarmLeader(1, "geometric_median"),
)  # fmt: skip
ENCODERS = "universal"  # fuses universal encoders and takes no other layout: tests/test_universal_run.py
OTHERS = sorted(registered("cloud").keys() - {ENCODERS})
THEIRS = [kind() for kind in (find("cloud", name) for name in OTHERS) if kind not in map(type, OURS)]
every = pytest.mark.parametrize("policy", [*OURS, *THEIRS], ids=repr)
calm = settings(deadline=None, max_examples=60)
RANGES = (((0, 6),), ((0, 2), (4, 6)), ((3, 5),))


@st.composite
def uploads(draw: st.DrawFn) -> dict[str, Upload]:
    made = {}
    for name in draw(st.lists(st.sampled_from("abcde"), unique=True, min_size=1)):
        ranges = draw(st.sampled_from(RANGES))
        size = sum(stop - start for start, stop in ranges)
        part = np.array(draw(st.lists(st.floats(-1000, 1000, width=32), min_size=size, max_size=size)), np.float32)
        made[name] = Upload(part, ranges, draw(st.integers(1, 10**6)))
    return made


def cloudy(every: int = 1, wait: float = 20.0, deadline: float = 10.0, **more: Any) -> Toy:
    return toy(cloud=CloudTerms(every, wait, deadline), **{"partners": Nobody(), "topology": Ring(twins=4).build(1)} | more)


def Uneven(name: str, seed: int, rate: float) -> Pull:  # noqa: N802 (a task)
    return Pull(name, seed, rate, samples=10 * int(name[-1]))


# ---------------------------------------------------------------------- the policy alone


@every
@calm
@given(first=uploads(), then=uploads(), data=st.data())
def test_every_uploader_gets_the_tensors_it_sent_whatever_the_order_and_nothing_given_is_changed(
    policy: Coordinator, first: dict[str, Upload], then: dict[str, Upload], data: st.DataObject
) -> None:
    memory: Memory = {}
    for given_ in (first, then):
        before = {name: upload.part.tobytes() for name, upload in given_.items()}, CloudState(0, {}, memory).packed()
        shuffled = dict(data.draw(st.permutations(list(given_.items()))))
        reply, again = (policy.answer(order, FLAT, memory) for order in (given_, shuffled))
        assert reply.offers.keys() == given_.keys()
        for name, upload in given_.items():
            assert len(reply.offers[name]) == len(again.offers[name]) >= 1
            for part, other in zip(reply.offers[name], again.offers[name], strict=True):
                assert (part.dtype, part.shape) == (np.float32, upload.part.shape)
                assert np.isfinite(part).all()
                assert part.tobytes() == other.tobytes()
        assert before == ({name: upload.part.tobytes() for name, upload in given_.items()}, CloudState(0, {}, memory).packed())
        assert CloudState(0, {}, reply.memory).packed() == CloudState(0, {}, again.memory).packed()
        memory = reply.memory


@every
@calm
@given(first=uploads(), then=uploads())
def test_a_memory_that_was_saved_and_restored_gives_the_same_answer(
    policy: Coordinator, first: dict[str, Upload], then: dict[str, Upload]
) -> None:
    memory = policy.answer(first, FLAT, {}).memory
    saved = CloudState.unpacked(CloudState(1, {}, memory).packed()).memory
    reply, revived = (policy.answer(then, FLAT, known) for known in (memory, saved))
    assert reply.groups == revived.groups
    for name in then:
        assert [part.tobytes() for part in reply.offers[name]] == [part.tobytes() for part in revived.offers[name]]


@every
def test_equal_models_stay_equal_and_one_twin_keeps_its_own(policy: Coordinator) -> None:
    part = np.array([1.1, -2.2, 3.3, 0.0, 1e-9, 1e9], np.float32)
    same = {name: Upload(part, RANGES[0], samples) for name, samples in (("a", 3), ("b", 7), ("c", 1))}
    for chosen in (same, {"b": same["b"]}):
        offers = policy.answer(chosen, FLAT, {}).offers
        assert all((offer == part).all() for some in offers.values() for offer in some)


@calm
@given(uploads())
def test_fedavg_is_the_mean_weighted_by_samples_over_those_that_sent_the_tensor(given_: dict[str, Upload]) -> None:
    values = np.full((len(given_), SIZE), np.nan)
    for row, upload in zip(values, given_.values(), strict=True):
        row[[element for start, stop in upload.ranges for element in range(start, stop)]] = upload.part
    samples = np.array([upload.samples for upload in given_.values()], float)
    there = ~np.isnan(values)
    total = (samples[:, None] * there).sum(axis=0)
    mean = np.divide(np.where(there, samples[:, None] * values, 0).sum(axis=0), total, where=total > 0, out=np.zeros(SIZE))
    answers = FedAvg().answer(given_, FLAT, {}).offers
    for name, upload in given_.items():
        expected = np.concatenate([mean[start:stop] for start, stop in upload.ranges])
        assert np.allclose(answers[name][0], expected, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------- in a run


def test_a_quality_weighted_round_hears_a_doubtful_device_less_and_a_bad_one_not_at_all() -> None:
    layout = Layout(("w",), ((2,),), ("weight",), (0,))
    qualities = {"a": 1.0, "b": 0.5, "c": 0.0}
    parts = {"a": (1.0, 0.0), "b": (0.0, 1.0), "c": (100.0, 100.0)}

    def mean(weigh: Any, qualities: dict[str, float]) -> list[float]:
        given = {name: Upload(np.array(parts[name], np.float32), ((0, 2),), 10, quality=q) for name, q in qualities.items()}
        return [float(value) for value in FedAvg(weigh).answer(given, layout, {}).offers["a"][0]]

    assert mean("quality", qualities) == pytest.approx([2 / 3, 1 / 3])
    assert mean("samples", qualities) == pytest.approx([101 / 3, 101 / 3])
    assert mean("quality", dict.fromkeys("abc", 0.0)) == mean("samples", qualities)


def test_a_round_of_fedavg_is_the_weighted_mean_of_the_local_fits(tmp_path: Path) -> None:
    run = cloudy(rounds=3, rate=0.3, task=Uneven)
    tasks = {name: Uneven(name, 1, 0.3) for name in run.terms.everyone}
    samples = np.array([task.samples for task in tasks.values()], float)
    models = {name: task.initial() for name, task in tasks.items()}
    for round in range(3):
        fits = np.stack([task.fit(models[name], round, None, None).vector for name, task in tasks.items()])  # type: ignore[arg-type]
        models = dict.fromkeys(tasks, (samples @ fits.astype(np.float64) / samples.sum()).astype(np.float32))
    outcome = play(run, tmp_path)
    assert all((outcome.vectors[name] == models[name]).all() for name in tasks)
    assert [(event.twins, event.samples) for event in outcome.of(facts.CloudMerged)] == [(run.terms.everyone, 100)] * 3
    assert {tuple(event.weights.items()) for event in outcome.of(facts.Merged)} == {((CLOUD, 1.0),)}
    check_history(outcome, run)


def test_what_the_cloud_hears_and_answers_is_whole_under_a_partial_codec(tmp_path: Path) -> None:
    dense, partial = (play(cloudy(rounds=4, rate=0.3, codec=codec), tmp_path) for codec in (Dense(), TopK(share=0.2)))
    assert dense.digest == partial.digest
    assert len(dense.of(facts.CloudMerged)) == 4


def test_one_twin_with_a_cloud_learns_what_it_learns_alone(tmp_path: Path) -> None:
    one = Ring(twins=1).build(1)
    with_cloud, alone = (play(toy(one, rate=0.3, cloud=cloud), tmp_path).vectors for cloud in (CloudTerms(1, 9.0, 3.0), None))
    assert (with_cloud["ct-01"] == alone["ct-01"]).all()


def test_the_cloud_is_asked_every_so_many_rounds(tmp_path: Path) -> None:
    outcome = play(cloudy(every=3, rounds=10), tmp_path)
    assert {event.round for event in outcome.of(facts.FrameSent) if event.to == CLOUD} == {2, 5, 8}
    assert len(outcome.of(facts.CloudMerged)) == 3


def test_gossip_goes_on_between_and_with_the_cloud(tmp_path: Path) -> None:
    outcome = play(cloudy(every=2, rounds=6, partners=All(), rate=0.1), tmp_path)
    weights = [sorted(event.weights) for event in outcome.of(facts.Merged) if event.twin == "ct-01"]
    assert weights == [["ct-02", "ct-04"], [CLOUD]] * 3


def test_the_cloud_answers_whom_it_heard_at_its_deadline_and_the_others_next_time(tmp_path: Path) -> None:
    """Everybody but ct-04 comes in time; ct-04's uploads meet an empty cloud."""
    run = cloudy(rounds=2, wait=100.0, deadline=3.0, speeds={"ct-04": 0.05})
    outcome = play(run, tmp_path)
    first, second, *_ = [event.twins for event in outcome.of(facts.CloudMerged)]
    assert first == second == ("ct-01", "ct-02", "ct-03")
    assert outcome.of(facts.CloudMerged)[-1].twins == ("ct-04",)
    assert not outcome.of(facts.CloudMissed)


def test_a_twin_waits_no_longer_than_agreed_and_refuses_the_late_answer(tmp_path: Path) -> None:
    run = cloudy(rounds=2, wait=1.0, deadline=50.0, speeds={"ct-04": 0.1})
    outcome = play(run, tmp_path)
    late = [event for event in outcome.of(facts.FrameRefused) if event.sender == CLOUD]
    assert {event.code for event in late} == {"E409"}
    missed = [(event.twin, event.round, round(event.t, 6)) for event in outcome.of(facts.CloudMissed) if event.twin == "ct-01"]
    assert missed == [("ct-01", 0, 1.5), ("ct-01", 1, 3.0)]


def test_an_answer_and_a_frame_exactly_when_the_wait_ends_are_both_in_time(tmp_path: Path) -> None:
    """At 1.5 s b hears c and then the cloud, and both its waits end: c's frame must not end them before the answer is heard."""
    link, speeds = Link(latency=0.5, bandwidth=1e300), {"a": 2.0, "c": 0.5}
    cloud = CloudTerms(every=1, wait=1.0, deadline=0.25)
    run = toy(Ring(names=("a", "b", "c")).build(1), rounds=1, cloud=cloud, link=link, pace=Synchronous(1.0), speeds=speeds)
    outcome = play(run, tmp_path)
    heard = [(event.sender, event.t) for event in outcome.of(facts.FrameHeard) if event.twin == "b"]
    assert heard == [("a", 0.75), ("c", 1.5), (CLOUD, 1.5)]
    (merged,) = [event for event in outcome.of(facts.Merged) if event.twin == "b"]
    assert merged.weights == {CLOUD: 1.0}


@pytest.mark.parametrize("pace", [Synchronous(5.0), Asynchronous()], ids=["synchronous", "asynchronous"])
def test_while_the_cloud_is_away_the_twins_go_on_and_meet_it_again(pace: Any, tmp_path: Path) -> None:
    run = cloudy(rounds=20, partners=All(), pace=pace, incidents=[Outage(CLOUD, 2.0, 6.0)])
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert len(outcome.of(facts.RoundDone)) == 4 * 20
    merged = [event.t for event in outcome.of(facts.CloudMerged)]
    assert min(merged) < 2.0
    assert max(merged) > 6.0
    assert not [t for t in merged if 2.0 <= t < 6.0]
    assert outcome.of(facts.CloudMissed)
    assert not outcome.degraded


def test_a_twin_that_was_away_joins_the_round_the_cloud_is_in(tmp_path: Path) -> None:
    """ct-04 misses rounds, its first upload tells it which, and from then on it is averaged with its peers to the end."""
    run = cloudy(rounds=20, wait=4.0, deadline=1.0, incidents=[Outage("ct-04", 2.0, 6.0)])
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    done = {name: [event.round for event in outcome.of(facts.RoundDone) if event.twin == name] for name in ("ct-01", "ct-04")}
    assert done["ct-01"] == list(range(20))
    skipped = sorted(set(range(20)) - set(done["ct-04"]))
    assert skipped == list(range(skipped[0], skipped[0] + len(skipped)))
    assert done["ct-04"] == sorted(set(done["ct-04"]))
    last = [event.twins for event in outcome.of(facts.CloudMerged)][-3:]
    assert last == [("ct-01", "ct-02", "ct-03", "ct-04")] * 3
    assert len({vector.tobytes() for vector in outcome.vectors.values()}) == 1


def test_without_lockstep_nobody_skips_a_round_for_the_cloud(tmp_path: Path) -> None:
    run = cloudy(rounds=8, partners=All(), pace=Asynchronous(), incidents=[Outage("ct-04", 2.0, 6.0)])
    outcome = play(run, tmp_path)
    assert len(outcome.of(facts.RoundDone)) == 4 * 8


def test_who_is_ahead_of_the_others_hastens_nobody(tmp_path: Path) -> None:
    """The rounds of a cloud's twins are told by their lower median."""
    run = cloudy(rounds=12, deadline=1.0, wait=4.0, incidents=[Outage(CLOUD, 2.0, 2.6)], speeds={"ct-04": 2.0})
    outcome = play(run, tmp_path)
    for name in ("ct-01", "ct-02", "ct-03"):
        assert [event.round for event in outcome.of(facts.RoundDone) if event.twin == name] == list(range(12))


def test_a_cloud_that_never_comes_back_costs_only_its_answers(tmp_path: Path) -> None:
    """The twins learn at once that their uploads are lost, so nobody waits."""
    gone, never = (play(toy(rounds=6, rate=0.1, **more), tmp_path) for more in (
        {"cloud": CloudTerms(1, 20.0, 10.0), "incidents": [Outage(CLOUD, 0.0, None)]}, {}
    ))  # fmt: skip
    assert all((gone.vectors[name] == never.vectors[name]).all() for name in never.vectors)
    assert gone.events[-1].t == pytest.approx(never.events[-1].t, abs=0.01)
    assert len(gone.of(facts.CloudMissed)) == 6 * 8


def test_a_crashed_cloud_comes_back_as_its_second_incarnation_and_is_believed(tmp_path: Path) -> None:
    run = cloudy(rounds=12, incidents=[Crash(CLOUD, 2.3, 1.0)], wait=2.0)
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert [(event.twin, event.scripted) for event in outcome.of(facts.Crashed)] == [(CLOUD, True)]
    assert [(event.twin, event.incarnation) for event in outcome.of(facts.Revived)] == [(CLOUD, 2)]
    rounds = [event.round for event in outcome.of(facts.CloudMerged)]
    assert rounds == list(range(len(rounds)))
    assert outcome.of(facts.CloudMerged)[-1].t > 3.3
    assert not outcome.degraded
    assert len(outcome.of(facts.TwinDone)) == 4


def test_the_cloud_does_not_crash_when_all_is_over(tmp_path: Path) -> None:
    class Unkillable(LocalSwarm):
        def kill(self, name: str) -> None:
            raise AssertionError(name)

    outcome = conduct(cloudy(rounds=2, incidents=[Crash(CLOUD, 5000.0)]), Unkillable(), tmp_path)
    assert not outcome.of(facts.Crashed)
    assert not outcome.of(facts.IncidentBegan)
    assert outcome.events[-1].t < 100


# ---------------------------------------------------------------------- the participant alone


def upload(run: Toy, name: str = "ct-01") -> Parcel:
    """The first upload of a twin."""
    twin = run(name)
    twin.begin(0.0)
    found = [parcel for _ in range(3) for parcel in twin.advance(1e9).parcels]
    return next(parcel for parcel in found if parcel.receiver == CLOUD)


def cloud_of(run: Toy) -> Cloud:
    made = run(CLOUD)
    assert isinstance(made, Cloud)
    return made


def test_an_upload_is_counted_once_and_garbage_not_at_all() -> None:
    run = cloudy()
    cloud, parcel = cloud_of(run), upload(run)
    broken = Parcel(parcel.sender, CLOUD, parcel.arrives, 99, parcel.head[:-1], parcel.payload)
    for sent in (parcel, parcel, broken):
        cloud.post(sent)
    codes = [event.code for event in cloud.advance(1.0).events if isinstance(event, facts.FrameRefused)]
    assert sorted(codes) == ["E401", "E407"]
    assert list(cloud.uploads) == ["ct-01"]


def test_the_cloud_refuses_what_is_no_upload() -> None:
    run = toy(Ring(names=("a", "b")).build(1), rounds=1)
    twin = run("a")
    twin.begin(0.0)
    (parcel,) = twin.advance(1e9).parcels
    with_cloud = toy(Ring(names=("a", "b")).build(1), rounds=1, cloud=CloudTerms(1, 1.0, 1.0))
    cloud = cloud_of(with_cloud)
    cloud.post(Parcel("a", CLOUD, (0.5,), 1, parcel.head, parcel.payload))
    (refusal,) = cloud.advance(1.0).events
    assert isinstance(refusal, facts.FrameRefused)
    assert refusal.code == "E410"


def test_a_restored_cloud_knows_its_round_who_was_revived_and_what_its_policy_remembers() -> None:
    run = cloudy()
    cloud, again = cloud_of(run), cloud_of(run)
    cloud.completed, cloud.mailbox.incarnations = 7, {"ct-02": 3}
    cloud.memory = {"models": [np.arange(3, dtype=np.float32)], "homes": {"ct-02": 1}, "none": None, "deep": [[1, [2.5]]]}
    again.restore(cloud.snapshot(), 2)
    assert (again.completed, again.mailbox.incarnations, again.incarnation) == (7, {"ct-02": 3}, 2)
    assert again.snapshot() == cloud.snapshot()
    assert (again.memory["models"][0] == [0, 1, 2]).all()


def test_the_state_of_an_older_version_is_e505() -> None:
    body = msgpack.packb([7, {"ct-02": 3}])
    with pytest.raises(CheckpointError, match="E505"):
        cloud_of(cloudy()).restore(hashlib.sha256(body).digest() + body, 2)


@pytest.mark.parametrize(
    "damage", [lambda saved: b"", lambda saved: saved[:-1], lambda saved: b"x" + saved[1:], lambda saved: saved + b"x"]
)
def test_a_damaged_state_is_e502(damage: Callable[[bytes], bytes]) -> None:
    run = cloudy()
    with pytest.raises(CheckpointError, match="E502"):
        cloud_of(run).restore(damage(cloud_of(run).snapshot()), 2)
