"""Frozen features: kept or computed again, at any batch size and in any order, the bytes are the same."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from p2pftl.draw import draw
from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.backbones import BACKBONES
from p2pftl.learning.features import Features, Look
from p2pftl.learning.fit import Fit, fit, frozen_depth
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.score import score
from p2pftl.learning.specs import Compute, FeatureCache, Recipe
from p2pftl.learning.transfer import FedRep, Full, GradualUnfreezing, Head, Transfer
from p2pftl.params import Vector
from tests.learning.blobs import blobs

prepare_torch()
COHORT = blobs(21)
RECIPE = Recipe(lr=0.02, batch=8, epochs=2)
OFF = FeatureCache(cache=False)
START = Model(ModelSpec(), 2, 1).take()


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: Model(ModelSpec(name), 2, 1) for name in BACKBONES}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(models: dict[str, Model]) -> Model:
    return models["compact"]


def study(model: Model, features: Features | None, *, recipe: Recipe = RECIPE, policy: Transfer | None = None, round: int = 0,
          cohort: Cohort = COHORT, start: Vector | None = None, twin: str = "ct-01") -> Fit:  # fmt: skip
    policy = policy or Head()
    lesson = policy.plan(round, model.layout)
    begin = START if start is None else start
    return fit(model, begin, cohort, recipe, lesson, policy, seed=7, twin=twin, round=round, features=features)


def equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) and one.stride() == other.stride() and one.dtype == other.dtype


@pytest.mark.parametrize("name", BACKBONES)
def test_a_feature_depends_on_its_image_alone_not_on_place_or_company(models: dict[str, Model], name: str) -> None:
    model = models[name]
    images = blobs(40).images()
    features = Features(model, OFF)
    for depth in range(1, model.layout.depth):
        whole = features.now(images, depth)
        for n in (1, 5, 16, 40):
            rows = draw(depth, "rows", n).permutation(40)[:n]
            part = features.now(images[rows], depth)
            assert torch.equal(part, whole[torch.from_numpy(rows)])
            assert part.is_contiguous() or part.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", BACKBONES)
def test_kept_features_cannot_be_told_from_the_network_s_own_at_any_depth(models: dict[str, Model], name: str) -> None:
    model, cohort = models[name], blobs(67)
    model.rest()
    vector, features = model.take(), Features(models[name], FeatureCache())
    plain = score(model, vector, cohort, 2)
    for depth in range(1, model.layout.depth):
        look = Look(cohort, depth)
        fresh = [model.lower(torch.from_numpy(cohort.images(slice(at, at + 64))), depth) for at in (0, 64)]
        for _ in range(2):  # computed, then kept
            assert all(map(equal, fresh, features.blocks(look, vector, 64)))
            assert score(model, vector, cohort, 2, features=features, depth=depth) == plain  # and nothing wrote into them
        kept, rows = features.rows(look, vector), draw(1, "rows").permutation(67)[:8]
        assert equal(kept(rows), features.now(cohort.images(rows), depth))


@pytest.mark.parametrize("policy", [Head(), GradualUnfreezing(every=1), FedRep(head_epochs=2)], ids=str)
@pytest.mark.parametrize("name", ["compact", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_fit_gives_the_same_bytes_with_and_without_what_was_kept(models: dict[str, Model], name: str, policy: Transfer) -> None:
    model, start = models[name], models[name].take()
    stores = [None, Features(model, OFF), Features(model, FeatureCache(memory=0)), Features(model, FeatureCache())]
    recipe = replace(RECIPE, epochs=1)
    for round in (0, 1):
        ends = [study(model, store, policy=policy, recipe=recipe, round=round, start=start) for store in stores]
        again = study(model, stores[-1], policy=policy, recipe=recipe, round=round, start=start)
        assert len({end.vector.tobytes() for end in (*ends, again)}) == 1
        assert len({end.loss for end in (*ends, again)}) == 1
        start = ends[0].vector
    assert stores[-1] is not None
    assert stores[-1].counts.hits > 0


def test_a_network_that_is_trained_whole_keeps_nothing(model: Model) -> None:
    features = Features(model, FeatureCache())
    study(model, features, policy=Full())
    assert (features.counts.hits, features.counts.misses) == (0, 0)


def test_a_change_in_the_frozen_values_counts_even_of_a_statistic_but_one_above_does_not(model: Model) -> None:
    features, start = Features(model, FeatureCache()), START
    spans = dict(zip(model.layout.names, model.layout.spans, strict=True))
    for entry, misses in (("stem.1.running_var", 2), ("head.bias", 2), ("block3.0.weight", 3), ("stem.1.running_mean", 4)):
        study(model, features, start=start)
        start = start.copy()
        start[spans[entry][0]] += 1
        changed = study(model, features, start=start)
        assert changed.vector.tobytes() == study(model, None, start=start).vector.tobytes()
        assert features.counts.misses == misses
    assert features.counts.memory == 21 * 192 * 4


def test_another_depth_takes_the_place_of_the_old_one(model: Model) -> None:
    cohort, features = blobs(20), Features(model, FeatureCache())
    ends = [study(model, store, cohort=cohort).vector.tobytes() for store in (features, features, None)]
    assert len(set(ends)) == 1
    assert features.counts.memory == 20 * 192 * 4
    study(model, features, cohort=cohort, policy=GradualUnfreezing(every=1), round=1)
    assert features.counts.memory == 20 * 64 * 4 * 4 * 4
    assert (features.counts.hits, features.counts.misses) == (1, 2)


def test_twins_that_froze_the_same_layers_share_the_features_of_a_common_cohort(model: Model) -> None:
    features, test, start = Features(model, FeatureCache()), blobs(30, seed=4), START
    for twin in ("ct-01", "ct-02", "ct-03"):
        vector = study(model, features, twin=twin, cohort=blobs(9), start=start).vector
        for depth in (4, 3):
            assert score(model, vector, test, 2, features=features, depth=depth, shared=True) == score(model, vector, test, 2)
    assert features.counts.misses == 3 + 2


def test_memory_stays_within_its_bounds_and_who_was_not_used_for_longest_goes(model: Model) -> None:
    row = 192 * 4
    features, cohorts = Features(model, FeatureCache(memory=65 * row / 1e6)), [blobs(20, seed=k) for k in range(4)]
    for k, hit in ((0, 0), (1, 0), (2, 0), (0, 1), (3, 0), (0, 1), (1, 0)):
        before = features.counts.hits
        study(model, features, cohort=cohorts[k], recipe=replace(RECIPE, epochs=1))
        assert features.counts.hits - before == hit
        assert features.counts.memory <= 65 * row
    assert features.counts.dropped == 2
    large = blobs(70)
    assert study(model, features, cohort=large).vector.tobytes() == study(model, None, cohort=large).vector.tobytes()
    assert features.counts.memory == 60 * row
    assert features.counts.dropped == 3


def test_what_has_no_room_goes_to_files_that_nobody_else_can_find(model: Model, tmp_path: Path) -> None:
    row = 192 * 4
    features = Features(model, FeatureCache(memory=45 * row / 1e6, spill=True), tmp_path)
    cohorts = [blobs(20), blobs(20, seed=1), blobs(20, seed=2), blobs(70, seed=3)]
    ends = [[study(model, features, cohort=cohort).vector.tobytes() for cohort in cohorts] for _ in range(2)]
    assert ends[0] == ends[1] == [study(model, None, cohort=cohort).vector.tobytes() for cohort in cohorts]
    assert (features.counts.misses, features.counts.dropped) == (4, 0)
    assert (features.counts.memory, features.counts.disk) == (40 * row, 90 * row)
    assert list(tmp_path.iterdir()) == []
    del cohorts
    gc.collect()
    assert (features.counts.memory, features.counts.disk) == (0, 0)


def test_where_the_disk_takes_nothing_features_are_computed_again(model: Model, tmp_path: Path) -> None:
    features = Features(model, FeatureCache(memory=0, spill=True), tmp_path / "missing")
    assert study(model, features).vector.tobytes() == study(model, None).vector.tobytes()
    assert features.counts.disk == 0
    assert features.counts.dropped == features.counts.misses


def test_features_go_when_their_cohort_goes(model: Model) -> None:
    features, cohort = Features(model, FeatureCache()), blobs(20)
    study(model, features, cohort=cohort)
    assert features.counts.memory > 0
    del cohort
    gc.collect()
    assert features.counts.memory == 0


def test_images_that_move_anew_each_time_are_never_kept(model: Model) -> None:
    features, recipe = Features(model, FeatureCache()), replace(RECIPE, shift=2, flip=True)
    moved = study(model, features, recipe=recipe)
    assert moved.vector.tobytes() == study(model, None, recipe=recipe).vector.tobytes()
    assert (features.counts.misses, features.counts.memory) == (0, 0)


def test_fixed_views_are_kept_each_and_change_no_byte(model: Model) -> None:
    features, recipe = Features(model, FeatureCache()), replace(RECIPE, shift=2, flip=True, views=3, epochs=2)
    for round in range(4):
        kept = study(model, features, recipe=recipe, round=round)
        assert kept.vector.tobytes() == study(model, None, recipe=recipe, round=round).vector.tobytes()
    assert (features.counts.misses, features.counts.hits) == (3, 5)
    assert kept.vector.tobytes() != study(model, None, recipe=replace(recipe, views=2), round=round).vector.tobytes()


def test_half_precision_features_are_kept_as_they_are() -> None:
    model = Model(ModelSpec(), 2, 1, Compute(precision="bf16", device="cpu"))
    features, start = Features(model, FeatureCache()), model.take()
    ends = [study(model, store, start=start).vector.tobytes() for store in (None, features, features)]
    assert len(set(ends)) == 1
    assert features.counts.memory == 21 * 192 * 2


def test_the_frozen_depth_is_the_lowest_group_with_a_trained_entry(model: Model) -> None:
    layout = model.layout
    assert frozen_depth(layout, layout.names) == 0
    assert frozen_depth(layout, ("block2.1.running_mean", "head.bias")) == 2
    assert frozen_depth(layout, layout.of_groups(layout.depth - 1)) == layout.depth - 1
    assert frozen_depth(layout, ()) == layout.depth - 1
