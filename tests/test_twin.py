"""The gossip of whole runs against its theory, and against everything the world can do to it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pftl import events as facts
from p2pftl.agenda import Step
from p2pftl.gossip.aggregators import PushSum
from p2pftl.gossip.codecs import Dense, Half, TopK
from p2pftl.gossip.frames import PREFIX
from p2pftl.gossip.mixing import Metropolis, Uniform
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import All, Epidemic, Nobody, OnePeerExponential, Random
from p2pftl.gossip.spectrum import matrix, spectral_gap
from p2pftl.params import Vector
from p2pftl.policies import find, registered
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.swarm.local import LocalSwarm
from p2pftl.swarm.seams import Delivered
from p2pftl.terms import CloudTerms
from p2pftl.world import topologies
from p2pftl.world.incidents import CutLink, Join, Outage, Partition, SlowLink, SlowScanner
from p2pftl.world.links import Link
from p2pftl.world.topology import Topology
from tests.history import check_history
from tests.toys import LAYOUT, Outcome, Poison, Pull, Together, Toy, play, storm, toy

Matrix = npt.NDArray[np.float64]

GRAPHS = {
    "ring": topologies.Ring(twins=8),
    "complete": topologies.Complete(twins=5),
    "star": topologies.Star(twins=6),
    "grid": topologies.Grid(rows=2, columns=4),
    "tree": topologies.Tree(twins=7),
    "erdos_renyi": topologies.ErdosRenyi(p=0.5, twins=8),
    "clusters": topologies.Clusters(hospitals=3, clusters=3),
    "pair": topologies.Line(twins=2),
}
every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
FLOAT = 1e-6


def stacked(vectors: Mapping[str, Vector]) -> Matrix:
    return np.stack([vectors[name] for name in sorted(vectors)]).astype(np.float64)


def start(run: Toy) -> Matrix:
    return stacked({name: run(name).vector for name in run.terms.everyone})  # type: ignore[attr-defined]


def end(run: Toy, folder: Path) -> Matrix:
    return stacked(play(run, folder).vectors)


def disagreement(models: Matrix) -> float:
    return float(np.square(models - models.mean(axis=0)).sum())


def dwindle(run: Toy) -> tuple[Matrix, float, Outcome]:
    """Play `run`; return its last models, how far their mean is from the first one, and what happened."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = play(run, Path(folder))
    models = stacked(outcome.vectors)
    return models, float(np.abs(models.mean(axis=0) - start(run).mean(axis=0)).max()), outcome


# ---------------------------------------------------------------------- lossless averaging is the matrix


@every_graph
@pytest.mark.parametrize(
    "mixing", [find("mixing", name)() for name in sorted(registered("mixing"))], ids=lambda mixing: type(mixing).__name__
)
def test_synchronous_averaging_is_x_becomes_w_x(graph: Any, mixing: Metropolis, tmp_path: Path) -> None:
    run = toy(graph.build(1), rounds=4, mixing=mixing)
    weights = matrix(run.world.topology.graph(), mixing)
    assert np.abs(end(run, tmp_path) - np.linalg.matrix_power(weights, 4) @ start(run)).max() < FLOAT


@every_graph
def test_disagreement_shrinks_in_every_round_at_least_by_the_gap_squared(graph: Any, tmp_path: Path) -> None:
    topology = graph.build(1)
    factor = (1 - spectral_gap(matrix(topology.graph(), Metropolis()))) ** 2
    before = disagreement(start(toy(topology)))
    for rounds in range(1, 5):
        after = disagreement(end(toy(topology, rounds=rounds), tmp_path))
        assert after <= factor * before * (1 + FLOAT) + 1e-9
        before = after


def test_unequal_speeds_change_the_time_and_not_the_result(tmp_path: Path) -> None:
    topology = topologies.Grid(rows=2, columns=3).build(1)
    speeds = {name: 0.3 + k for k, name in enumerate(topology.names)}
    even, uneven = play(toy(topology), tmp_path), play(toy(topology, speeds=speeds, link=Link(jitter=3.0, latency=0.0)), tmp_path)
    assert stacked(even.vectors).tobytes() == stacked(uneven.vectors).tobytes()
    assert even.events[-1].t < uneven.events[-1].t


