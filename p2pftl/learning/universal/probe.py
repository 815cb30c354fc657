"""How much an encoder knows of a domain: a linear probe on frozen features, and what two encoders differ by over domains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.universal.model import Universal, with_encoder
from p2pftl.learning.universal.network import MeanAndPeak
from p2pftl.params import Vector

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
class Compared:
    """Two encoders over domains. difference: mean of mine - theirs; p: two-sided, Wilcoxon's signed ranks, exact; n: domains."""

    difference: float
    p: float
    n: int


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


def compared(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Compared:
    """Compare two encoders over the same domains. Raises ValueError if the domains differ or are none.

    The smallest p that n domains can give is 2^(1-n): 0.0078 for 8, and never below 0.05 for fewer than 6.
    """
    if mine.keys() != theirs.keys() or not mine:
        raise ValueError("two encoders are compared over the same domains")
    differences = np.array([mine[name] - theirs[name] for name in mine])
    return Compared(float(differences.mean()), signed_ranks(differences), len(differences))


def signed_ranks(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test. Zeros are left out, ties share ranks, and all signs are tried up to 16 differences."""
    from scipy import stats  # here: it takes longer to import than most probes take

    rounded = np.round(differences, 12)  # accuracies that differ in the last bit are equal
    kept = rounded[rounded != 0]
    if not len(kept):
        return 1.0
    if len(kept) > ALL_SIGNS:
        return float(stats.wilcoxon(kept, method="asymptotic").pvalue)
    ranks = stats.rankdata(np.abs(kept))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(kept))))
    return float(np.mean(np.abs(signs @ ranks) >= abs(np.sign(kept) @ ranks) - 1e-9))


ALL_SIGNS = 16
