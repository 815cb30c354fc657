"""Those who take part in a fit: a second network that learns beside the first, or tutors that only speak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.descent import Descent
from p2pftl.learning.features import Features
from p2pftl.learning.fit import Fit, OptimizerMemory, fit, log_shares
from p2pftl.learning.knowledge import Knowledge, Pupil, Tutor
from p2pftl.learning.models import Model
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import FitDiverged
from p2pftl.learning.transfer import Lesson, Phase, Transfer
from p2pftl.params import Layout, Vector

BLOCK = 64  # images at once where nothing is learnt


class Company(Protocol):
    """Who takes part in one fit. start: the vector that it begins with."""

    start: Vector

    def depth(self, frozen: int) -> int:
        """Return how many of the `frozen` layer groups at the input are the same, bit for bit, in all that take part."""
        ...

    def begin(self, phase: Phase) -> None:
        """Make ready for a phase of the fit."""
        ...

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor, inputs: Tensor, depth: int) -> Tensor:
        """Return what to minimise instead of `loss`, and learn from the batch oneself.

        logits [B, classes], labels [B]; inputs: what layer groups 0..depth-1 make of the batch, the images with depth 0.
        """
        ...

    def kept(self, vector: Vector) -> Vector:
        """Return the twin's model after a fit that ended at `vector`."""
        ...

    def close(self) -> None:
        """Leave the networks as they were."""
        ...


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch; no gradient reaches the teacher (Hinton 2015)."""
    said = log_softmax(student / temperature, dim=1)
    meant = log_softmax(teacher.detach() / temperature, dim=1)
    return kl_div(said, meant, reduction="batchmean", log_target=True) * temperature**2


def learn_from(
    pupil: Pupil, tutors: Sequence[Tutor], knowledge: Knowledge, lesson: Lesson, transfer: Transfer,
    *, memory: OptimizerMemory | None = None, features: Features | None = None,
) -> Fit:  # fmt: skip
    """Fit the pupil's model in the company of its tutors; where another model is kept, the optimiser's memory is not.

    Raises FitDiverged E340, also for the model that is kept, DataError E304.
    """
    return in_company(pupil, knowledge.company(pupil, tutors), lesson, transfer, memory=memory, features=features)


def in_company(
    pupil: Pupil, company: Company, lesson: Lesson, transfer: Transfer,
    *, memory: OptimizerMemory | None = None, features: Features | None = None,
) -> Fit:  # fmt: skip
    """As learn_from, in a company that is there already; it is closed afterwards."""
    seed, twin, round = pupil.key
    try:
        done = fit(
            pupil.model, company.start, pupil.cohort, pupil.recipe, lesson, transfer,
            seed=seed, twin=twin, round=round, memory=memory, features=features, company=company,
        )  # fmt: skip
        vector = company.kept(done.vector)
    finally:
        company.close()
    if not np.isfinite(vector).all():
        raise FitDiverged("E340", f"{twin}, round {round}: the model learnt from diverged", fix="lower the learning rate")
    return replace(done, vector=vector, memory=done.memory if vector is done.vector else None)


class Alone:
    """Nobody: the fit only begins elsewhere."""

    def __init__(self, start: Vector) -> None:
        self.start = start

    def depth(self, frozen: int) -> int:
        return frozen

    def begin(self, phase: Phase) -> None:
        pass

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor, inputs: Tensor, depth: int) -> Tensor:
        return loss

    def kept(self, vector: Vector) -> Vector:
        return vector

    def close(self) -> None:
        pass


class Mate:
    """A second network that learns from the same batches at the same time, each towards the other (deep mutual learning).

    vector: what it begins with; pulls: weight of its divergence in the own loss, and of the own one in its loss; received: whether
    it, and not the own network, is the twin's model afterwards; shares: weight of the cross-entropy in either loss.
    A network of another architecture is trained as a whole.
    """

    def __init__(
        self, pupil: Pupil, vector: Vector, pulls: tuple[float, float], *, received: bool, shares: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        self.start, self.vector = pupil.own, vector
        self.recipe, self.network, self.cohort = pupil.recipe, pupil.mate, pupil.cohort
        self.alien = pupil.mate.layout.digest != pupil.model.layout.digest
        self.pulls, self.shares, self.received = pulls, shares, received
        self.network.load(vector)

    def depth(self, frozen: int) -> int:
        return alike(self.network.layout, frozen, [self.start, self.vector])

    def begin(self, phase: Phase) -> None:
        phase = Phase(self.network.layout.names) if self.alien else phase
        self.trained = frozenset(phase.trained)
        self.descents = descents(self.network, phase, self.recipe)

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor, inputs: Tensor, depth: int) -> Tensor:
        network = self.network
        network.focus(self.trained if len(labels) > 1 else self.trained - network.statistics)  # one image has no batch statistics
        theirs = _spoken(network, inputs, depth)
        network.grad.zero_()
        said = self.shares[1] * cross_entropy(self._weighed(theirs), labels) + self.pulls[1] * divergence(logits, theirs)
        said.backward()  # type: ignore[no-untyped-call]
        for descent in self.descents:
            descent.step()
        return self.shares[0] * loss + self.pulls[0] * divergence(theirs, logits)

    def kept(self, vector: Vector) -> Vector:
        return self.learnt if self.received else vector

    @property
    def learnt(self) -> Vector:
        """What the second network has become."""
        return self.network.take()

    def close(self) -> None:
        self.network.rest()

    def _weighed(self, logits: Tensor) -> Tensor:
        """As the recipe's loss wants them, the own network's too."""
        if self.recipe.loss == "cross_entropy":
            return logits
        return logits + torch.from_numpy(log_shares(self.cohort.labels, logits.shape[1])).to(logits)


class Tutors:
    """Networks that say what they make of each batch, and learn nothing. One network plays them in turn.

    weight, temperature: of the divergence from what they say; together: from their mean logits, else the mean of the divergences;
    features: weight of the distance between embeddings.
    """

    def __init__(
        self, pupil: Pupil, tutors: Sequence[Tutor], weight: float, temperature: float, features: float, *, together: bool
    ) -> None:
        self.start, self.network = pupil.own, pupil.mate
        total = sum(tutor.weight for tutor in tutors)
        self.vectors = [tutor.vector for tutor in tutors]
        self.trust = [tutor.weight / total if total > 0 else 1 / len(tutors) for tutor in tutors]
        self.weight, self.temperature, self.features, self.together = weight, temperature, features, together
        self.own, self.theirs = (Tap(model) if features else None for model in (pupil.model, pupil.mate))

    def depth(self, frozen: int) -> int:
        return alike(self.network.layout, frozen, [self.start, *self.vectors])

    def begin(self, phase: Phase) -> None:
        self.network.rest()

    def loss(self, loss: Tensor, logits: Tensor, labels: Tensor, inputs: Tensor, depth: int) -> Tensor:
        said, pulled = [], torch.zeros((), device=logits.device)
        for vector, trust in zip(self.vectors, self.trust, strict=True):
            self.network.load(vector)
            with torch.no_grad():
                said.append(_spoken(self.network, inputs, depth))
            if self.own is not None and self.theirs is not None:
                pulled = pulled + trust * (1 - cosine_similarity(self.own.seen, self.theirs.seen)).mean()
        if self.together:
            mean = torch.stack([trust * logit for trust, logit in zip(self.trust, said, strict=True)]).sum(0)
            apart = divergence(mean, logits, self.temperature)
        else:
            each = [trust * divergence(logit, logits, self.temperature) for trust, logit in zip(self.trust, said, strict=True)]
            apart = torch.stack(each).sum()
        return loss + self.weight * apart + self.features * pulled

    def kept(self, vector: Vector) -> Vector:
        return vector

    def close(self) -> None:
        for tap in (self.own, self.theirs):
            if tap is not None:
                tap.close()


class Tap:
    """Sees the embeddings that go through a model: what its last layer with weights takes in, the mean over pixels of a map.

    seen: [B, width] of the last forward pass.
    """

    def __init__(self, model: Model) -> None:
        weighty = [layer for layer in model.modules(model.layout.depth - 1) if any(True for _ in layer.parameters(recurse=False))]
        self._handle = weighty[-1].register_forward_pre_hook(self._see)
        self.seen = torch.empty(0)

    def close(self) -> None:
        self._handle.remove()

    def _see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (values,) = inputs
        self.seen = values.flatten(2).mean(2) if values.dim() == 4 else values


@torch.no_grad()
def embedded(model: Model, vector: Vector, cohort: Cohort) -> npt.NDArray[np.float64]:
    """Return the embeddings [images, width] of a cohort under the model `vector`; `model` is scratch space."""
    model.load(vector)
    model.rest()
    tap, parts = Tap(model), []
    try:
        for at in range(0, len(cohort), BLOCK):
            model(torch.from_numpy(cohort.images(slice(at, at + BLOCK))))
            parts.append(tap.seen.cpu().numpy().astype(np.float64))
    finally:
        tap.close()
    return np.concatenate(parts)


def likeness(model: Model, vectors: Sequence[Vector], cohort: Cohort) -> list[float]:
    """Weights of `vectors`, summing to 1, by how alike their logits on `cohort` are to those of the first (see knowledge.Similar)."""
    logits = [_logits(model, vector, cohort) for vector in vectors]
    sorted_own = np.sort(logits[0], axis=0)
    apart = [float(np.abs(np.sort(other, axis=0) - sorted_own).mean()) for other in logits]
    warmth = max(1e-6, median(apart[1:])) if len(apart) > 1 else 1.0
    raw = np.exp(-np.array(apart) / warmth)
    return [float(weight) for weight in raw / raw.sum()]


def descents(model: Model, phase: Phase, recipe: Recipe) -> list[Descent]:
    """Fresh optimisers of what a phase trains in `model`: one per stretch of the vector that learns at one rate."""
    layout, made = model.layout, []
    for group in range(layout.depth):
        names = frozenset(layout.of_groups(group, group)) & frozenset(phase.trained) - model.statistics
        rate = recipe.lr * phase.lr.get(group, 1.0)
        made += [Descent(recipe, rate, model.flat[start:stop], model.grad[start:stop]) for start, stop in layout.ranges(names)]
    return made


def alike(layout: Layout, frozen: int, vectors: Sequence[Vector]) -> int:
    """How many layer groups at the input, at most `frozen`, are equal bit for bit in all `vectors`."""
    first, *others = vectors
    for group in range(frozen):
        for start, stop in layout.ranges(layout.of_groups(group, group)):
            mine = first[start:stop].view(np.uint32)
            if not all(np.array_equal(mine, other[start:stop].view(np.uint32)) for other in others):
                return group
    return frozen


def _spoken(model: Model, inputs: Tensor, depth: int) -> Tensor:
    return model.upper(inputs, depth) if depth else model(inputs)


@torch.no_grad()
def _logits(model: Model, vector: Vector, cohort: Cohort) -> np.ndarray:
    """Logits [N, classes] of a whole cohort; `model` is scratch space."""
    model.load(vector)
    model.rest()
    parts = [model(torch.from_numpy(cohort.images(slice(at, at + BLOCK)))).cpu() for at in range(0, len(cohort), BLOCK)]
    return torch.cat(parts).numpy()