@pytest.mark.parametrize("n", [2, 8, 16])
@pytest.mark.parametrize("where", ["partners", "topology"])
def test_one_peer_exponential_gives_the_exact_mean_after_log2_n_rounds(n: int, where: str, tmp_path: Path) -> None:
    if where == "partners":
        run = toy(topologies.Complete(twins=n).build(1), rounds=int(math.log2(n)), partners=OnePeerExponential())
    else:
        run = toy(topologies.OnePeerExponential(twins=n).build(1), rounds=int(math.log2(n)))
    models = end(run, tmp_path)
    assert np.abs(models - start(run).mean(axis=0)).max() < FLOAT


def test_epidemic_graphs_of_equal_degree_keep_the_mean_and_contract(tmp_path: Path) -> None:
    run = toy(topologies.Epidemic(s=2, twins=10).build(1), rounds=12)
    models = end(run, tmp_path)
    assert np.abs(models.mean(axis=0) - start(run).mean(axis=0)).max() < FLOAT
    assert disagreement(models) < 0.01 * disagreement(start(run))


def test_uniform_mixing_keeps_the_mean_on_regular_graphs_only(tmp_path: Path) -> None:
    """The test proves its own power: on a star the mean moves."""
    for graph, kept in ((topologies.Regular(k=3, twins=8), True), (topologies.Star(twins=6), False)):
        run = toy(graph.build(1), rounds=8, mixing=Uniform())
        assert (np.abs(end(run, tmp_path).mean(axis=0) - start(run).mean(axis=0)).max() < FLOAT) == kept


def test_a_codec_that_rounds_moves_the_mean_by_no_more_than_its_error(tmp_path: Path) -> None:
    run = toy(rounds=6, codec=Half())
    drift = np.abs(end(run, tmp_path).mean(axis=0) - start(run).mean(axis=0)).max()
    assert drift < 6 * 2**-11 * np.abs(start(run)).max()


def test_sharing_all_of_a_model_by_top_k_is_sharing_it_densely(tmp_path: Path) -> None:
    dense, whole = (play(toy(rounds=6, rate=0.2, codec=codec), tmp_path).vectors for codec in (Dense(), TopK(share=1.0)))
    assert stacked(dense).tobytes() == stacked(whole).tobytes()


@pytest.mark.parametrize("pace", [Synchronous(5.0), Asynchronous()], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("partners", [All(), Epidemic(2)], ids=["all", "epidemic"])
def test_what_top_k_left_out_is_told_later_so_the_twins_agree_in_the_end(partners: Any, pace: Any, tmp_path: Path) -> None:
    """After one local step, a tenth of the elements a round; nothing leaves the hull of the models after that step."""
    graph = topologies.Ring(twins=5).build(1)
    goals = end(toy(graph, rounds=1, rate=1.0, task=Together, partners=Nobody()), tmp_path)
    run = toy(graph, rounds=120, rate=1.0, task=Together, codec=TopK(share=0.1), partners=partners, pace=pace)
    models = end(run, tmp_path)
    assert disagreement(models) < 1e-3 * disagreement(goals)
    reached = np.concatenate([goals, start(run)])
    assert (models >= reached.min(axis=0) - FLOAT).all()
    assert (models <= reached.max(axis=0) + FLOAT).all()


def test_what_nobody_heard_does_not_count_as_told(tmp_path: Path) -> None:
    away = [Partition((("ct-01",),), 0.0, None)]
    swarm, run = LocalSwarm(), toy(rounds=3, rate=0.5, task=Together, codec=TopK(), incidents=away)
    list(Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(tmp_path))))
    lone, other = (swarm.crew.members[name] for name in ("ct-01", "ct-02"))
    assert (lone.told == lone.model.start).all()  # type: ignore[attr-defined]
    assert np.count_nonzero(other.told != other.model.start) > 0.1 * len(other.vector)  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", sorted(registered("codec")))
@pytest.mark.parametrize("pace", [Synchronous(4.0), Asynchronous()], ids=["synchronous", "asynchronous"])
def test_a_storm_under_every_codec_gives_a_possible_history_and_models_near_each_other(codec: str, pace: Any, tmp_path: Path) -> None:
    run = storm(pace=pace, codec=find("codec", codec)())
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert len(outcome.of(facts.TwinDone)) == 8
    assert not [event for event in outcome.of(facts.FrameRefused) if event.code in ("E414", "E415")]
    assert play(run, tmp_path, shuffle=3).digest == outcome.digest


