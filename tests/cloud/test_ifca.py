"""IFCA: given k, twins find their group by their own loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.cloud.fedavg import FedAvg
from p2pftl.cloud.ifca import IFCA
from p2pftl.cloud.seams import Upload
from p2pftl.gossip.partners import Nobody
from p2pftl.terms import CloudTerms
from p2pftl.world.links import Link
from p2pftl.world.topologies import Ring
from p2pftl.world.topology import CLOUD
from tests.cloud.opposed import LINE, Opposed, coordinated, rounds
from tests.cloud.test_clustered import NAMES, PLANTED, opposed
from tests.toys import play, toy


@pytest.mark.parametrize("seed", range(10))
def test_two_groups_with_opposed_labels_are_recovered_given_two_models(seed: int) -> None:
    tasks = opposed(seed)
    reply, models = rounds(IFCA(k=2), tasks, 12)
    assert reply.groups == PLANTED
    assert min(tasks[name].right(models[name]) for name in NAMES) > 0.8


def test_one_model_is_fedavg_bit_for_bit() -> None:
    _, one = rounds(IFCA(k=1), opposed(), 6)
    _, fedavg = rounds(FedAvg(), opposed(), 6)
    assert all(one[name].tobytes() == fedavg[name].tobytes() for name in NAMES)


def test_a_model_nobody_chose_stays_and_one_that_some_chose_is_their_mean() -> None:
    def flat(value: float, samples: int, model: int) -> Upload:
        return Upload(np.full(LINE.size, value, np.float32), ((0, LINE.size),), samples, model)

    policy = IFCA(k=3)
    begun = policy.answer({"a": flat(0, 1, -1), "b": flat(10, 1, -1), "c": flat(4, 1, -1)}, LINE, {})
    values = [float(offer[0]) for offer in begun.offers["a"]]
    assert sorted(values) == [0, 4, 10]
    low, high = values.index(0), values.index(10)
    then = policy.answer({"a": flat(1, 1, low), "b": flat(5, 3, low), "c": flat(7, 1, values.index(4))}, LINE, begun.memory)
    assert [float(offer[0]) for offer in then.offers["c"]] == [{low: 4.0, high: 10.0}.get(k, 7.0) for k in range(3)]
    assert then.groups == (("a", "b"), ("c",))


def test_an_upload_that_chose_nothing_counts_for_the_nearest_model() -> None:
    def flat(value: float, model: int = -1) -> Upload:
        return Upload(np.full(LINE.size, value, np.float32), ((0, LINE.size),), 1, model)

    begun = IFCA().answer({"a": flat(0), "b": flat(10)}, LINE, {})
    then = IFCA().answer({"new": flat(8)}, LINE, begun.memory)
    assert sorted(float(offer[0]) for offer in then.offers["new"]) == [0, 8]


# ---------------------------------------------------------------------- in a run


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_in_a_run_twins_choose_by_their_own_loss_even_if_some_offers_are_lost(loss: float, tmp_path: Path) -> None:
    run = toy(
        Ring(names=NAMES).build(1),
        rounds=16,
        rate=1.0,
        task=Opposed,
        partners=Nobody(),
        cloud=CloudTerms(1, 5.0, 3.0),
        link=Link(loss=loss),
    )
    outcome = play(coordinated(run, IFCA(k=2)), tmp_path)
    assert min(Opposed(name, 1, 1.0).right(outcome.vectors[name]) for name in NAMES) > 0.8
    assert outcome.of(facts.CloudMerged)[-1].groups == PLANTED
    answers = [event for event in outcome.of(facts.FrameSent) if event.twin == CLOUD]
    uploads = [event for event in outcome.of(facts.FrameSent) if event.to == CLOUD and not event.lost]
    assert len(answers) == 2 * len(uploads)
