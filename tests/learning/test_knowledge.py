"""Learning from models that were heard: the published steps, and what they are good for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, nll_loss, softmax

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.knowledge import Distil, Knowledge, Mutual, Pupil, Similar, Tutor
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.transfer import Full, Head, Phase
from p2pftl.learning.tutoring import Alone, Company, Tap, alike, descents, divergence, likeness
from p2pftl.params import Vector, weighted_sum
from tests.learning.blobs import blobs

prepare_torch()
COHORT = blobs(24)
RECIPE = Recipe(lr=0.05, momentum=0.9, batch=8)
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
OTHERS = torch.tensor([[0.5, 1.0, -1.0], [2.0, 2.0, 2.0]])


@pytest.fixture(scope="module")
def pair() -> tuple[Model, Model]:
    return Model(ModelSpec(), 2, 1), Model(ModelSpec(), 2, 1)


def vector_of(seed: int) -> Vector:
    """A model that is sure of itself: with its head at 0.01 it would say next to nothing."""
    model = Model(ModelSpec(), 2, seed)
    ((start, stop),) = model.layout.ranges(("head.weight",))
    vector = model.take()
    vector[start:stop] *= 100
    return vector


def pupil_of(pair: tuple[Model, Model], own: Vector, cohort: Cohort = COHORT, round: int = 0) -> Pupil:
    return Pupil(*pair, own, cohort, RECIPE, (1, "ct-01", round))


def tutor(vector: Vector, name: str = "b", weight: float = 0.5) -> Tutor:
    return Tutor(name, vector, weight, 10)


def learn(pupil: Pupil, company: Company, steps: int, phase: Phase | None = None, batch: int = 8) -> Vector:
    """Steps of SGD on batches in order, in company."""
    model, cohort = pupil.model, pupil.cohort
    phase = phase or Full().plan(0, model.layout).phases[0]
    model.load(company.start)
    model.focus(phase.trained)
    company.begin(phase)
    own = descents(model, phase, pupil.recipe)
    for step in range(steps):
        rows = np.arange(step * batch, (step + 1) * batch) % len(cohort)
        inputs, labels = torch.from_numpy(cohort.images(rows)), torch.from_numpy(cohort.labels[rows])
        logits = model(inputs)
        model.grad.zero_()
        company.loss(cross_entropy(logits, labels), logits, labels, inputs, 0).backward()  # type: ignore[no-untyped-call]
        for descent in own:
            descent.step()
    model.rest()
    vector = company.kept(model.take())
    company.close()
    return vector


def said(model: Model, vector: Vector, cohort: Cohort = COHORT) -> torch.Tensor:
    model.load(vector)
    model.rest()
    with torch.no_grad():
        return model(torch.from_numpy(cohort.images()))


def right(model: Model, vector: Vector, cohort: Cohort) -> float:
    return float((said(model, vector, cohort).argmax(1) == torch.from_numpy(cohort.labels)).float().mean())


# ---------------------------------------------------------------------- the loss


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_the_definition_and_0_for_equal_logits(temperature: float) -> None:
    p, q = softmax(OTHERS / temperature, 1), softmax(LOGITS / temperature, 1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(divergence(OTHERS, LOGITS, temperature), expected)
    assert float(divergence(LOGITS, LOGITS + 5, temperature)) == pytest.approx(0, abs=1e-6)
    turned = [2, 0, 1]
    assert torch.allclose(divergence(OTHERS[:, turned], LOGITS[:, turned], temperature), expected)


def test_no_gradient_reaches_the_teacher() -> None:
    teacher, student = OTHERS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    divergence(teacher, student).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None


# ---------------------------------------------------------------------- Def-KT


@pytest.mark.parametrize("keep", ["received", "own"])
def test_mutual_learning_is_def_kt_written_by_hand(pair: tuple[Model, Model], keep: str) -> None:
    """The two networks as torch modules under torch.optim, both losses from the predictions before the step."""
    one, other = vector_of(1), vector_of(2)
    pupil = pupil_of(pair, one)
    ours = learn(pupil, Mutual(0.7, keep).company(pupil, [tutor(other)]), steps=4)  # type: ignore[arg-type]

    def trainable(vector: Vector) -> tuple[Model, torch.optim.SGD]:
        model = Model(ModelSpec(), 2, 1)
        model.load(vector)
        model.focus(model.layout.names)
        return model, torch.optim.SGD(list(model.parameters.values()), lr=RECIPE.lr, momentum=RECIPE.momentum)

    (own, own_steps), (received, received_steps) = trainable(one), trainable(other)
    for step in range(4):
        rows = np.arange(step * 8, (step + 1) * 8) % 24
        x, y = torch.from_numpy(COHORT.images(rows)), torch.from_numpy(COHORT.labels[rows])
        p, q = log_softmax(own(x), 1), log_softmax(received(x), 1)
        own.grad.zero_()
        received.grad.zero_()
        fixed_p, fixed_q = p.detach(), q.detach()
        (nll_loss(p, y) + 0.7 * (fixed_q.exp() * (fixed_q - p)).sum(1).mean()).backward()
        (nll_loss(q, y) + 0.7 * (fixed_p.exp() * (fixed_p - q)).sum(1).mean()).backward()
        own_steps.step()
        received_steps.step()
    expected = (received if keep == "received" else own).take()
    assert np.allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(ours - (other if keep == "received" else one)).max() > 1e-3


def test_without_a_pull_the_received_model_is_trained_as_if_it_were_alone(pair: tuple[Model, Model]) -> None:
    one, other = vector_of(1), vector_of(2)
    pupil = pupil_of(pair, one)
    beside = learn(pupil, Mutual(0.0).company(pupil, [tutor(other)]), steps=3)
    alone = pupil_of(pair, other)
    assert beside.tobytes() == learn(alone, Distil(weight=0.0).company(alone, [tutor(one)]), steps=3).tobytes()


def test_who_is_kept_does_not_depend_on_who_came_and_who_was_there(pair: tuple[Model, Model]) -> None:
    one, other = vector_of(1), vector_of(2)
    there, came = pupil_of(pair, one), pupil_of(pair, other)
    own = learn(there, Mutual(keep="own").company(there, [tutor(other)]), steps=3)
    received = learn(came, Mutual(keep="received").company(came, [tutor(one)]), steps=3)
    assert own.tobytes() == received.tobytes()


def test_one_of_several_tutors_is_drawn_anew_each_round(pair: tuple[Model, Model]) -> None:
    three = [tutor(vector_of(seed), name) for seed, name in ((2, "b"), (3, "c"), (4, "d"))]
    drawn = [Mutual().company(pupil_of(pair, vector_of(1), round=round), three).kept(vector_of(1)).tobytes() for round in range(12)]
    assert set(drawn) == {one.vector.tobytes() for one in three}


def test_learning_in_company_is_deterministic(pair: tuple[Model, Model]) -> None:
    for policy in (Mutual(), Distil(features=0.5), Similar()):
        pupil = pupil_of(pair, vector_of(1))
        some = [tutor(vector_of(2)), tutor(vector_of(3), "c", 0.2)]
        first, again = (learn(pupil, policy.company(pupil, some), steps=3).tobytes() for _ in range(2))
        assert first == again


def test_only_what_a_phase_trains_moves_in_the_second_network(pair: tuple[Model, Model]) -> None:
    model = pair[0]
    one = vector_of(1)
    ((start, stop),) = model.layout.ranges(model.layout.of_groups(model.layout.depth - 1))
    other = one.copy()
    other[start:stop] = vector_of(2)[start:stop]
    pupil = pupil_of(pair, one)
    kept = learn(pupil, Mutual().company(pupil, [tutor(other)]), steps=3, phase=Head().plan(0, model.layout).phases[0])
    assert kept[:start].tobytes() == other[:start].tobytes()
    assert (kept[start:stop] != other[start:stop]).any()


def test_a_last_image_alone_does_not_move_the_second_networks_statistics(pair: tuple[Model, Model]) -> None:
    one, other = vector_of(1), vector_of(2)
    pupil = pupil_of(pair, one)
    company = Mutual().company(pupil, [tutor(other)])
    pair[0].load(one)
    pair[0].rest()
    company.begin(Full().plan(0, pair[0].layout).phases[0])
    x, y = torch.from_numpy(COHORT.images([3])), torch.from_numpy(COHORT.labels[[3]])
    logits = pair[0](x)
    company.loss(cross_entropy(logits, y), logits, y, x, 0)
    for start, stop in pair[1].layout.ranges(pair[1].statistics):
        assert company.kept(one)[start:stop].tobytes() == other[start:stop].tobytes()


# ---------------------------------------------------------------------- what it is good for


def of_class(cohort: Cohort, label: int) -> Cohort:
    rows = cohort.labels == label
    return Cohort(cohort.pixels[rows], cohort.labels[rows], cohort.unit)


def apart(model: Model, student: Vector, teacher: Vector) -> float:
    return float(divergence(said(model, teacher), said(model, student)))


@pytest.mark.parametrize("policy", [Distil(), Distil(teachers="losses"), Distil(weight=2, temperature=1)], ids=repr)
def test_distillation_brings_the_model_nearer_to_its_tutor_than_learning_alone(policy: Knowledge, pair: tuple[Model, Model]) -> None:
    one, other = vector_of(1), vector_of(2)
    pupil = pupil_of(pair, one)
    taught = learn(pupil, policy.company(pupil, [tutor(other)]), steps=12)
    alone = learn(pupil, Distil(weight=0).company(pupil, [tutor(other)]), steps=12)
    assert apart(pair[0], taught, other) < 0.8 * apart(pair[0], alone, other)


def test_mutual_learning_brings_both_models_together(pair: tuple[Model, Model]) -> None:
    one, other = vector_of(1), vector_of(2)
    pupil = pupil_of(pair, one)

    def afterwards(pull: float) -> float:
        own, received = (learn(pupil, Mutual(pull, keep).company(pupil, [tutor(other)]), steps=12) for keep in ("own", "received"))  # type: ignore[arg-type]
        return apart(pair[0], own, received)

    assert afterwards(1.0) < 0.5 * afterwards(0.0)


def test_a_tutor_alone_counts_the_same_in_either_way_and_whatever_its_weight(pair: tuple[Model, Model]) -> None:
    pupil, other = pupil_of(pair, vector_of(1)), vector_of(2)
    ways = [
        learn(pupil, policy.company(pupil, [tutor(other, weight=weight)]), steps=3)
        for policy in (Distil(), Distil(teachers="losses"))
        for weight in (0.0, 0.25)
    ]
    assert all(np.allclose(way, ways[0], atol=1e-6) for way in ways)


def test_feature_distillation_turns_the_embeddings_towards_the_tutors(pair: tuple[Model, Model]) -> None:
    pupil, other = pupil_of(pair, vector_of(1)), vector_of(2)

    def embedded(vector: Vector) -> torch.Tensor:
        tap = Tap(pair[0])
        said(pair[0], vector)
        tap.close()
        return tap.seen

    def turned(vector: Vector) -> float:
        return float(torch.cosine_similarity(embedded(vector), embedded(other)).mean())

    taught = learn(pupil, Distil(weight=0, features=5).company(pupil, [tutor(other)]), steps=12)
    alone = learn(pupil, Distil(weight=0).company(pupil, [tutor(other)]), steps=12)
    assert turned(taught) > turned(alone) + 0.05
    assert not any(layer._forward_pre_hooks for network in pair for layer in network.modules(0))


@pytest.mark.parametrize("backbone", ["compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18"])
def test_the_embedding_is_one_vector_per_image_in_every_backbone(backbone: str) -> None:
    model = Model(ModelSpec(backbone), 3, 1)  # type: ignore[arg-type]
    tap = Tap(model)
    with torch.no_grad():
        model(torch.zeros(2, 1, 64, 64))
    assert tap.seen.shape[0] == 2
    assert tap.seen.dim() == 2
    tap.close()


def test_a_model_like_the_own_one_counts_as_much_and_a_strange_one_least(pair: tuple[Model, Model]) -> None:
    own, strange = vector_of(1), vector_of(2)
    near = (own + 0.02 * (strange - own)).astype(np.float32)
    weights = likeness(pair[0], [own, own, near, strange], COHORT)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] == weights[1] > weights[2] > weights[3]
    start = Similar().company(pupil_of(pair, own), [tutor(own), tutor(own, "c")]).start
    assert np.allclose(start, own, atol=1e-6)


def test_layers_are_alike_up_to_the_first_that_differs_in_a_bit(pair: tuple[Model, Model]) -> None:
    layout, one = pair[0].layout, vector_of(1)
    ((first, _),) = layout.ranges(layout.of_groups(2, 2))
    other = one.copy()
    other[first] = np.nextafter(other[first], np.float32(9))
    assert [alike(layout, frozen, [one, one, other]) for frozen in range(layout.depth)] == [
        min(frozen, 2) for frozen in range(layout.depth)
    ]


def test_what_a_fit_costs_in_company() -> None:
    assert [Mutual().effort(tutors) for tutors in (0, 1, 3)] == [1, 2, 2]
    assert Distil().effort(0) == Similar().effort(0) == 1
    assert Distil().effort(3) == pytest.approx(2)


def test_on_shards_of_one_class_each_mutual_learning_keeps_what_averaging_loses(pair: tuple[Model, Model]) -> None:
    """Two networks that see blobs, each in its own way: their mean sees none, and one class alone cannot teach it again."""
    gentle, test = Recipe(lr=0.02, batch=8), blobs(60, seed=5)
    known = [Pupil(*pair, Model(ModelSpec(), 2, seed).take(), blobs(96, seed=9), gentle, (1, "before", 0)) for seed in (1, 2)]
    grown = [learn(pupil, Alone(pupil.own), steps=60) for pupil in known]
    assert [right(pair[0], vector, test) for vector in grown] == [1, 1]
    pupils = [Pupil(*pair, own, of_class(blobs(48), label), gentle, (1, "ct", 0)) for label, own in enumerate(grown)]
    mean = weighted_sum(grown, [0.5, 0.5])
    averaged = [right(pair[0], learn(pupil, Alone(mean), steps=3), test) for pupil in pupils]
    mutual = [learn(pupil, Mutual().company(pupil, [tutor(other)]), steps=3) for pupil, other in zip(pupils, grown[::-1], strict=True)]
    assert max(averaged) < 0.7
    assert min(right(pair[0], vector, test) for vector in mutual) > 0.9