def test_without_partners_nothing_is_sent_and_nothing_changes(tmp_path: Path) -> None:
    run = toy(partners=Nobody())
    outcome = play(run, tmp_path)
    assert stacked(outcome.vectors).tobytes() == start(run).tobytes()
    assert not outcome.of(facts.FrameSent)
    assert len(outcome.of(facts.RoundDone)) == 8 * 5


# ---------------------------------------------------------------------- the mean survives whatever the world does


@st.composite
def worlds(draw: st.DrawFn, *, ties: bool = False) -> Toy:
    """A lockstep, undirected run in a hostile world; `ties`: times that coincide, so that frames arrive exactly at deadlines."""
    topology = draw(st.sampled_from(list(GRAPHS.values()))).build(draw(st.integers(0, 3)))
    moments = st.integers(0, 30).map(lambda k: k / 4) if ties else st.floats(0, 8)
    link = Link(
        latency=draw(st.sampled_from([0.25, 0.5, 1.0] if ties else [0.0, 0.05, 0.7])),
        bandwidth=1e15 if ties else 1e5,
        jitter=0.0 if ties else draw(st.sampled_from([0.0, 0.5, 3.0])),
        loss=draw(st.sampled_from([0.0, 0.1, 0.4])),
        duplication=draw(st.sampled_from([0.0, 0.3])),
    )
    return toy(
        topology,
        rounds=draw(st.integers(1, 8)),
        link=link,
        incidents=[draw(incidents(topology, moments)) for _ in range(draw(st.integers(0, 4)))],
        pace=Synchronous(draw(st.sampled_from([0.25, 0.5, 1.0, 4.0, 60.0]))),
        partners=draw(st.sampled_from([All(), Random(1), Random(2)])),
        speeds={name: draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])) for name in topology.names},
        seed=draw(st.integers(0, 10**6)),
    )


@st.composite
def incidents(draw: st.DrawFn, topology: Topology, moments: st.SearchStrategy[float]) -> Any:
    twin, at = draw(st.sampled_from(topology.names)), draw(moments)
    until = at + draw(moments) + 0.25
    edge = draw(st.sampled_from(sorted(topology.union().edges)))
    return draw(
        st.sampled_from(
            [
                Outage(twin, at, until),
                Partition(((twin,),), at, until),
                CutLink(edge, at, until),
                SlowLink(edge, at, until, 8.0),
                SlowScanner(twin, at, until, 5.0),
                Join(twin, at),
            ]
        )
    )


def keeps_the_mean(run: Toy) -> None:
    models, drift, outcome = dwindle(run)
    assert drift < FLOAT
    assert disagreement(models) <= disagreement(start(run)) + FLOAT
    assert len(outcome.of(facts.TwinDone)) == len(run.terms.everyone)
    check_history(outcome, run)


hostile = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@hostile
@given(worlds())
def test_lockstep_mixing_keeps_the_mean_under_loss_jitter_duplicates_deadlines_outages_and_cuts(run: Toy) -> None:
    keeps_the_mean(run)


@hostile
@given(worlds(ties=True))
def test_and_where_everything_happens_at_the_same_instants(run: Toy) -> None:
    keeps_the_mean(run)


@pytest.mark.slow
@settings(deadline=None, max_examples=3000, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans().flatmap(lambda ties: worlds(ties=ties)))
def test_three_thousand_worlds(run: Toy) -> None:
    keeps_the_mean(run)


def test_two_frames_that_arrive_exactly_at_the_deadline_are_both_in_time(tmp_path: Path) -> None:
    """Merging at the first of them would drop the second here, while its sender counts it."""
    run = toy(topologies.Complete(twins=3).build(1), rounds=1, pace=Synchronous(0.5), link=Link(latency=0.5, bandwidth=1e300))
    assert np.abs(end(run, tmp_path) - start(run).mean(axis=0)).max() < FLOAT


def test_a_twin_left_behind_gives_up_only_on_peers_that_gave_up_on_it(tmp_path: Path) -> None:
    """Lost frames let peers run ahead; a frame of theirs that is overtaken by their next ones still counts, at both ends."""
    link = Link(latency=0.05, jitter=8.0, loss=0.5)
    for seed in range(12):
        keeps_the_mean(toy(topologies.Line(twins=2).build(1), rounds=30, link=link, seed=seed))
        keeps_the_mean(toy(topologies.Ring(twins=4).build(1), rounds=8, link=link, seed=seed))


