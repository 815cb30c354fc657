"""In this process: the same run whatever order answers and deliveries come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pftl.agenda import Parcel
from p2pftl.gossip.aggregators import AgeWeighted, PushSum, WeightedMean
from p2pftl.gossip.codecs import Half
from p2pftl.gossip.mixing import Uniform
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.partners import All, Epidemic, Random
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.local import LocalSwarm
from p2pftl.swarm.seams import Advanced, Delivered
from p2pftl.world.topology import CLOUD
from tests.toys import Heavy, play, storm, toy

RUNS: dict[str, dict[str, Any]] = {
    "synchronous": {"pace": Synchronous(4.0)},
    "asynchronous": {"pace": Asynchronous()},
    "push-sum, epidemic, half": {"pace": Asynchronous(), "aggregator": PushSum(), "partners": Epidemic(2), "codec": Half()},
    "push-sum, lockstep": {"pace": Synchronous(2.0), "aggregator": PushSum(), "partners": Epidemic(1)},
    "age-weighted, random": {"pace": Synchronous(1.0), "aggregator": AgeWeighted(), "partners": Random(1), "task": Heavy},
    "uniform, short deadline": {"pace": Synchronous(0.2), "aggregator": WeightedMean(), "mixing": Uniform(), "partners": All()},
}


@pytest.mark.parametrize("policies", RUNS.values(), ids=RUNS)
def test_shuffled_answers_and_deliveries_change_neither_events_nor_models(policies: dict[str, Any], tmp_path: Path) -> None:
    run = storm(**policies)
    digest = play(run, tmp_path).digest
    assert digest == play(run, tmp_path).digest
    assert {play(run, tmp_path, shuffle=seed).digest for seed in range(10)} == {digest}


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    assert len({play(toy(seed=seed, rounds=2), tmp_path).digest for seed in range(3)}) == 3


def test_a_swarm_can_be_started_again(tmp_path: Path) -> None:
    from tests.toys import conduct

    swarm, run = LocalSwarm(), storm(pace=Synchronous(4.0))
    assert conduct(run, swarm, tmp_path / "a").digest == conduct(run, swarm, tmp_path / "b").digest


def test_answers_carry_no_tensors(tmp_path: Path) -> None:
    swarm, run = LocalSwarm(), toy()
    swarm.start(run, [run.names], Vault(tmp_path))
    swarm.advance("ct-01", 1.0)
    answer, *delivered = swarm.completed()
    assert isinstance(answer, Advanced)
    assert [parcel.payload for parcel in answer.step.parcels] == [None, None]
    assert {report.receiver for report in delivered if isinstance(report, Delivered)} == {"ct-02", "ct-08"}


def test_frames_to_somebody_gone_are_reported_lost(tmp_path: Path) -> None:
    swarm, run = LocalSwarm(), toy()
    swarm.start(run, [run.names], Vault(tmp_path))
    swarm.kill("ct-02")
    swarm.advance("ct-01", 1.0)
    assert {(report.receiver, report.lost) for report in swarm.completed() if isinstance(report, Delivered)} == {
        ("ct-02", True),
        ("ct-08", False),
    }


def test_the_cloud_has_no_parameters(tmp_path: Path) -> None:
    swarm, run = LocalSwarm(), storm()
    swarm.start(run, [run.names], Vault(tmp_path))
    with pytest.raises(KeyError):
        swarm.vector(CLOUD)
    assert Parcel(CLOUD, "ct-01", (1.0,), 3, b"", None).flight == (CLOUD, 3)
