"""ProxyFL's task: the published losses on both sides, the private model kept, the proxy alone shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, nll_loss

from p2pftl.learning.classification import Classification
from p2pftl.learning.fit import fit
from p2pftl.learning.knowledge import PROXY, Proxy, carried, extended, extends, of_model
from p2pftl.learning.models import Model, ModelSpec, layout_of, prepare_torch
from p2pftl.learning.proxy import ProxyLearning
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged, Scene
from p2pftl.learning.transfer import FedPer, Full, Head, Transfer
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()
SPEC = ModelSpec()
MODEL, NETWORK = Model(SPEC, 2, 1), Model(SPEC, 2, 2)
START, FIRST = MODEL.take(), NETWORK.take()
RECIPE = Recipe(lr=0.05, momentum=0.9, batch=8)
COHORTS = {"train": blobs(24), "validation": blobs(0), "test": blobs(12, seed=9)}


def proxied(policy: Proxy = Proxy(), transfer: Transfer = Full(), recipe: Recipe = RECIPE) -> ProxyLearning:  # noqa: B008
    private = Classification("ct-01", MODEL, START, COHORTS, recipe, transfer, 1, 2)
    network = NETWORK if policy.backbone is None else Model(policy.spec(SPEC), 2, 2)
    first = FIRST if policy.backbone is None else network.take()
    return ProxyLearning(private, policy, extended(MODEL.layout, SPEC, policy), network, first)


def halves(vector: Vector) -> tuple[Vector, Vector]:
    return vector[: MODEL.layout.size], vector[MODEL.layout.size :]


def trainable(vector: Vector) -> tuple[Model, torch.optim.SGD]:
    model = Model(SPEC, 2, 1)
    model.load(vector)
    model.focus(model.layout.names)
    return model, torch.optim.SGD(list(model.parameters.values()), lr=RECIPE.lr, momentum=RECIPE.momentum)


def test_both_networks_learn_by_the_published_losses_written_by_hand() -> None:
    """As torch modules under torch.optim, on the batches that a fit without company sees; a = 0.3."""
    a, order = 0.3, batches()
    (f, f_steps), (g, g_steps) = trainable(START), trainable(FIRST)
    for rows in order:
        x, y = torch.from_numpy(COHORTS["train"].images(rows)), torch.from_numpy(COHORTS["train"].labels[rows])
        p, q = log_softmax(f(x), 1), log_softmax(g(x), 1)
        f.grad.zero_()
        g.grad.zero_()
        fixed_p, fixed_q = p.detach(), q.detach()
        ((1 - a) * nll_loss(p, y) + a * (fixed_q.exp() * (fixed_q - p)).sum(1).mean()).backward()
        ((1 - a) * nll_loss(q, y) + a * (fixed_p.exp() * (fixed_p - q)).sum(1).mean()).backward()
        f_steps.step()
        g_steps.step()
    task = proxied(Proxy(share=a))
    private, proxy = halves(task.fit(task.initial(), 0, Scene(), None).vector)
    assert np.allclose(private, f.take(), rtol=1e-4, atol=1e-5)
    assert np.allclose(proxy, g.take(), rtol=1e-4, atol=1e-5)
    assert np.abs(private - START).max() > 1e-3
    assert np.abs(proxy - FIRST).max() > 1e-3


def batches() -> list[np.ndarray]:
    """The rows that a fit of round 0 shows, batch by batch."""
    from p2pftl.draw import draw

    order = draw(1, "order", "ct-01", 0, 0).permutation(24)
    return [order[at : at + 8] for at in range(0, 24, 8)]


def test_without_a_share_the_private_model_learns_as_if_it_were_alone() -> None:
    task = proxied(Proxy(share=0))
    private, _ = halves(task.fit(task.initial(), 0, Scene(), None).vector)
    lesson = Full().plan(0, MODEL.layout)
    alone = fit(MODEL, START, COHORTS["train"], RECIPE, lesson, Full(), seed=1, twin="ct-01", round=0)
    assert private.tobytes() == alone.vector.tobytes()


def test_the_layout_is_the_models_with_a_proxy_behind_and_the_first_vector_both_beginnings() -> None:
    task = proxied()
    assert task.layout.names == (*MODEL.layout.names, *(PROXY + name for name in MODEL.layout.names))
    assert of_model(task.layout) == MODEL.layout
    assert [half.tobytes() for half in halves(task.initial())] == [START.tobytes(), FIRST.tobytes()]
    assert extends(Proxy())
    assert not extends(None)


@pytest.mark.parametrize("transfer", [Full(), Head(), FedPer()], ids=repr)
def test_what_travels_is_of_the_proxy_alone_as_the_transfer_policy_says_of_the_model(transfer: Transfer) -> None:
    task = proxied(transfer=transfer)
    shared = task.work(0, Scene()).shared
    assert shared == tuple(PROXY + name for name in transfer.plan(0, MODEL.layout).shared)
    assert carried(transfer, Proxy()).plan(0, task.layout).shared == shared


def test_with_a_frozen_body_both_bodies_stay_and_both_heads_learn() -> None:
    task = proxied(transfer=Head())
    ((start, _),) = MODEL.layout.ranges(MODEL.layout.of_groups(MODEL.layout.depth - 1))
    for now, before in zip(halves(task.fit(task.initial(), 0, Scene(), None).vector), (START, FIRST), strict=True):
        assert now[:start].tobytes() == before[:start].tobytes()
        assert (now[start:] != before[start:]).any()


def test_a_proxy_of_another_backbone_is_trained_and_shared_as_a_whole() -> None:
    task = proxied(Proxy(backbone="squeezenet1_1"))
    theirs = layout_of(ModelSpec("squeezenet1_1"), 2)
    assert task.work(0, Scene()).shared == tuple(PROXY + name for name in theirs.names)
    learnt = task.fit(task.initial(), 0, Scene(), None).vector
    assert len(learnt) == MODEL.layout.size + theirs.size
    assert (learnt[MODEL.layout.size :] != task.first).any()
    assert (learnt[: MODEL.layout.size] != START).any()


def test_what_is_scored_is_the_private_model_whatever_the_proxy_is() -> None:
    task = proxied()
    vector = task.initial()
    strange = np.concatenate((START, np.full(len(FIRST), np.nan, np.float32)))
    assert task.score(vector, "test", Scene(), 0) == task.score(strange, "test", Scene(), 0)
    assert task.score(vector, "test", Scene(), 0) == task.task.score(START, "test", Scene(), 0)


def test_a_fit_is_the_same_twice_and_costs_two() -> None:
    task = proxied()
    one, other = (task.fit(task.initial(), 3, Scene(), None) for _ in range(2))
    assert one.vector.tobytes() == other.vector.tobytes()
    assert one.trained == 1.0
    assert task.work(0, Scene()).samples == 2 * 24
    assert Proxy().effort(4) == 1.0


def test_the_private_optimiser_remembers_where_the_recipe_says_so() -> None:
    task = proxied(recipe=replace(RECIPE, reset_optimizer=False))
    first = task.fit(task.initial(), 0, Scene(), None)
    assert first.memory is not None
    second = task.fit(first.vector, 1, Scene(), first.memory)
    assert second.vector.tobytes() != task.fit(first.vector, 1, Scene(), None).vector.tobytes()


def test_a_twin_that_adapts_leaves_its_proxy_alone() -> None:
    task = proxied()
    learnt = task.fit(task.initial(), 0, Scene(adapt=True), None)
    private, proxy = halves(learnt.vector)
    assert proxy.tobytes() == FIRST.tobytes()
    assert (private != START).any()
    assert 0 < learnt.trained < 0.5


def test_a_proxy_that_diverged_is_refused_by_name() -> None:
    task = proxied()
    broken = np.concatenate((START, np.full(len(FIRST), np.nan, np.float32)))
    with pytest.raises(FitDiverged, match="ct-01, round 2"):
        task.fit(broken, 2, Scene(), None)


def test_with_the_balanced_loss_the_proxy_is_weighed_too() -> None:
    """All of one class: the prior alone changes what a step is worth."""
    rows = COHORTS["train"].labels == 0
    shard = replace(COHORTS["train"], pixels=COHORTS["train"].pixels[rows], labels=COHORTS["train"].labels[rows])
    moved = []
    for loss in ("cross_entropy", "balanced"):
        task = proxied(Proxy(share=0), recipe=replace(RECIPE, loss=loss))  # type: ignore[arg-type]
        learnt = task.fit(task.initial(), 0, Scene(1, {"train": shard}), None)
        ((start, stop),) = MODEL.layout.ranges(("head.bias",))
        moved.append(float(np.abs(halves(learnt.vector)[1] - FIRST)[start:stop].sum()))
    assert moved[1] < 0.7 * moved[0]
