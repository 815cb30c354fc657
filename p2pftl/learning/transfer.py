"""Transfer policies: what is trained, what is shared, with which loss (ALGORITHMS.md §4). Imports no torch.

An entry that is trained but not shared is private to its twin; one that is not trained stays as it is.
Rounds count from 0. Groups are a layout's layer groups: 0 at the input, the last one is the head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from annotated_types import Ge, Interval, Le

from p2pftl.errors import ScenarioError
from p2pftl.params import Layout

if TYPE_CHECKING:
    from torch import Tensor

_ADAPTER = re.compile(r"(?:^|\.)adapter\d+\.")  # how p2pftl.learning.adapters calls them
_DECAY = 2.6  # of the learning rate per layer group (Howard and Ruder 2018)


@dataclass(frozen=True)
class Phase:
    """One stretch of a fit.

    trained: entries that change; epochs: passes over the shard, None for the recipe's epochs or steps;
    lr: layer group -> factor on the recipe's learning rate, 1 where absent.
    """

    trained: tuple[str, ...]
    epochs: int | None = None
    lr: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What one twin does in one round: fit `phases` one after the other, then send the entries `shared`."""

    phases: tuple[Phase, ...]
    shared: tuple[str, ...]


class Transfer(Protocol):
    """What is trained, what is shared, with which loss; a policy that leaves the loss alone defines `plan` only.

    fixed: True if `shared` is the same in every round.
    """

    fixed: ClassVar[bool] = True

    def plan(self, round: int, layout: Layout) -> Lesson:
        """Return the lesson of `round` (from 0). Raises ScenarioError E118 if the model lacks the layers for it."""
        ...

    def loss(self, task_loss: Tensor, params: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        """Return the loss to minimise: `params` are the trained tensors, `start` their values before the fit."""
        return task_loss


def adaptation(layout: Layout) -> Lesson:
    """What a twin does whose scanner was changed on purpose: train normalisation layers and head (SCANNER_TWIN section 8), share nothing.

    What describes the images' brightness and grain lies in the first, what is made of them in the second (Li et al. 2021).
    """
    head, entries = layout.depth - 1, zip(layout.names, layout.kinds, layout.groups, strict=True)
    return Lesson((Phase(tuple(name for name, kind, group in entries if kind != "weight" or group == head)),), ())


@dataclass(frozen=True)
class Full(Transfer):
    """Train everything, share everything (FedAvg, D-PSGD)."""

    def plan(self, round: int, layout: Layout) -> Lesson:
        return Lesson((Phase(layout.names),), layout.names)


@dataclass(frozen=True)
class Head(Transfer):
    """Linear probe: the features stay as they came, only the head is trained and shared."""

    def plan(self, round: int, layout: Layout) -> Lesson:
        head = layout.of_groups(layout.depth - 1)
        return Lesson((Phase(head),), head)


@dataclass(frozen=True)
class Adapters(Transfer):
    """Train and share the adapters and the head; the backbone stays as it came, norm statistics too (Houlsby et al. 2019)."""

    def plan(self, round: int, layout: Layout) -> Lesson:
        adapters = adapters_in(layout)
        if not adapters:
            raise ScenarioError("E118", "transfer: adapters: the model has none", fix="give it some: model: {adapters: 8}")
        chosen = frozenset((*adapters, *layout.of_groups(layout.depth - 1)))
        trained = tuple(name for name in layout.names if name in chosen)
        return Lesson((Phase(trained),), trained)


@dataclass(frozen=True)
class GradualUnfreezing(Transfer):
    """Thaw one more layer group every `every` rounds, head first; lr / 2.6 per group below the head (ULMFiT)."""

    every: Annotated[int, Ge(1)] = 3
    fixed: ClassVar[bool] = False

    def plan(self, round: int, layout: Layout) -> Lesson:
        head = layout.depth - 1
        first = head - min(head, round // self.every)
        thawed = layout.of_groups(first)
        factors = {group: _DECAY ** (group - head) for group in range(first, head + 1)}
        return Lesson((Phase(thawed, lr=factors),), thawed)


@dataclass(frozen=True)
class FedPer(Transfer):
    """Train everything, keep the last `layers` layer groups private (Arivazhagan et al. 2019)."""

    layers: Annotated[int, Ge(1)] = 1

    def plan(self, round: int, layout: Layout) -> Lesson:
        if self.layers >= layout.depth:
            problem = f"transfer.layers = {self.layers}: the model has {layout.depth} layer groups, nothing would be shared"
            raise ScenarioError("E118", problem, fix=f"at most {layout.depth - 1}")
        return Lesson((Phase(layout.names),), layout.of_groups(0, layout.depth - 1 - self.layers))


@dataclass(frozen=True)
class FedRep(Transfer):
    """Train the private head with the body frozen, then the shared body with the head frozen (Collins et al. 2021)."""

    head_epochs: Annotated[int, Interval(ge=1, le=10_000)] = 1
    body_epochs: Annotated[int, Interval(ge=1, le=10_000)] = 1

    def plan(self, round: int, layout: Layout) -> Lesson:
        head = layout.of_groups(layout.depth - 1)
        body = layout.of_groups(0, layout.depth - 2)
        return Lesson((Phase(head, self.head_epochs), Phase(body, self.body_epochs)), body)


@dataclass(frozen=True)
class FedBN(Transfer):
    """Train everything, keep BatchNorm's weight, bias and statistics private (Li et al. 2021).

    Chosen by module type, not by name; without BatchNorm in the model it is Full.
    """

    def plan(self, round: int, layout: Layout) -> Lesson:
        shared = tuple(name for name, kind in zip(layout.names, layout.kinds, strict=True) if kind == "weight")
        return Lesson((Phase(layout.names),), shared)


@dataclass(frozen=True)
class FixBN(Transfer):
    """Full until round `after`; from then on the statistics of BatchNorm stay as they are, and are used in training too.

    Batches of a twin that has one class in plenty have other statistics than the images that it is tested on, and gradients through
    them pull the twins apart (Zhong, Chen, Chao 2024, FixBN: statistics are averaged for half of the rounds, then fixed). With a
    pretrained start `after: 0` is the usual frozen BatchNorm of fine-tuning.
    """

    after: Annotated[int, Ge(0)] = 0
    fixed: ClassVar[bool] = False

    def plan(self, round: int, layout: Layout) -> Lesson:
        chosen = layout.names
        if round >= self.after:
            chosen = tuple(name for name, kind in zip(layout.names, layout.kinds, strict=True) if kind != "statistic")
        return Lesson((Phase(chosen),), chosen)


@dataclass(frozen=True)
class FedProx(Transfer):
    """Full, with mu/2 ||y - x||^2 added to the loss: x is the model the fit began with (Li et al. 2020, eq. 2).

    mu = 0 is Full, bit for bit.
    """

    mu: Annotated[float, Ge(0), Le(1000)] = 0.01

    def plan(self, round: int, layout: Layout) -> Lesson:
        return Lesson((Phase(layout.names),), layout.names)

    def loss(self, task_loss: Tensor, params: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Tensor:
        if self.mu == 0:
            return task_loss
        distance = sum((tensor - start[name]).square().sum() for name, tensor in params.items())
        return task_loss + self.mu / 2 * distance


def adapters_in(layout: Layout) -> tuple[str, ...]:
    """Entries of the model's adapters (see p2pftl.learning.adapters); empty if it has none."""
    return tuple(name for name in layout.names if _ADAPTER.search(name))
