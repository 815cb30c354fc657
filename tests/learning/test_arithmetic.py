from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from p2pftl.errors import ScenarioError
from p2pftl.learning.arithmetic import FASTER_IN_BF16, instructions, resolved
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import Backbone, Compute
from tests.learning.blobs import blobs

prepare_torch()
FAST = Compute("bf16", "cpu")
BACKBONES: tuple[Backbone, ...] = ("compact", "squeezenet1_1", "mobilenet_v3_small", "resnet18")
COHORT = blobs(64, seed=3)


def taught(compute: Compute, steps: int = 24) -> tuple[Model, list[float]]:
    """A compact model after some plain steps, and the loss before each of them."""
    model = Model(ModelSpec(), 2, 4, compute)
    model.focus(model.layout.names)
    losses = []
    for step in range(steps):
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        loss = cross_entropy(model(torch.from_numpy(COHORT.images(rows))), torch.from_numpy(COHORT.labels[rows]))
        losses.append(float(loss.detach()))
        model.grad.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            model.flat.add_(model.grad, alpha=-0.2)
    model.rest()
    return model, losses


@pytest.mark.parametrize("backbone", BACKBONES)
def test_auto_becomes_what_was_measured_faster_on_such_a_processor(backbone: Backbone) -> None:
    found = resolved(Compute("auto", "cpu"), backbone)
    assert found == Compute("bf16" if backbone in FASTER_IN_BF16.get(instructions(), ()) else "fp32", "cpu")
    assert resolved(found, backbone) == found
    assert Model(ModelSpec(backbone), 2, 0, Compute("auto", "cpu")).compute == found


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_processor_and_cuda_is_one_clear_error() -> None:
    assert resolved(Compute(), "compact").device == "cpu"
    with pytest.raises(ScenarioError, match=r"E138 compute\.device = cuda: there is no GPU"):
        Model(ModelSpec(), 2, 0, Compute(device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_gpu_computes_what_the_processor_computes(backbone: Backbone) -> None:
    images = torch.from_numpy(blobs(4, size=64).images(slice(0, 4)))
    here, there = Model(ModelSpec(backbone), 2, 0), Model(ModelSpec(backbone), 2, 0, Compute("fp32", "cuda"))
    assert np.array_equal(here.take(), there.take())
    with torch.no_grad():
        torch.testing.assert_close(there(images).cpu(), here(images), rtol=1e-3, atol=1e-4)


def test_in_bfloat16_features_are_short_and_logits_parameters_and_gradients_are_not() -> None:
    model = Model(ModelSpec(), 2, 0, FAST)
    images = torch.from_numpy(COHORT.images(slice(0, 8)))
    assert model.lower(images, 2).dtype == torch.bfloat16
    assert model(images).dtype == model.flat.dtype == model.grad.dtype == torch.float32
    exact = replace(FAST, precision="fp32")
    difference = (model(images) - Model(ModelSpec(), 2, 0, exact)(images)).abs().max()
    assert 0 < float(difference) < 0.01


def test_in_bfloat16_a_step_changes_the_next_one_and_the_same_steps_give_the_same_bytes() -> None:
    one, losses = taught(FAST)
    again, _ = taught(FAST)
    assert one.take().tobytes() == again.take().tobytes()
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.05


def test_bfloat16_follows_the_same_path_as_32_bits() -> None:
    (_, fast), (_, exact) = taught(FAST), taught(Compute("fp32", "cpu"))
    assert np.abs(np.subtract(fast, exact)).max() < 0.1
