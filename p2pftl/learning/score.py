"""How good a model is on a cohort: torchmetrics, and the definitions where they need a word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.features import Features, Look
from p2pftl.learning.models import Model
from p2pftl.params import Vector

MOST_CLASSES = 256  # that a byte can tell apart


class Answers(TypedDict):
    """What a model says of each image of a cohort, in its order.

    classes: the predicted class, a byte each; chances: per image the softmax of every class in 255ths, a byte each, 0 where not finite.
    """

    classes: bytes
    chances: bytes


class Score(TypedDict):
    """Metrics of one model on one cohort; None where a metric is undefined, never NaN.

    loss: mean cross-entropy; balanced_accuracy: mean recall over the classes that occur; precision, recall, f1: macro
    over all classes, 0 where a class has nothing to divide by (ALGORITHMS.md §13); auroc: binary, or one-vs-rest macro
    over the classes that occur; confusion: rows true, columns predicted; answers: the single predictions, if
    asked for.
    """

    accuracy: float | None
    balanced_accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    loss: float | None
    confusion: list[list[int]]
    answers: NotRequired[Answers]


def score(
    model: Model,
    vector: Vector,
    cohort: Cohort,
    classes: int,
    *,
    batch: int = 64,
    features: Features | None = None,
    depth: int = 0,
    shared: bool = False,
    single: bool = False,
) -> Score:
    """Score the model `vector` on `cohort`; `model` is scratch space. An empty cohort leaves everything undefined.

    features: where what the first `depth` layer groups of this model make of the cohort is kept, which changes no byte;
    shared: twins that have frozen more or less score on this same cohort; single: tell the answers too.
    """
    model.load(vector)
    model.rest()
    labels = torch.from_numpy(cohort.labels.copy())
    with torch.no_grad():
        if depth and features is not None and len(cohort):
            look = Look(cohort, depth, shared=shared)
            parts = [model.upper(block, depth).cpu() for block in features.blocks(look, vector, batch)]
        else:
            parts = [_logits(model, cohort, slice(at, at + batch)) for at in range(0, len(cohort), batch)]
    logits = torch.cat(parts) if parts else torch.empty(0, classes)
    found = measure(logits, labels)
    if single and len(cohort) and classes <= MOST_CLASSES:
        found["answers"] = answered(logits)
    return found


def answered(logits: Tensor) -> Answers:
    """The single predictions of logits [N, classes], at most MOST_CLASSES of them."""
    chances = torch.softmax(logits.double(), 1).nan_to_num(0.0)
    return Answers(
        classes=logits.argmax(1).numpy().astype(np.uint8).tobytes(), chances=(255 * chances).round().numpy().astype(np.uint8).tobytes()
    )


def measure(logits: Tensor, labels: Tensor) -> Score:
    """Score logits [N, classes] against labels [N] int64."""
    classes = logits.shape[1]
    if not len(labels):
        confusion = [[0] * classes for _ in range(classes)]
        return Score(
            accuracy=None, balanced_accuracy=None, precision=None, recall=None, f1=None, auroc=None, loss=None, confusion=confusion
        )
    # Imported here: torchmetrics brings a second of imports, which only who scores should pay.
    from torchmetrics.functional import classification as metrics

    guessed = logits.argmax(1)
    per_class = partial(_per_class, guessed, labels, classes)
    recall = per_class(metrics.multiclass_recall)
    return Score(
        accuracy=_value(metrics.multiclass_accuracy(guessed, labels, classes, average="micro", validate_args=False)),
        balanced_accuracy=_value(recall[torch.bincount(labels, minlength=classes) > 0].mean()),
        precision=_value(per_class(metrics.multiclass_precision).mean()),
        recall=_value(recall.mean()),
        f1=_value(per_class(metrics.multiclass_f1_score).mean()),
        auroc=_auroc(logits, labels),
        loss=_value(torch.nn.functional.cross_entropy(logits.double(), labels)),
        confusion=metrics.multiclass_confusion_matrix(guessed, labels, classes, validate_args=False).tolist(),
    )


def _per_class(guessed: Tensor, labels: Tensor, classes: int, metric: Callable[..., Tensor]) -> Tensor:
    return metric(guessed, labels, classes, average="none", validate_args=False).double()


def _logits(model: Model, cohort: Cohort, rows: slice) -> Tensor:
    return model(torch.from_numpy(cohort.images(rows))).cpu()


def _auroc(logits: Tensor, labels: Tensor) -> float | None:
    from torchmetrics.functional.classification import binary_auroc

    seen: list[int] = torch.unique(labels).tolist()
    if len(seen) < 2 or not bool(torch.isfinite(logits).all()):
        return None
    chances = torch.softmax(logits.double(), 1)  # float64: float32 makes ties of all who are nearly sure
    chosen = [1] if logits.shape[1] == 2 else seen
    areas = [binary_auroc(chances[:, c], (labels == c).long(), validate_args=False) for c in chosen]
    return _value(torch.stack(areas).mean())


def _value(number: Tensor) -> float | None:
    """A float of the digits that float32 has; None if not finite."""
    return round(float(number), 7) if bool(torch.isfinite(number)) else None
