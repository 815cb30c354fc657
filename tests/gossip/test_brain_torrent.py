"""BrainTorrent (Roy et al. 2019), its merge and its versions: pushed here, pulled there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.gossip.aggregators import NeighbourhoodFedAvg, WeightedMean
from p2pftl.gossip.pace import Asynchronous
from p2pftl.gossip.seams import Copy, Heard
from p2pftl.world.incidents import Crash
from p2pftl.world.links import Link
from p2pftl.world.topologies import Complete
from tests.toys import Outcome, Toy, play, toy

NAMES = ("ct-01", "ct-02", "ct-03", "ct-04")


def heard(sender: str, value: float, samples: int, round: int = 0, weight: float = 0.1) -> Heard:
    return Heard(sender, round, Copy(np.full(3, value, np.float32)), weight, samples, 0.0)


def test_the_merge_is_the_mean_weighted_by_samples_whatever_the_order_and_the_mixing() -> None:
    own = Copy(np.full(3, 1, np.float32), samples=30)
    some = [heard("b", 4, 10), heard("a", -2, 20, weight=0.5)]
    (one, weights), (other, _) = (NeighbourhoodFedAvg().merge(own, given) for given in (some, some[::-1]))
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.vector[0] == pytest.approx((30 + 40 - 40) / 60)
    assert weights == {"a": pytest.approx(20 / 60), "b": pytest.approx(10 / 60)}


def test_a_version_that_was_merged_or_an_older_one_is_left_out_and_nothing_changes() -> None:
    own, _ = NeighbourhoodFedAvg().merge(Copy(np.zeros(3, np.float32), samples=10), [heard("b", 4, 10, round=5)])
    assert own.state == {"b": 5.0}
    for old in (5, 4):
        again, weights = NeighbourhoodFedAvg().merge(own, [heard("b", 9, 10, round=old)])
        assert (again.vector.tobytes(), again.state, weights) == (own.vector.tobytes(), own.state, {})
    newer, weights = NeighbourhoodFedAvg().merge(own, [heard("b", 9, 10, round=6), heard("c", 0, 20)])
    assert weights.keys() == {"b", "c"}
    assert newer.state == {"b": 6.0, "c": 0.0}


def test_pure_mixing_ends_at_the_mean_weighted_by_samples_and_neighbourhoods() -> None:
    """A path of three: W_ij = n_j / sum of n over N[i]; its left eigenvector is n_i sum of n over N[i]."""
    samples, edges = np.array([10.0, 30, 5]), np.array([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]])
    around = edges @ samples
    vectors = {name: Copy(np.full(1, value, np.float32), samples=int(n)) for name, value, n in zip("abc", (3, -1, 8), samples, strict=True)}
    for round in range(60):
        told = {name: Heard(name, round, copy, 0.0, copy.samples, 0.0) for name, copy in vectors.items()}
        rows = dict(zip("abc", edges, strict=True))
        near = {me: [told[peer] for peer, edge in zip("abc", row, strict=True) if edge and peer != me] for me, row in rows.items()}
        vectors = {me: NeighbourhoodFedAvg().merge(own, near[me])[0] for me, own in vectors.items()}
    limit = np.average([3, -1, 8], weights=samples * around)
    assert all(own.vector[0] == pytest.approx(limit, abs=1e-4) for own in vectors.values())


def taken(outcome: Outcome) -> dict[str, dict[str, list[int]]]:
    """Receiver -> sender -> the versions merged, in order: the newest that had come since the last merge."""
    waiting: dict[str, dict[str, int]] = defaultdict(dict)
    merged: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for event in outcome.events:
        if isinstance(event, facts.FrameHeard):
            waiting[event.twin][event.sender] = max(event.round, waiting[event.twin].get(event.sender, -1))
        if isinstance(event, facts.Merged):
            for sender in event.weights:
                merged[event.twin][sender].append(waiting[event.twin][sender])
            waiting[event.twin].clear()
    return merged


def brain(**more: Any) -> Toy:
    link = Link(latency=0.05, bandwidth=1e6, jitter=2.5, duplication=0.3)
    chosen: dict[str, Any] = {"rounds": 8, "link": link, "rate": 0.2, "speeds": {"ct-01": 3.0, "ct-04": 0.5}}
    return toy(Complete(names=NAMES).build(1), aggregator=NeighbourhoodFedAvg(), pace=Asynchronous(power=0), **chosen | more)


def test_brain_torrent_merges_no_version_twice_and_none_older_than_one_it_has_seen(tmp_path: Path) -> None:
    run = brain()
    outcome = play(run, tmp_path / "a", shuffle=1)
    versions = [row for senders in taken(outcome).values() for row in senders.values()]
    assert versions
    assert all(row == sorted(set(row)) for row in versions)
    assert outcome.digest == play(run, tmp_path / "b", shuffle=2).digest


def test_frames_do_overtake_each_other_in_that_run_so_that_another_merge_takes_old_versions(tmp_path: Path) -> None:
    outcome = play(replace(brain(), terms=replace(brain().terms, aggregator=WeightedMean())), tmp_path)
    assert any(row != sorted(set(row)) for senders in taken(outcome).values() for row in senders.values())


def test_brain_torrent_keeps_what_it_has_seen_over_a_crash(tmp_path: Path) -> None:
    run = brain(incidents=[Crash("ct-02", 4.2, 0.5)], rounds=10)
    outcome = play(run, tmp_path)
    assert len(outcome.of(facts.Revived)) == 1
    assert all(row == sorted(set(row)) for row in taken(outcome)["ct-02"].values())