@hostile
@given(worlds(), st.sampled_from([0.3, 1.0, 5.0]))
def test_waiting_for_a_cloud_that_never_answers_lets_no_late_frame_in(run: Toy, wait: float) -> None:
    """Gossip was over at its deadline, which the other end counts with."""
    terms = replace(run.terms, cloud=CloudTerms(every=1, wait=wait, deadline=1.0))
    keeps_the_mean(replace(run, terms=terms, world=replace(run.world, cloud=Link(latency=1000.0))))


@pytest.mark.parametrize("pace", sorted(registered("pace")))
@pytest.mark.parametrize("aggregator", sorted(registered("aggregator")))
@pytest.mark.parametrize("partners", [All(), Random(2), Epidemic(2)], ids=lambda partners: type(partners).__name__)
def test_no_merge_leaves_the_hull_of_the_first_models_however_often_one_peer_sends(
    pace: str, aggregator: str, partners: Any, tmp_path: Path
) -> None:
    run = toy(
        topologies.Complete(twins=5).build(1), rounds=25, speeds={"ct-01": 0.1, "ct-02": 9.0}, partners=partners, link=Link(jitter=0.5),
        pace=find("pace", pace)(), aggregator=find("aggregator", aggregator)(),
    )  # fmt: skip
    models, first = end(run, tmp_path), start(run)
    assert (models >= first.min(axis=0) - FLOAT).all()
    assert (models <= first.max(axis=0) + FLOAT).all()


def test_a_twin_that_was_away_joins_the_round_of_its_peers(tmp_path: Path) -> None:
    """Waiting out its deadline for frames that were lost while it was away would hold up everybody."""
    run = toy(rounds=30, incidents=[Outage("ct-03", 2.6, 9.0)], pace=Synchronous(60.0))
    outcome = play(run, tmp_path)
    assert max(event.t for event in outcome.of(facts.TwinDone)) < 30 * 0.6 + 15
    rounds = [event.round for event in outcome.of(facts.RoundDone) if event.twin == "ct-03"]
    assert rounds[-1] == 29
    assert len(rounds) < 30
    check_history(outcome, run)


# ---------------------------------------------------------------------- push-sum


class Tapped(LocalSwarm):
    """Keeps the header and the values of every frame that was delivered."""

    def start(self, *brief: Any) -> list[Step]:
        self.frames: dict[tuple[str, str, int], tuple[float, Matrix]] = {}
        return super().start(*brief)

    def _deliver(self, turn: int) -> Delivered:
        parcel = self._flying[turn]
        assert parcel.payload is not None
        said = msgpack.unpackb(parcel.head[PREFIX.size :])
        values = Dense().decode(parcel.payload.data, LAYOUT.size).values.astype(np.float64)
        self.frames[parcel.sender, parcel.receiver, said["round"]] = said["mass"], said["mass"] * values
        return super()._deliver(turn)


def mass_and_sum(run: Toy, folder: Path) -> tuple[float, Matrix, Matrix]:
    """Sum of w and of w z over all twins, and what came to a twin that was done already; and the models."""
    swarm = Tapped()
    events = list(Conductor(run.world, swarm, swarm.start(run, [run.names], Vault(folder))))
    twins: Sequence[Any] = [swarm.crew.members[name] for name in run.terms.everyone]
    shares = [(twin.own.mass, twin.own.mass * twin.own.vector.astype(np.float64)) for twin in twins]
    merged_or_late = {(event.sender, event.twin, event.round) for event in events if isinstance(event, facts.FrameHeard)}
    shares += [share for frame, share in swarm.frames.items() if frame not in merged_or_late]
    models = stacked({twin.name: twin.vector for twin in twins})
    return math.fsum(mass for mass, _ in shares), np.sum([product for _, product in shares], axis=0), models


