"""How much an encoder knows of a domain: a linear probe on frozen features, and what two encoders differ by over domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.universal.model import Universal, with_encoder
from p2pftl.learning.universal.network import MeanAndPeak
from p2pftl.learning.universal.ranks import Compared, compared, signed_ranks
from p2pftl.params import Vector

__all__ = ["Compared", "Domain", "Judge", "compared", "leave_one_out", "pooled", "probe", "ridge_scores", "signed_ranks"]

Floats = npt.NDArray[np.float64]
Content = TypeVar("Content")
AT_ONCE = 64
RIDGE = 10.0  # few samples, many features: 1 was worse on phantoms that no figure in docs is of


@dataclass(frozen=True)
class Domain:
    """Images of one kind with labels 0..classes-1 of their own, patients of `test` in no other part. Only twins and judges see labels."""

    train: Cohort
    test: Cohort
    classes: int


@dataclass(frozen=True)
class Judge:
    """What an encoder knows of one twin's images, against the encoder that everybody began with. Only a judge sees labels.

    model: scratch space with either end; start: the vector all began with; classes: of the twin's own label set.
    """

    model: Universal
    start: Vector = field(repr=False)
    cohorts: Mapping[str, Cohort] = field(repr=False)
    classes: int
    _kept: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, vector: Vector, split: str) -> dict[str, float]:
        """probe: balanced accuracy on `split` of a linear probe fitted to the training images; probe_start: of the start's encoder."""
        domain = Domain(self.cohorts["train"], self.cohorts[split], self.classes)
        if not len(domain.train) or not len(domain.test):
            return {}
        if split not in self._kept:  # the start does not change
            self._kept[split] = round(probe(self.model, self.start[: self.model.encoder], domain), 7)
        return {"probe": round(probe(self.model, vector[: self.model.encoder], domain), 7), "probe_start": self._kept[split]}


def pooled(model: Universal, encoder: Vector, cohort: Cohort) -> Floats:
    """Mean and peak of the encoder's features, [N, 2 C]; `model` is scratch space, its end does not matter."""
    model.load(with_encoder(model.take(), encoder))
    model.rest()
    pool, rows = MeanAndPeak(), [slice(at, at + AT_ONCE) for at in range(0, len(cohort), AT_ONCE)]
    with torch.no_grad():
        maps = [model.features(torch.from_numpy(cohort.images(part))) for part in rows]
        return np.concatenate([(one if one.dim() == 2 else pool(one)).double().cpu().numpy() for one in maps])


def probe(model: Universal, encoder: Vector, domain: Domain, ridge: float = RIDGE) -> float:
    """Balanced accuracy on the domain's test images of a linear probe fitted to its training images; the encoder stays as it is."""
    train, test = (pooled(model, encoder, part) for part in (domain.train, domain.test))
    guessed = ridge_scores(train, domain.train.labels, test, domain.classes, ridge).argmax(1)
    truth = domain.test.labels
    return float(np.mean([np.mean(guessed[truth == kind] == kind) for kind in np.unique(truth)]))


def ridge_scores(train: Floats, labels: npt.NDArray[np.int64], test: Floats, classes: int, ridge: float = RIDGE) -> Floats:
    """Scores [N, classes] of a ridge regression on one-hot labels, closed form; every class weighs the same, however many images it has.

    Features are standardised by the training images; the intercept is not shrunk.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = (len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[labels]
    weights /= weights.sum()
    mean = weights @ train
    std = np.sqrt(weights @ (train - mean) ** 2)
    scale = np.where(std > 1e-9, std, 1.0)
    seen, asked = (train - mean) / scale, (test - mean) / scale
    targets = np.eye(classes)[labels]
    average = weights @ targets
    gram = seen.T @ (seen * weights[:, None]) + ridge / len(labels) * np.eye(seen.shape[1])
    found: Floats = asked @ np.linalg.solve(gram, seen.T @ ((targets - average) * weights[:, None])) + average
    return found


def leave_one_out(domains: Mapping[str, Content], learn: Callable[[Mapping[str, Content]], Vector]) -> dict[str, Vector]:
    """Domain -> the encoder that was learnt without it, by `learn`, which gets the others in their order."""
    return {left: learn({name: one for name, one in domains.items() if name != left}) for left in domains}
