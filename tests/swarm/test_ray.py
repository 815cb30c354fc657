"""Ray only carries: the same bytes as in one process; whoever is killed comes back or is named; nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from p2pftl import events as facts
from p2pftl.errors import P2pftlError, UsageError
from p2pftl.events import Event
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.swarm.ray import RaySwarm
from p2pftl.world.incidents import Crash
from p2pftl.world.links import Link
from p2pftl.world.topologies import Ring
from tests.toys import Large, Leaky, Mortal, Toy, conduct, play, storm, toy

pytestmark = pytest.mark.ray
FOUR = Ring(twins=4).build(1)


@pytest.fixture(scope="module")
def swarm() -> Iterator[RaySwarm]:
    """One Ray for all tests of this module; at the end nothing of it is left."""
    started = RaySwarm(run="tests")
    folder = started.cluster.folder
    yield started
    pids = [home.where.process[0] for home in started._homes.open.values() if home.where]
    assert pids
    started.stop()
    assert folder is not None
    assert not folder.exists()
    assert not [pid for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def apart(run: Toy) -> list[tuple[str, ...]]:
    """Everybody in a process of its own."""
    return [(name,) for name in run.names]


def packed(run: Toy) -> list[tuple[str, ...]]:
    """Two crews; whose crash is scripted has a process of its own, as a plan arranges it."""
    alone = [name for name in run.names if run.world.crashes(name)]
    rest = [name for name in run.names if name not in alone]
    return [tuple(rest[0::2]), tuple(rest[1::2]), *((name,) for name in alone)]


def killer(swarm: RaySwarm, names: Sequence[str], rounds: int) -> Callable[[Event], None]:
    """A sink that kills the processes of `names` when so many rounds are done."""
    left = Counter(rounds=rounds)

    def watch(event: Event) -> None:
        left["rounds"] -= isinstance(event, facts.RoundDone)
        if left["rounds"] == 0:
            left["rounds"] = -1
            for pid in {swarm.process(name) for name in names}:
                os.kill(pid, signal.SIGKILL)

    return watch


@pytest.mark.parametrize(("crews", "processes"), [(apart, 9), (packed, 4)], ids=["one actor each", "packed"])
def test_events_and_models_are_those_of_one_process(
    swarm: RaySwarm, crews: Callable[[Toy], list[tuple[str, ...]]], processes: int, tmp_path: Path
) -> None:
    for k, pace in enumerate((Synchronous(4.0), Asynchronous())):
        run = storm(pace=pace)
        outcome = conduct(run, swarm, tmp_path / str(k), crews=crews(run))
        assert outcome.digest == play(run, tmp_path / "local").digest
        assert not outcome.degraded
        assert len({swarm.process(name) for name in run.names} - {os.getpid()}) == processes


def test_processes_that_were_warmed_up_are_those_that_run(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=2)
    crews = [("ct-01", "ct-02"), ("ct-03", "ct-04")]
    swarm.warm(crews)
    before = [swarm.process(name) for name in run.names]
    assert swarm.ask(os.getpid) == before[0]
    assert conduct(run, swarm, tmp_path / "ray", crews=crews).digest == play(run, tmp_path / "local").digest
    assert [swarm.process(name) for name in run.names] == before


def test_large_frames_survive_the_scripted_crash_of_their_sender(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=5, task=Large, pace=Synchronous(4.0), incidents=[Crash("ct-02", 1.57, 0.7)], link=Link(bandwidth=1e6))
    outcome = conduct(run, swarm, tmp_path / "ray", crews=apart(run))
    assert outcome.digest == play(run, tmp_path / "local").digest
    assert len(outcome.of(facts.Revived)) == 1
    assert not outcome.degraded


@pytest.mark.parametrize(
    ("pace", "names"), [(Synchronous(4.0), ["ct-03"]), (Asynchronous(), ["ct-02", "ct-03"])], ids=["one, synchronous", "two, asynchronous"]
)
def test_who_is_killed_unasked_is_revived_and_the_run_is_degraded(swarm: RaySwarm, pace: Any, names: list[str], tmp_path: Path) -> None:
    run = toy(FOUR, rounds=8, rate=0.1, pace=pace)
    outcome = conduct(run, swarm, tmp_path, crews=apart(run), watch=killer(swarm, names, 9))
    assert {(event.twin, event.rounds) for event in outcome.of(facts.TwinDone)} == {(name, 8) for name in run.names}
    assert {(event.twin, event.incarnation) for event in outcome.of(facts.Revived)} == {(name, 2) for name in names}
    assert {(event.twin, event.scripted) for event in outcome.of(facts.Crashed)} == {(name, False) for name in names}
    assert [why for why in outcome.degraded if "died" in why]
    times = [event.t for event in outcome.events]
    assert times == sorted(times)


def test_a_crew_that_is_killed_comes_back_member_by_member(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=6, rate=0.1, pace=Asynchronous())
    crews = [("ct-01", "ct-02"), ("ct-03", "ct-04")]
    outcome = conduct(run, swarm, tmp_path, crews=crews, watch=killer(swarm, ["ct-03"], 8))
    assert {event.twin for event in outcome.of(facts.Revived)} == {"ct-03", "ct-04"}
    assert len(outcome.of(facts.TwinDone)) == 4


def test_who_dies_again_and_again_is_lost_and_the_others_finish(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=4, task=Mortal, pace=Synchronous(3.0))
    outcome = conduct(run, swarm, tmp_path, crews=apart(run))
    assert [event.twin for event in outcome.of(facts.TwinLost)] == ["ct-01"]
    assert {event.twin for event in outcome.of(facts.TwinDone)} == {"ct-02", "ct-03", "ct-04"}
    assert outcome.degraded


def test_the_model_of_a_twin_that_died_after_its_end_is_its_last_saved_one(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=3, rate=0.1)
    expected = play(run, tmp_path / "local").vectors["ct-02"]
    assert (conduct(run, swarm, tmp_path / "ray", crews=apart(run)).vectors["ct-02"] == expected).all()
    os.kill(swarm.process("ct-02"), signal.SIGKILL)
    assert (swarm.vector("ct-02") == expected).all()


def test_an_error_inside_an_actor_names_the_twin_and_the_place_and_nothing_of_the_data(swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(FOUR, rounds=2, task=Leaky)
    with pytest.raises(P2pftlError, match=r"E700 ct-0\d stopped: ValueError at ") as caught:
        conduct(run, swarm, tmp_path, crews=apart(run))
    assert "DOE" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_process_that_dies_while_it_starts_is_e610(swarm: RaySwarm, tmp_path: Path) -> None:
    run = Stillborn(toy(FOUR))
    with pytest.raises(UsageError, match="E610 the process of ct-03 died while reading"):
        conduct(run, swarm, tmp_path, crews=apart(run.toy))  # type: ignore[arg-type]


def test_a_question_that_fails_or_kills_its_process_is_one_error(swarm: RaySwarm) -> None:
    with pytest.raises(P2pftlError, match="E700 a question stopped: ValueError"):
        swarm.ask(partial(int, "DOE"))
    swarm.warm([("ct-01",)])
    with pytest.raises(UsageError, match="E610 the process of ct-01 died while importing torch"):
        swarm.ask(Stillborn(toy(FOUR)).die)


class Stillborn:
    """A recruit whose third twin kills its process."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def __call__(self, name: str) -> Any:
        if name == "ct-03":
            self.die()
        return self.toy(name)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
