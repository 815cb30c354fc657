from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from p2pftl.learning.descent import MOMENTS, Descent
from p2pftl.learning.models import prepare_torch
from p2pftl.learning.specs import Recipe

prepare_torch()
START = torch.randn(1003, generator=torch.Generator().manual_seed(0))
GRADIENTS = torch.randn(6, 1003, generator=torch.Generator().manual_seed(1))


def theirs(recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    parameter = torch.nn.Parameter(START.clone())
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD([parameter], recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        optimizer = torch.optim.Adam([parameter], recipe.lr, weight_decay=recipe.weight_decay)
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach(), dict(optimizer.state[parameter])


def ours(recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    descent = Descent(recipe, recipe.lr, START.clone(), torch.empty(1003))
    for at, gradient in enumerate(GRADIENTS):
        descent.gradient.copy_(gradient)
        descent.step()
        if at == 2:  # what is remembered is all that is needed to go on
            descent = replace(descent, state={name: tensor.clone() for name, tensor in descent.state.items()})
    return descent.values, descent.state


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_is_torchs_to_the_bit(momentum: float, weight_decay: float) -> None:
    recipe = Recipe(lr=0.1, momentum=momentum, weight_decay=weight_decay)
    (values, state), (expected, remembered) = ours(recipe), theirs(recipe)
    assert torch.equal(values, expected)
    assert set(state) == (set(MOMENTS["sgd"]) if momentum else set())
    assert all(torch.equal(state[name], remembered[name]) for name in state)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_adam_is_torchs(weight_decay: float) -> None:
    recipe = Recipe("adam", lr=0.1, weight_decay=weight_decay)
    (values, state), (expected, remembered) = ours(recipe), theirs(recipe)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-6)
    assert set(state) == {*MOMENTS["adam"], "step"} == set(remembered)
    for name in state:
        torch.testing.assert_close(state[name], remembered[name], rtol=1e-5, atol=1e-7)
