"""Several machines: twins spread over them and live where their data lie; a machine that is lost takes nobody with it for good."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster

from p2pftl import events as facts
from p2pftl.errors import DataError
from p2pftl.events import Event
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.swarm import leftovers
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.ray import RaySwarm
from p2pftl.world.topologies import Ring
from tests.runs import STORM, Ran, Watched, alone, here, written
from tests.toys import Toy, conduct, play, toy

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 2,
}
SIX = Ring(twins=6).build(1)
LONG = 300  # rounds, so that a machine is lost long before the end
PAIRS = [("ct-01", "ct-02"), ("ct-03", "ct-04"), ("ct-05", "ct-06")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three Ray machines on this one; the second says that it holds the data of ct-05."""
    before = leftovers.descendants()
    folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
    common = {"num_cpus": 2, "object_store_memory": 100_000_000}
    made = Cluster(
        initialize_head=True, head_node_args={**common, "_system_config": QUICK, "include_dashboard": False, "temp_dir": str(folder)}
    )
    made.add_node(**common, resources={"ct-05": 1})
    made.spare = made.add_node(**common)
    made.wait_for_nodes()
    yield made
    made.shutdown()
    leftovers.end([one for one in leftovers.descendants() if one not in before])
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def swarm(cluster: Cluster) -> Iterator[RaySwarm]:
    started = RaySwarm(run="cluster", address=cluster.address)
    yield started
    started.stop()


def where(swarm: RaySwarm, run: Toy) -> dict[str, str]:
    return {name: swarm.machine(name) for name in run.names}


def test_crews_are_spread_over_the_machines_and_the_bytes_are_those_of_one_process(
    cluster: Cluster, swarm: RaySwarm, tmp_path: Path
) -> None:
    run = toy(SIX, rounds=5, rate=0.2, pace=Asynchronous())
    outcome = conduct(run, swarm, tmp_path / "ray", crews=PAIRS)
    assert outcome.digest == play(run, tmp_path / "local").digest
    assert not outcome.degraded
    assert sorted(Counter(where(swarm, run).values()).values()) == [2, 2, 2]
    assert swarm.cores == 6


def test_who_has_data_on_a_machine_lives_there_and_shares_a_process_with_nobody_from_elsewhere(
    cluster: Cluster, swarm: RaySwarm, tmp_path: Path
) -> None:
    run = toy(SIX, rounds=2)
    swarm.start(run, [run.names[:3], run.names[3:]], Vault(tmp_path))
    hospital = next(one["NodeID"] for one in ray.nodes() if "ct-05" in one["Resources"])
    assert where(swarm, run)["ct-05"] == hospital
    assert [name for name in run.names if swarm.process(name) == swarm.process("ct-05")] == ["ct-05"]
    assert swarm.process("ct-04") == swarm.process("ct-06")


class Elsewhere:
    """A recruit whose third twin's studies are not on its machine."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def __call__(self, name: str) -> Any:
        if name == "ct-03":
            Path("/nowhere/DOE^JANE.dcm").read_bytes()
        return self.toy(name)


def test_studies_that_are_not_there_are_one_error_that_names_the_machine(swarm: RaySwarm, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"E301 .*ct-03, ct-04: .* not there on the machine \d+\.\d+\.\d+\.\d+; .*--resources") as caught:
        swarm.start(Elsewhere(toy(SIX)), PAIRS, Vault(tmp_path))  # type: ignore[arg-type]
    assert "DOE" not in str(caught.value)


def test_a_run_by_address_ends_with_the_digest_of_a_local_one(cluster: Cluster, phantoms: Path, tmp_path: Path) -> None:
    file = written(tmp_path, {**STORM, "control": None, "data": {**STORM["data"], "cache": str(phantoms)}})
    ended = alone("run", file, "--address", cluster.address, "--out", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert here(file, out=tmp_path / "local").digest in ended.stdout


def test_a_lost_machine_is_survived_and_named(cluster: Cluster, swarm: RaySwarm, tmp_path: Path) -> None:
    run = toy(SIX, rounds=LONG, rate=0.1, pace=Synchronous(4.0))
    left = Counter(rounds=12)
    lost: set[str] = set()

    def watch(event: Event) -> None:
        left["rounds"] -= isinstance(event, facts.RoundDone)
        if left["rounds"] == 0:
            left["rounds"] = -1
            lost.update(name for name, machine in where(swarm, run).items() if machine == cluster.spare.node_id)
            cluster.remove_node(cluster.spare, allow_graceful=False)

    outcome = conduct(run, swarm, tmp_path, crews=PAIRS, watch=watch)
    assert len(lost) == 2
    assert {(event.twin, event.rounds) for event in outcome.of(facts.TwinDone)} == {(name, LONG) for name in run.names}
    assert {event.twin for event in outcome.of(facts.Revived)} == lost
    assert {f"{name} died: its machine is gone" for name in lost} <= set(outcome.degraded)
    assert cluster.spare.node_id not in where(swarm, run).values()
    assert len({swarm.process(name) for name in lost}) == 1


def test_who_may_live_on_a_lost_machine_only_is_lost_and_the_others_finish(cluster: Cluster, swarm: RaySwarm, tmp_path: Path) -> None:
    hospital = next(one for one in cluster.list_all_nodes() if "ct-05" in (one._ray_params.resources or {}))
    run = toy(SIX, rounds=LONG, rate=0.1, pace=Synchronous(4.0))
    left = Counter(rounds=12)

    def watch(event: Event) -> None:
        left["rounds"] -= isinstance(event, facts.RoundDone)
        if left["rounds"] == 0:
            left["rounds"] = -1
            cluster.remove_node(hospital, allow_graceful=False)

    outcome = conduct(run, swarm, tmp_path, crews=[PAIRS[0], PAIRS[1], ("ct-05",), ("ct-06",)], watch=watch)
    assert [event.twin for event in outcome.of(facts.TwinLost)] == ["ct-05"]
    assert "ct-05 did not come back: no machine that is up holds its data" in outcome.degraded
    assert len(outcome.of(facts.TwinDone)) == 5


def test_a_command_that_loses_a_machine_ends_degraded_and_its_report_says_why(cluster: Cluster, phantoms: Path, tmp_path: Path) -> None:
    large = cluster.add_node(num_cpus=30, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    small = {"control": None, "incidents": [], "cloud": None, "rounds": 30, "data": {**STORM["data"], "cache": str(phantoms)}}
    temporary = tmp_path / "t"
    temporary.mkdir()
    with Watched(written(tmp_path, STORM, **small), "--address", cluster.address, out=tmp_path / "out", temporary=temporary) as run:
        run.until("round 2/30")
        cluster.remove_node(large, allow_graceful=False)
        assert run.ended(200) == 3, run.said
    ended = Ran(3, run.said, "", tmp_path / "out")
    assert "ct-01 died: its machine is gone" in ended.summary["reasons"]
    assert [twin["rounds"] for twin in ended.summary["twins"].values()] == [30, 30, 30]
    assert "its machine is gone" in ended.page
