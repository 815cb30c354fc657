"""Several twins' heads fitted as one batched computation: small layers cost more in calls than in arithmetic.

On a processor this pays for heads on kept features and for nothing else: stacked convolutions are slower than one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from p2pftl.learning.descent import Descent
from p2pftl.learning.models import Model
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Learnt
from p2pftl.params import Vector

LEAST, MOST = 16, 256
"""Twins in one computation: eight are as fast one after the other; of more than so many the features would fill the memory."""

_OF_ONE_TWIN = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # batch statistics, draws of its own


def stackable(model: Model) -> bool:
    """Whether the heads of many twins can be fitted at once: nothing in them but arithmetic on one batch."""
    return not any(isinstance(module, _OF_ONE_TWIN) for module in model.modules(model.layout.depth - 1))


def fit_together(model: Model, heads: Sequence[Vector], batches: Iterable[Sequence[tuple[Tensor, Tensor]]], recipe: Recipe) -> list[Learnt]:
    """Fit every twin's head to its own batches, with the same recipe, one step of all twins at a time.

    heads: [n] each, as are the vectors returned; batches: step by step, one (features [B, ...], labels [B] int64) per twin, B may
    differ. Equals fits one by one up to rounding, since matrix products sum in another order. The head must be `stackable`.
    """
    values = torch.from_numpy(np.stack(heads)).to(model.device)
    descent = Descent(recipe, recipe.lr, values, torch.empty_like(values))
    slopes = vmap(grad_and_value(_Head(model).loss))
    total, samples, steps = torch.zeros(len(heads), device=model.device), np.zeros(len(heads), int), 0
    for batch in batches:
        sizes = [len(labels) for _, labels in batch]
        features = pad_sequence([features for features, _ in batch], batch_first=True)
        labels = pad_sequence([labels for _, labels in batch], batch_first=True, padding_value=-100)  # not counted by the loss
        gradients, losses = slopes(values, features, labels)
        descent.gradient.copy_(gradients)
        descent.step()
        total, samples, steps = total + losses * torch.tensor(sizes, device=model.device), samples + sizes, steps + 1
    ends = zip(values.cpu().numpy(), total.tolist(), samples.tolist(), strict=True)
    return [Learnt(head, loss / seen, seen, steps, len(head) / model.layout.size) for head, loss, seen in ends]


class _Head(nn.Module):
    """The last layer group of a model as a function of its parameters."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.model, self.depth = model.module, model, model.layout.depth - 1

    def forward(self, features: Tensor) -> Tensor:
        return self.model.upper(features, self.depth)

    def loss(self, values: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of one twin, whose head lies in `values`."""
        named = {f"network.{name}": view for name, view in self.model.views(values, self.depth).items()}
        return cross_entropy(functional_call(self, named, (features,), tie_weights=False), labels)