DIRECTED = {
    "epidemic partners": (topologies.Complete(twins=7), Epidemic(2)),
    "epidemic partners on a star": (topologies.Star(twins=6), Epidemic(1)),
    "one-peer exponential partners": (topologies.Complete(twins=6), OnePeerExponential()),
    "one-peer exponential graph": (topologies.OnePeerExponential(twins=7), All()),
    "exponential graph": (topologies.Exponential(twins=7), All()),
    "epidemic graph": (topologies.Epidemic(s=2, twins=8), All()),
    "undirected star": (topologies.Star(twins=6), All()),
    "random neighbours": (topologies.ErdosRenyi(p=0.5, twins=8), Random(1)),
}


@pytest.mark.parametrize(("graph", "partners"), DIRECTED.values(), ids=DIRECTED)
@pytest.mark.parametrize("pace", [Synchronous(5.0), Asynchronous()], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_push_sum_keeps_mass_and_sum_over_directed_changing_and_irregular_graphs(
    graph: Any, partners: Any, pace: Any, loss: float, tmp_path: Path
) -> None:
    """The share of a frame known to be lost stays with its sender."""
    run = toy(graph.build(1), rounds=9, aggregator=PushSum(), partners=partners, link=Link(loss=loss, jitter=0.3), pace=pace)
    mass, product, _ = mass_and_sum(run, tmp_path)
    n = len(run.terms.everyone)
    assert mass == pytest.approx(n, rel=1e-12)
    assert np.abs(product - start(run).sum(axis=0)).max() < n * FLOAT


@pytest.mark.parametrize("case", [case for case in DIRECTED if case != "epidemic partners on a star"])
def test_push_sum_reaches_the_first_mean_where_plain_averaging_need_not(case: str, tmp_path: Path) -> None:
    graph, partners = DIRECTED[case]
    run = toy(graph.build(1), rounds=40, aggregator=PushSum(), partners=partners, pace=Synchronous(5.0))
    first, models = start(run), end(run, tmp_path)
    assert np.abs(models - first.mean(axis=0)).max() < 1e-3


def test_push_sum_stays_finite_where_one_twin_sends_far_more_than_it_hears(tmp_path: Path) -> None:
    """Asynchronous, one scanner fifty times as fast: its weight falls to nothing, its model must not blow up."""
    run = toy(rounds=60, rate=0.3, pace=Asynchronous(), aggregator=PushSum(), speeds={"ct-01": 50.0})
    models = end(run, tmp_path)
    assert np.abs(models).max() < 10


# ---------------------------------------------------------------------- whatever is registered

ROOM = {"one_peer_exponential": topologies.Complete(twins=6)}


@pytest.mark.parametrize("pace", sorted(registered("pace")))
@pytest.mark.parametrize("aggregator", sorted(registered("aggregator")))
@pytest.mark.parametrize("partners", sorted(registered("partners")))
def test_every_combination_of_policies_finishes_with_a_possible_history_and_agrees_on_equal_models(
    pace: str, aggregator: str, partners: str, tmp_path: Path
) -> None:
    chosen = {seam: find(seam, name)() for seam, name in (("pace", pace), ("aggregator", aggregator), ("partners", partners))}
    link = Link(jitter=0.2, loss=0.2, duplication=0.2)
    run = toy(ROOM.get(partners, topologies.Ring(twins=6)).build(1), rounds=5, link=link, speeds={"ct-02": 3.0}, task=Same, **chosen)
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert len(outcome.of(facts.TwinDone)) == 6
    models = stacked(outcome.vectors)
    assert np.abs(models - models[0]).max() < FLOAT, "equal models stay equal"


def Same(name: str, seed: int, rate: float) -> Any:  # noqa: N802 (a task)
    return Pull("everybody", seed, rate)


# ---------------------------------------------------------------------- separate faults


@pytest.mark.parametrize("pace", [Synchronous(4.0), Asynchronous()], ids=["synchronous", "asynchronous"])
def test_a_storm_of_everything_gives_a_possible_history(pace: Any, tmp_path: Path) -> None:
    run = storm(pace=pace)
    outcome = play(run, tmp_path)
    check_history(outcome, run)
    assert not outcome.degraded
    assert len(outcome.of(facts.TwinDone)) == 8
    revived = {event.twin: (event.t, event.incarnation) for event in outcome.of(facts.Revived)}
    assert revived == {"ct-03": (3.8, 2), "cloud": (pytest.approx(7.8), 2)}


@pytest.mark.parametrize("pace", [Synchronous(1.0), Asynchronous()], ids=["synchronous", "asynchronous"])
def test_nothing_crosses_a_cut_and_after_healing_the_twins_agree_again(pace: Any, tmp_path: Path) -> None:
    left = ("ct-01", "ct-02", "ct-03", "ct-04")
    cut = Partition((left,), 0.0, 12.0)
    during = toy(rounds=8, incidents=[Partition((left,), 0.0, None)], pace=pace)
    outcome = play(during, tmp_path)
    assert not [event for event in outcome.of(facts.FrameHeard) if (event.sender in left) != (event.twin in left)]
    halves = stacked(outcome.vectors)
    for half, first in ((halves[:4], start(during)[:4]), (halves[4:], start(during)[4:])):
        assert disagreement(half) < 0.3 * disagreement(first), "each part goes on"
    healed = toy(rounds=60, incidents=[cut], pace=pace)
    outcome = play(healed, tmp_path)
    check_history(outcome, healed)
    assert disagreement(stacked(outcome.vectors)) < 1e-3 * disagreement(halves)
    assert {event.lost for event in outcome.of(facts.FrameSent)} == {"", "partition"}


@pytest.mark.parametrize("aggregator", sorted(registered("aggregator")))
@pytest.mark.parametrize("pace", [Synchronous(2.0), Asynchronous()], ids=["synchronous", "asynchronous"])
def test_a_twin_that_sends_nan_is_refused_by_each_neighbour_and_the_run_goes_on(aggregator: str, pace: Any, tmp_path: Path) -> None:
    run = toy(rounds=6, task=Poison, pace=pace, aggregator=find("aggregator", aggregator)())
    outcome = play(run, tmp_path)
    poisoned = outcome.of(facts.FrameRefused)
    assert {(event.twin, event.sender) for event in poisoned if event.code == "E415"} == {("ct-02", "ct-01"), ("ct-08", "ct-01")}
    assert sum(event.code == "E415" for event in poisoned) >= 6
    assert all(np.isfinite(vector).all() for name, vector in outcome.vectors.items() if name != "ct-01")
    assert len(outcome.of(facts.TwinDone)) == 8


def test_a_duplicate_is_refused_once_and_changes_nothing(tmp_path: Path) -> None:
    single, doubled = (play(toy(rounds=5, link=Link(duplication=share)), tmp_path) for share in (0.0, 0.99))
    copies = sum(event.copies == 2 for event in doubled.of(facts.FrameSent))
    refused = doubled.of(facts.FrameRefused)
    assert copies > 50
    assert len([event for event in refused if event.code == "E407"]) == copies
    assert stacked(single.vectors).tobytes() == stacked(doubled.vectors).tobytes()


def test_an_isolated_twin_trains_alone(tmp_path: Path) -> None:
    run = toy(rounds=5, rate=0.2, incidents=[Partition((("ct-03",),), 0.0, None)])
    alone = toy(rounds=5, rate=0.2, partners=Nobody())
    assert (play(run, tmp_path).vectors["ct-03"] == play(alone, tmp_path).vectors["ct-03"]).all()


# ---------------------------------------------------------------------- nobody's luck depends on another


def losses(run: Toy, folder: Path) -> dict[tuple[str, str, int], bool]:
    return {(event.twin, event.to, event.round): event.lost == "loss" for event in play(run, folder).of(facts.FrameSent)}


def test_a_new_twin_or_the_cloud_changes_no_other_frames_luck(tmp_path: Path) -> None:
    link = Link(loss=0.3, jitter=0.2)
    few = losses(toy(topologies.Star(twins=5).build(1), rounds=8, link=link), tmp_path)
    many = losses(toy(topologies.Star(twins=6).build(1), rounds=8, link=link), tmp_path)
    with_cloud = losses(toy(topologies.Star(twins=5).build(1), rounds=8, link=link, cloud=CloudTerms(2, 5.0, 2.0)), tmp_path)
    for more in (many, with_cloud):
        shared = few.keys() & more.keys()
        assert len(shared) > 40
        assert {frame: few[frame] for frame in shared} == {frame: more[frame] for frame in shared}


def test_a_new_twin_elsewhere_changes_no_bit_of_what_a_twin_learns(tmp_path: Path) -> None:
    few, many = (play(toy(topologies.Star(twins=n).build(1), rate=0.3, partners=Nobody()), tmp_path).vectors for n in (5, 6))
    assert all((few[name] == many[name]).all() for name in few)
