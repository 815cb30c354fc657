"""Under gossip and with a cloud: what twins with other label sets say to each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl.agenda import Parcel
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.transfer import FedPer, Full
from p2pftl.learning.universal.heads import PrivateHead
from p2pftl.learning.universal.masked import MaskedImages
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.spec import EncoderSpec
from p2pftl.swarm.local import LocalSwarm
from p2pftl.swarm.seams import Delivered
from p2pftl.terms import CloudTerms
from p2pftl.world.topologies import Ring
from p2pftl.world.topology import CLOUD
from tests.learning.universal.shapes import domain
from tests.toys import Outcome, conduct, toy

prepare_torch()
SPEC, RECIPE = EncoderSpec(width=8), Recipe(optimizer="adam", lr=2e-3, batch=8)
CLASSES = {"ct-01": 2, "ct-02": 3, "ct-03": 4}
HEAD, DECODER = Universal(SPEC, 4, 1), Universal(SPEC, 0, 1)


def cohorts(name: str) -> dict[str, Cohort]:
    one = domain(CLASSES[name], CLASSES[name])
    return {"train": one.train, "validation": one.test, "test": one.test}


def private(name: str, seed: int, rate: float) -> PrivateHead:
    return PrivateHead(name, HEAD, START[HEAD], cohorts(name), RECIPE, FedPer(), seed, CLASSES[name])


def unlabelled(name: str, seed: int, rate: float) -> MaskedImages:
    return MaskedImages(name, DECODER, START[DECODER], cohorts(name), RECIPE, Full(), seed)


START = {model: model.take() for model in (HEAD, DECODER)}


class Tapped(LocalSwarm):
    """Keeps every frame that is carried."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.frames: list[Parcel] = []

    def _deliver(self, turn: int) -> Delivered:
        self.frames.append(self._flying[turn])
        return super()._deliver(turn)


def played(task: Callable[[str, int, float], Any], folder: Path, **options: Any) -> tuple[Outcome, list[Parcel]]:
    cloud = CloudTerms(every=1, wait=5.0, deadline=2.0)
    swarm = Tapped(**options)
    return conduct(toy(Ring(twins=3).build(1), rounds=2, cloud=cloud, task=task), swarm, folder), swarm.frames


def test_twins_with_other_label_sets_send_peers_and_cloud_their_encoder_and_no_more(tmp_path: Path) -> None:
    outcome, frames = played(private, tmp_path)
    assert {CLOUD, *CLASSES} == {frame.sender for frame in frames} == {frame.receiver for frame in frames}
    assert all(frame.payload is not None and frame.payload.nbytes == 4 * HEAD.encoder for frame in frames)
    assert not outcome.degraded
    encoders = [vector[: HEAD.encoder] for vector in outcome.vectors.values()]
    assert all(np.allclose(one, encoders[0], atol=1e-5) for one in encoders)
    heads = {name: vector[HEAD.encoder :].tobytes() for name, vector in outcome.vectors.items()}
    assert len(set(heads.values())) == 3


@pytest.mark.parametrize("task", [private, unlabelled])
def test_the_order_in_which_answers_come_changes_nothing(task: Callable[[str, int, float], Any], tmp_path: Path) -> None:
    one, _ = played(task, tmp_path / "a")
    other, _ = played(task, tmp_path / "b", shuffle=np.random.default_rng(1))
    assert one.digest == other.digest


def test_twins_pre_train_by_masked_images_under_gossip(tmp_path: Path) -> None:
    outcome, frames = played(unlabelled, tmp_path)
    assert all(frame.payload is not None and frame.payload.nbytes == 4 * DECODER.layout.size for frame in frames)
    assert not outcome.degraded
