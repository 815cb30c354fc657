"""Optimiser steps on a run of a flat vector.

torch.optim's classes compute the same (SGD to the bit), but building one imports torch's compiler, 0.85 s of a process; and
their Adam takes a dozen passes over the vector where torch's fused operation takes one, which makes it ten times slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from p2pftl.learning.specs import Recipe

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MOMENTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq")}  # torch's names
STEP = "step"


@dataclass
class Descent:
    """An optimiser over one run of elements, all of one learning rate and one age.

    values, gradient: [n] float32, views of the flat vector and its gradient; lr: learning rate of this run; state: what is
    remembered between steps, moments [n] and for Adam the number of steps taken (empty at first).
    """

    recipe: Recipe
    lr: float
    values: Tensor
    gradient: Tensor
    state: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def step(self) -> None:
        """Move `values` along `gradient` (SGD with heavy-ball momentum, or Adam, Kingma and Ba 2015)."""
        if self.recipe.optimizer == "sgd":
            self._sgd()
        else:
            self._adam()

    def _sgd(self) -> None:
        recipe, (name,), slope = self.recipe, MOMENTS["sgd"], self.gradient
        if recipe.weight_decay:
            slope = slope.add(self.values, alpha=recipe.weight_decay)
        if recipe.momentum:
            known = self.state.get(name)
            slope = self.state[name] = slope.clone() if known is None else known.mul_(recipe.momentum).add_(slope)
        self.values.add_(slope, alpha=-self.lr)

    def _adam(self) -> None:
        for name in MOMENTS["adam"]:
            if name not in self.state:
                self.state[name] = torch.zeros_like(self.values)
        age = self.state.setdefault(STEP, torch.zeros((), device=self.values.device)).add_(1)
        mean, square = (self.state[name] for name in MOMENTS["adam"])
        torch._fused_adam_(
            [self.values], [self.gradient], [mean], [square], [], [age], lr=self.lr, beta1=BETA1, beta2=BETA2,
            weight_decay=self.recipe.weight_decay, eps=EPSILON, amsgrad=False, maximize=False,
        )  # fmt: skip
