"""FedProto's task: sums and counts of embeddings, their merge, and the pull towards them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from p2pftl.gossip.aggregators import WeightedMean
from p2pftl.gossip.seams import Copy, Heard
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.backbones import BACKBONES
from p2pftl.learning.classification import Classification
from p2pftl.learning.knowledge import Prototypes, extended, of_model
from p2pftl.learning.models import Model, ModelSpec, layout_of, prepare_torch
from p2pftl.learning.prototypes import PrototypeLearning, Pulled, means, of
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import FedPer, Full, Transfer
from p2pftl.learning.tutoring import Tap
from p2pftl.params import Vector, length
from tests.learning.blobs import blobs

prepare_torch()
SPEC = ModelSpec()
MODEL = Model(SPEC, 3, 1)
START = MODEL.take()
WIDTH = 192
COHORTS = {"train": blobs(24), "validation": blobs(0), "test": blobs(12, seed=9)}
RECIPE = Recipe(lr=0.05, batch=8, epochs=2)


def prototyped(policy: Prototypes = Prototypes(), transfer: Transfer = Full(), cohort: Cohort = COHORTS["train"]) -> PrototypeLearning:  # noqa: B008
    """Three classes, of which the blobs are two."""
    task = Classification("ct-01", MODEL, START, {**COHORTS, "train": cohort}, RECIPE, transfer, 1, 3)
    return PrototypeLearning(task, policy, extended(MODEL.layout, SPEC, policy))


def embedded(vector: Vector, cohort: Cohort) -> np.ndarray:
    MODEL.load(vector)
    MODEL.rest()
    tap = Tap(MODEL)
    with torch.no_grad():
        MODEL(torch.from_numpy(cohort.images()))
    tap.close()
    return tap.seen.numpy()


def told(vector: Vector) -> tuple[np.ndarray, np.ndarray]:
    behind = vector[MODEL.layout.size :]
    return behind[:-3].reshape(3, WIDTH), behind[-3:]


# ---------------------------------------------------------------------- what is told


def test_after_a_fit_the_vector_holds_sum_and_count_of_the_embeddings_of_each_class() -> None:
    task = prototyped()
    vector = task.fit(task.initial(), 0, Scene(), None).vector
    sums, counts = told(vector)
    seen = embedded(vector[: MODEL.layout.size], COHORTS["train"])
    assert counts.tolist() == [12, 12, 0]
    for label in (0, 1):
        assert np.allclose(sums[label], seen[COHORTS["train"].labels == label].sum(0), rtol=1e-5)
    assert not sums[2].any()


def test_a_class_with_too_few_images_is_not_told_of() -> None:
    few = Cohort(COHORTS["train"].pixels[:9], COHORTS["train"].labels[:9], "grey")  # five and four
    sums, counts = told(np.concatenate((START, of(MODEL, START, few, least=5))))
    assert counts.tolist() == [5, 0, 0]
    assert sums[0].any()
    assert not sums[1:].any()


def test_a_message_is_classes_times_width_and_a_count_each() -> None:
    alone, beside = prototyped(), prototyped(Prototypes(beside=True))
    assert alone.work(0, Scene()).shared == ("prototypes.sum", "prototypes.count")
    assert length(alone.layout.ranges(alone.work(0, Scene()).shared)) == 3 * WIDTH + 3
    assert beside.work(0, Scene()).shared == (*MODEL.layout.names, "prototypes.sum", "prototypes.count")
    private = prototyped(Prototypes(beside=True), FedPer()).work(0, Scene()).shared
    assert not any(name.startswith("head") for name in private)
    assert of_model(alone.layout) == MODEL.layout


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_layout_has_room_for_the_embeddings_of_every_backbone(backbone: str) -> None:
    spec = ModelSpec(backbone)  # type: ignore[arg-type]
    policy, model = Prototypes(), Model(spec, 4, 1)
    layout = policy.behind(spec, layout_of(spec, 4))
    tap = Tap(model)
    with torch.no_grad():
        model(torch.zeros(2, 1, 64, 64))
    tap.close()
    assert layout.shapes == ((4, tap.seen.shape[1]), (4,))


# ---------------------------------------------------------------------- the merge


def test_merged_sums_and_counts_give_the_count_weighted_mean_of_the_neighbourhood() -> None:
    rng = np.random.default_rng(1)
    counts = np.array([[5.0, 0, 2], [1, 0, 40], [9, 0, 0]])
    centres = rng.normal(size=(3, 3, WIDTH))
    parts = [
        np.concatenate(((mean * count[:, None]).ravel(), count)).astype(np.float32) for mean, count in zip(centres, counts, strict=True)
    ]
    heard = [Heard(name, 0, Copy(part), 1 / 3, 10, 0.0) for name, part in zip("bc", parts[1:], strict=True)]
    merged, _ = WeightedMean().merge(Copy(parts[0]), heard)
    found, there = means(merged.vector, 3)
    assert there.tolist() == [True, False, True]
    for label in (0, 2):
        assert np.allclose(found[label], np.average(centres[:, label], axis=0, weights=counts[:, label]), atol=1e-5)
    assert not found[1].any()


# ---------------------------------------------------------------------- the loss


def pull(known: Vector, labels: list[int], weight: float = 0.7) -> tuple[float, float]:
    """Loss without and with prototypes, of three images under the first model."""
    company = Pulled(MODEL, START, known, weight)
    MODEL.load(START)
    MODEL.rest()
    images, said = torch.from_numpy(COHORTS["train"].images([0, 1, 2])), torch.tensor(labels)
    logits = MODEL(images)
    plain = cross_entropy(logits, said)
    both = float(plain), float(company.loss(plain, logits, said, images, 0))
    company.close()
    return both


def test_the_pull_is_the_mean_squared_error_to_the_prototype_and_0_for_an_absent_class() -> None:
    centres = np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32)
    counts = np.array([4, 2, 0], np.float32)
    known = np.concatenate(((centres * counts[:, None]).ravel(), counts))
    seen = embedded(START, COHORTS["train"])[:3]
    plain, pulled = pull(known, [0, 1, 2])
    apart = np.square(seen[:2] - centres[:2]).sum() / (3 * WIDTH)
    assert pulled == pytest.approx(plain + 0.7 * apart, rel=1e-4)
    absent = pull(known, [2, 2, 2])
    assert absent[0] == absent[1]
    nothing = pull(np.zeros_like(known), [0, 1, 2])
    assert nothing[0] == nothing[1]


def test_a_prototype_where_the_embedding_already_is_pulls_at_nothing() -> None:
    seen = embedded(START, COHORTS["train"])[0]
    known = np.concatenate((np.stack([seen, seen, seen]).ravel(), np.ones(3, np.float32))).astype(np.float32)
    company = Pulled(MODEL, START, known, 1.0)
    MODEL.load(START)
    MODEL.rest()
    images, labels = torch.from_numpy(COHORTS["train"].images([0])), torch.tensor([0])
    logits = MODEL(images)
    assert float(company.loss(torch.zeros(()), logits, labels, images, 0)) == pytest.approx(0, abs=1e-10)
    company.close()
    assert not any(layer._forward_pre_hooks for layer in MODEL.modules(0))


def test_the_first_fit_is_a_plain_one_bit_for_bit_and_so_is_one_without_weight() -> None:
    task = prototyped()
    first = task.fit(task.initial(), 0, Scene(), None)
    assert first.vector[: MODEL.layout.size].tobytes() == task.task.fit(START, 0, Scene(), None).vector.tobytes()
    light = replace(task, policy=Prototypes(weight=0))
    second = light.fit(first.vector, 1, Scene(), None).vector[: MODEL.layout.size]
    assert np.allclose(second, task.task.fit(first.vector[: MODEL.layout.size], 1, Scene(), None).vector)


def test_a_pulled_fit_ends_nearer_to_the_prototypes_than_a_plain_one() -> None:
    goal = np.concatenate((np.full((3, WIDTH), 0.3), np.ones((3, 1))), 1).astype(np.float32)
    known = np.concatenate((goal[:, :-1].ravel(), goal[:, -1]))

    def apart(weight: float) -> float:
        task = prototyped(Prototypes(weight=weight))
        learnt = task.fit(np.concatenate((START, known)), 0, Scene(), None).vector
        return float(np.square(embedded(learnt[: MODEL.layout.size], COHORTS["train"]) - 0.3).mean())

    assert apart(300.0) < 0.7 * apart(0.0)


def test_what_is_scored_is_the_model_and_a_look_at_the_own_images_takes_a_third_of_an_epoch() -> None:
    task = prototyped()
    assert task.score(task.initial(), "test", Scene(), 0) == task.task.score(START, "test", Scene(), 0)
    assert task.work(0, Scene()).samples == 2 * 24 + 8


def test_a_twin_that_adapts_keeps_what_it_knew() -> None:
    task = prototyped()
    before = task.fit(task.initial(), 0, Scene(), None).vector
    after = task.fit(before, 1, Scene(adapt=True), None).vector
    assert [part.tolist() for part in told(after)] == [part.tolist() for part in told(before)]
    assert (after[: MODEL.layout.size] != before[: MODEL.layout.size]).any()
