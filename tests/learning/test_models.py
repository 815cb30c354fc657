from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from p2pftl.learning.backbones import anatomy
from p2pftl.learning.models import Model, ModelSpec, initial, layout_of, prepare_torch
from p2pftl.learning.specs import Backbone, Compute, Precision

prepare_torch()
BACKBONES: tuple[Backbone, ...] = ("compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18")


SPECS = tuple(ModelSpec(backbone, adapters=width) for width in (0, 4) for backbone in BACKBONES)


@pytest.fixture(scope="module", params=SPECS, ids=lambda spec: f"{spec.backbone}-{spec.adapters}")
def model(request: pytest.FixtureRequest) -> Model:
    return Model(request.param, classes=3, seed=5)


def spec_of(model: Model) -> ModelSpec:
    return next(spec for spec in SPECS if layout_of(spec, 3) == model.layout)


def test_what_is_loaded_is_taken_and_what_is_taken_is_a_copy(model: Model) -> None:
    vector = np.random.default_rng(0).standard_normal(model.layout.size).astype(np.float32)
    vector.flags.writeable = False  # as Ray hands it out
    model.load(vector)
    taken = model.take()
    assert np.array_equal(taken, vector)
    taken[:] = 0
    assert np.array_equal(model.take(), vector)


def test_every_tensor_of_the_network_is_a_view_of_its_span_under_its_own_name_and_shape(model: Model) -> None:
    vector = np.arange(model.layout.size, dtype=np.float32)
    model.load(vector)
    state = {name: tensor for name, tensor in model.module.state_dict().items() if tensor.is_floating_point()}
    assert list(state) == list(model.layout.names)
    named = model.layout.tensors(vector)
    for name, shape, (start, stop) in zip(model.layout.names, model.layout.shapes, model.layout.spans, strict=True):
        assert state[name].shape == shape
        assert np.array_equal(state[name].numpy(), named[name]), name
        assert np.array_equal(np.sort(named[name], axis=None), vector[start:stop]), name
    assert np.array_equal(model.layout.vector(named), vector)


def test_weights_of_convolutions_lie_as_kernels_for_channels_last_images_want_them(model: Model) -> None:
    for name, parameter in model.parameters.items():
        assert parameter.is_contiguous(memory_format=torch.channels_last if parameter.dim() == 4 else torch.contiguous_format), name
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


def test_a_step_on_the_flat_vector_moves_the_network_and_gradients_land_in_the_flat_gradient(model: Model) -> None:
    model.load(np.full(model.layout.size, 0.01, np.float32))
    model.focus(model.layout.names)
    model.grad.zero_()
    model(torch.rand(2, 1, 64, 64)).square().sum().backward()  # type: ignore[no-untyped-call]
    inside = model.views(model.grad)
    for name, (start, _) in zip(model.layout.names, model.layout.spans, strict=True):
        if name in model.parameters:
            gradient = model.parameters[name].grad
            assert gradient is not None
            assert gradient.data_ptr() == model.grad[start:].data_ptr()
            assert torch.equal(gradient, inside[name])
    assert float(model.grad.abs().sum()) > 0
    model.flat.add_(1.0)
    state = {name: tensor.numpy() for name, tensor in model.module.state_dict().items() if name in model.layout.names}
    assert np.array_equal(model.take(), model.layout.vector(state))
    model.rest()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.backbone}-{spec.adapters}")
def test_it_does_not_matter_where_the_network_is_cut(spec: ModelSpec, precision: Precision) -> None:
    model = Model(spec, 3, 5, Compute(precision, "cpu"))
    model.flat += 0.01  # or adapters would do nothing
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(images)
        for depth in range(1, model.layout.depth):
            assert torch.equal(model.upper(model.lower(images, depth), depth), whole), depth


def test_the_network_computes_what_the_same_network_computes_without_us(model: Model) -> None:
    spec = spec_of(model)
    start = initial(spec, 3, 5)
    model.load(start)
    built = anatomy(spec.backbone, 3, spec.adapters)
    plain = built.module.to_empty(device="cpu")
    plain.load_state_dict({name: torch.from_numpy(values) for name, values in model.layout.tensors(start).items()}, strict=False)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (built.mean, built.std))
    images = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain.eval()((images - mean) / std), rtol=1e-4, atol=1e-5)


def test_groups_run_from_the_input_to_the_head_and_the_head_gives_the_logits(model: Model) -> None:
    groups = model.layout.groups
    assert list(groups) == sorted(groups)
    assert set(groups) == set(range(model.layout.depth))
    head = model.layout.of_groups(model.layout.depth - 1)
    shapes = dict(zip(model.layout.names, model.layout.shapes, strict=True))
    assert {shapes[name][0] for name in head} == {3}
    assert len(head) == 2
    model.load(np.full(model.layout.size, 0.01, np.float32))
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_statistics_are_those_of_batch_norm_modules(model: Model) -> None:
    for name, kind in zip(model.layout.names, model.layout.kinds, strict=True):
        owner = type(model.module.get_submodule(name.rpartition(".")[0])).__name__
        assert (kind != "weight") == (owner == "BatchNorm2d"), name
        assert (kind == "statistic") == ("running" in name), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_everybody_starts_alike_whatever_torch_has_drawn_before(backbone: Backbone) -> None:
    spec = ModelSpec(backbone)
    first = initial(spec, 2, 1)
    torch.rand(3)
    state = torch.random.get_rng_state()
    assert np.array_equal(initial(spec, 2, 1), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.array_equal(initial(spec, 2, 2), first)
    assert np.isfinite(first).all()


def test_the_body_starts_alike_whatever_the_number_of_classes() -> None:
    two, five = Model(ModelSpec(), 2, 1), Model(ModelSpec(), 5, 1)
    ranges = two.layout.ranges(two.layout.of_groups(0, two.layout.depth - 2))
    assert [np.array_equal(two.take()[a:b], five.take()[a:b]) for a, b in ranges] == [True]


def test_the_compact_backbone_is_compact() -> None:
    assert 80_000 < Model(ModelSpec(), 2, 0).layout.size < 120_000


def test_only_the_focused_part_trains_and_the_rest_is_in_evaluation_mode() -> None:
    model = Model(ModelSpec("squeezenet1_1"), 2, 0)
    model.focus(model.layout.of_groups(model.layout.depth - 1))
    trained = {name for name, parameter in model.parameters.items() if parameter.requires_grad}
    assert trained == {"classifier.1.weight", "classifier.1.bias"}
    assert model.module.get_submodule("classifier.0").training  # dropout goes with its group
    assert not model.module.get_submodule("features.0").training
    model.rest()
    assert not any(module.training for module in model.module.modules() if not list(module.children()))


def test_a_scenario_reads_its_learning_part_without_torch() -> None:
    code = "import sys, p2pftl.learning.specs, p2pftl.learning.transfer, p2pftl.learning.engine; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prepared_torch_runs_one_deterministic_thread() -> None:
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
