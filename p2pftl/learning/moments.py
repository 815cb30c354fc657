"""Moments of embeddings by class: sums that add up over twins, and the linear discriminant that follows from them. Imports no torch.

One row of numbers: [sum per class, classes x width | sum of outer products, upper triangle, width (width + 1) / 2 | images per class].
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from p2pftl.params import Layout, Vector

NEVER = -1e6  # bias of a class that nobody told of


def shapes(classes: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the three parts."""
    return (classes, width), (width * (width + 1) // 2,), (classes,)


def told(embeddings: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int, least: int) -> Vector:
    """Return the moments of embeddings [images, width] with labels [images]. Of a class with fewer than `least` images nothing is told."""
    counts = np.bincount(labels, minlength=classes)
    counts[counts < least] = 0
    chosen = counts[labels] > 0
    embeddings, labels = embeddings[chosen], labels[chosen]
    sums = np.stack([embeddings[labels == label].sum(0) for label in range(classes)])
    products = embeddings.T @ embeddings
    return np.concatenate((sums.ravel(), products[np.triu_indices(len(products))], counts)).astype(np.float32)


def counts(known: Vector, classes: int) -> Vector:
    """Images per class [classes] that moments speak of, weighted as they were merged."""
    return known[-classes:]


def discriminant(known: Vector, classes: int, shrink: float) -> tuple[Vector, Vector]:
    """Return weight [classes, width] and bias [classes] of the linear discriminant of moments, all classes equally likely beforehand.

    Logits are log densities but for a constant: w_c = S^-1 m_c, b_c = -m_c^T S^-1 m_c / 2, with m_c the mean of class c and
    S = (1 - shrink) W + shrink tr(W) / width I, W the covariance within classes (Fisher 1936; shrinkage of Friedman 1989). Scaling the
    moments changes nothing. A class without images is never chosen.
    """
    known = known.astype(np.float64)
    number = known[-classes:]
    width = _width(len(known) - classes, classes)
    sums, upper = known[: classes * width].reshape(classes, width), known[classes * width : -classes]
    products = np.zeros((width, width))
    products[np.triu_indices(width)] = upper
    products += np.triu(products, 1).T
    there = number > 0
    means = np.divide(sums, number[:, None], out=np.zeros_like(sums), where=there[:, None])
    within = (products - (means.T * number) @ means) / number.sum()
    spread = np.trace(within) / width
    # A spread of nothing but rounding is no spread: any multiple of the identity then gives the nearest mean.
    share, spread = (shrink, spread) if spread > 1e-12 * np.trace(products) / number.sum() else (1.0, 1.0)
    weight = np.linalg.solve((1 - share) * within + share * spread * np.eye(width), means.T).T
    bias = np.where(there, -0.5 * (weight * means).sum(1), NEVER)
    return weight.astype(np.float32), bias.astype(np.float32)


def headed(model: Vector, known: Vector, layout: Layout, shrink: float) -> Vector:
    """Return `model` [layout.size] with the discriminant of `known` in its last layer; unchanged while nothing is known.

    layout: of the model; its last two entries are the weight [classes, width] (or with a pixel's [1, 1] behind) and the bias [classes].
    """
    classes = layout.shapes[-1][0]
    if not counts(known, classes).any():
        return model
    weight, bias = discriminant(known, classes, shrink)
    start, _ = layout.spans[-2]
    return np.concatenate((model[:start], weight.ravel(), bias))


def _width(size: int, classes: int) -> int:
    """Solve classes w + w (w + 1) / 2 = size."""
    half = classes + 0.5
    return round(math.sqrt(half * half + 2 * size) - half)
