"""Adapters: nothing at first, then all that changes; a few kilobytes that learn more than a head does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from p2pftl.errors import ScenarioError
from p2pftl.learning.features import Features
from p2pftl.learning.fit import Fit, fit, frozen_depth
from p2pftl.learning.models import Model, ModelSpec, initial, layout_of, prepare_torch
from p2pftl.learning.score import score
from p2pftl.learning.specs import Backbone, Compute, FeatureCache, Precision, Recipe
from p2pftl.learning.transfer import Adapters, Full, GradualUnfreezing, Head, Transfer, adapters_in
from p2pftl.params import Layout, Vector, length
from p2pftl.scenario.load import load
from tests.learning.blobs import blobs
from tests.scenario.conftest import text

prepare_torch()
BACKBONES: tuple[Backbone, ...] = ("compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18")
COHORT = blobs(20)
RECIPE = Recipe(lr=0.02, batch=8)


def trained_alike(layout: Layout) -> Vector:
    """Values of a body that has seen something: not those a fresh network has. Entries of the same name are equal in any layout."""
    tensors = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        drawn = np.random.default_rng(sum(name.encode())).standard_normal(shape).astype(np.float32)
        tensors[name] = np.abs(drawn) + 0.5 if name.endswith("running_var") else 0.1 * drawn
    return layout.vector(tensors)


def fitted(model: Model, start: Vector, policy: Transfer, features: Features | None = None) -> Fit:
    lesson = policy.plan(0, model.layout)
    return fit(model, start, COHORT, RECIPE, lesson, policy, seed=3, twin="ct-01", round=0, features=features)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_fresh_adapters_change_no_bit_of_what_a_network_computes(backbone: Backbone, precision: Precision) -> None:
    compute = Compute(precision, "cpu")
    plain, grown = (Model(ModelSpec(backbone, adapters=width), 2, 5, compute) for width in (0, 8))
    images = torch.from_numpy(blobs(3).images())
    for values in (plain.take(), trained_alike(plain.layout)):
        tensors = grown.layout.tensors(grown.take()) | plain.layout.tensors(values)
        plain.load(values)
        grown.load(grown.layout.vector(tensors))
        with torch.no_grad():
            assert torch.equal(grown(images), plain(images))
    grown.flat += 0.01
    plain.flat += 0.01
    with torch.no_grad():
        assert not torch.equal(grown(images), plain(images))  # so they do stand in the way


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_are_new_entries_in_front_of_every_group_between_the_first_and_the_head(backbone: Backbone) -> None:
    plain, grown = (layout_of(ModelSpec(backbone, adapters=width), 2) for width in (0, 8))
    new = adapters_in(grown)
    assert adapters_in(plain) == ()
    assert [name for name in grown.names if name not in new] == list(plain.names)
    groups, shapes = (dict(zip(grown.names, part, strict=True)) for part in (grown.groups, grown.shapes))
    assert [groups[name] for name in new] == [group for group in range(1, grown.depth - 1) for _ in ("down", "up")]
    for group in range(1, grown.depth - 1):
        down, up = grown.of_groups(group, group)[:2]  # the first of their group
        assert (down.rpartition("adapter")[2], up.rpartition("adapter")[2]) == (f"{group}.down.weight", f"{group}.up.weight")
        assert shapes[down] == (8, shapes[up][0], 1, 1)
        assert shapes[up][1] == 8
    assert {name: group for name, group in groups.items() if name not in new} == dict(zip(plain.names, plain.groups, strict=True))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_values_of_everything_else_are_those_without_adapters(backbone: Backbone) -> None:
    grown = ModelSpec(backbone, adapters=8)
    layout = layout_of(grown, 2)
    after, other = (layout.tensors(initial(grown, 2, seed)) for seed in (5, 6))
    before = layout_of(ModelSpec(backbone), 2).tensors(initial(ModelSpec(backbone), 2, 5))
    assert all(np.array_equal(after[name], values) for name, values in before.items())
    for name in after.keys() - before.keys():
        spread = float(after[name].std())
        expected = (2 / after[name].shape[1]) ** 0.5 if "down" in name else 0.0
        assert spread == pytest.approx(expected, rel=0.25), name
        assert np.array_equal(after[name], other[name]) == ("up" in name), name


@pytest.mark.parametrize("backbone", ["compact", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_fit_changes_adapters_and_head_and_nothing_else_and_uses_what_was_kept(backbone: Backbone) -> None:
    model = Model(ModelSpec(backbone, adapters=4), 2, 1)
    start = fitted(model, model.take(), Full()).vector  # with statistics that fit, or features fade on their way up
    layout, policy = model.layout, Adapters()
    kept = Features(model, FeatureCache())
    after = fitted(model, start, policy, features=kept)
    moved = {name for name, (a, b) in zip(layout.names, layout.spans, strict=True) if not np.array_equal(after.vector[a:b], start[a:b])}
    assert moved == set(adapters_in(layout)) | set(layout.of_groups(layout.depth - 1)) == set(after.trained)
    assert frozen_depth(layout, after.trained) == 1
    for _ in range(2):
        assert fitted(model, start, policy, features=kept).vector.tobytes() == after.vector.tobytes()
    assert fitted(model, start, policy).vector.tobytes() == after.vector.tobytes()
    assert kept.counts.hits > 0


# Bytes at float32 with two classes: all of the network without adapters, and what the policy shares at width 8.
BYTES = {
    "compact": (357_192, 8_712),
    "squeezenet1_1": (2_894_088, 57_352),
    "mobilenet_v3_small": (6_128_072, 54_280),
    "resnet18": (44_748_552, 36_872),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_shared_is_a_small_part_of_the_network(backbone: Backbone) -> None:
    plain, grown = (layout_of(ModelSpec(backbone, adapters=width), 2) for width in (0, 8))
    whole = 4 * length(plain.ranges(Full().plan(0, plain).shared))
    ours = 4 * length(grown.ranges(Adapters().plan(0, grown).shared))
    assert (whole, ours) == BYTES[backbone]
    assert ours < whole / 40
    channels = [shape[1] for name, shape in zip(grown.names, grown.shapes, strict=True) if name.endswith(".down.weight")]
    assert ours == 4 * (2 * 8 * sum(channels) + length(grown.ranges(Head().plan(0, grown).shared)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_over_a_frozen_random_network_adapters_learn_what_a_head_alone_cannot(seed: int) -> None:
    model = Model(ModelSpec(adapters=8), 2, seed)
    start, train, test = model.take(), blobs(64), blobs(200, seed=1)
    recipe = Recipe(optimizer="adam", lr=0.005, epochs=12)
    found = {}
    for policy in (Head(), Adapters()):
        lesson = policy.plan(0, model.layout)
        after = fit(model, start, train, recipe, lesson, policy, seed=seed, twin="ct-01", round=0)
        found[type(policy).__name__] = score(model, after.vector, test, 2)["auroc"]
    assert found["Adapters"] > 0.95
    assert found["Adapters"] > found["Head"] + 0.1


def test_under_gradual_unfreezing_adapters_thaw_with_their_group() -> None:
    layout = layout_of(ModelSpec(adapters=4), 2)
    adapters = set(adapters_in(layout))
    thawed = [len(adapters.intersection(GradualUnfreezing(every=1).plan(round, layout).shared)) for round in range(5)]
    assert thawed == [0, 2, 4, 6, 6]


def test_weights_from_a_file_fill_the_backbone_and_leave_the_adapters_fresh(tmp_path: Path) -> None:
    source, path = layout_of(ModelSpec(), 7), str(tmp_path / "stage-1.safetensors")
    values = trained_alike(source)
    save_file({name: torch.from_numpy(value) for name, value in source.tensors(values).items()}, path)
    grown = layout_of(ModelSpec(adapters=8), 2)
    found = grown.tensors(initial(ModelSpec(weights=path, adapters=8), 2, 4))
    fresh = grown.tensors(initial(ModelSpec(adapters=8), 2, 4))
    new = {*adapters_in(grown), *grown.of_groups(grown.depth - 1)}
    expected = {name: fresh[name] if name in new else source.tensors(values)[name] for name in grown.names}
    assert all(np.array_equal(found[name], expected[name]) for name in grown.names)
    with_adapters = str(tmp_path / "stage-2.safetensors")
    save_file({name: torch.from_numpy(value) for name, value in grown.tensors(trained_alike(grown)).items()}, with_adapters)
    with pytest.raises(ScenarioError, match=r"extra adapter1\.down\.weight"):
        initial(ModelSpec(weights=with_adapters), 2, 4)  # a body that was trained together with adapters is not the body alone


def test_without_adapters_there_is_nothing_to_train() -> None:
    with pytest.raises(ScenarioError, match="the model has none; give it some") as caught:
        Adapters().plan(0, layout_of(ModelSpec(), 2))
    assert caught.value.code == "E118"


def test_a_scenario_that_trains_adapters_without_having_any_is_refused_where_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text(transfer="adapters", model="{backbone: compact}"))
    with pytest.raises(ScenarioError, match="the model has none") as caught:
        load(path)
    assert caught.value.code == "E128"
    assert caught.value.where.endswith("s.yaml:6:11")
    path.write_text(text(transfer="adapters", model="{adapters: 8}"))
    assert load(path).model == ModelSpec(adapters=8)
