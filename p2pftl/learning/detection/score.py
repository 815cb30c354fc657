"""How good detections are: average precision as COCO defines it (ALGORITHMS.md §13).

Our own, because torchmetrics' MeanAveragePrecision refuses to run without pycocotools or faster-coco-eval; where its pure-torch
version can be made to run, both agree (tests/learning/detection/test_ap.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from p2pftl.learning.detection.cascade import Detections
from p2pftl.learning.detection.geometry import Truth, overlaps

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
STRICT = 0.7  # from here on a cascade should be better than one stage
RECALLS = np.linspace(0, 1, 101)
CERTAIN = 0.5  # an image is called positive if its surest detection has this score

Floats = npt.NDArray[np.float64]
Score = dict[str, float | list[list[int]] | None]


def measure(found: Sequence[Detections], truth: Sequence[Truth], classes: int) -> Score:
    """Score the detections of some images; None where undefined (nothing to be found), never NaN.

    map: mean over IoU 0.5:0.05:0.95 and the classes that occur; map_50, map_70, map_75: at one IoU; map_strict: mean over
    IoU 0.7:0.05:0.95; recall: share of findings covered (IoU >= 0.5) by any detection; accuracy, confusion (rows true, columns
    predicted): of whole images, which count as the kind of their surest detection if its score is 0.5 or more, else as 0.
    """
    precision = np.array([average_precision(found, truth, kind) for kind in range(1, classes)], np.float64).reshape(-1, len(IOUS))
    confusion = _confusion(found, truth, classes)
    right = sum(confusion[kind][kind] for kind in range(classes))
    return {
        "map": _mean(precision),
        "map_50": _mean(precision[:, IOUS.index(0.5)]),
        "map_70": _mean(precision[:, IOUS.index(STRICT)]),
        "map_75": _mean(precision[:, IOUS.index(0.75)]),
        "map_strict": _mean(precision[:, IOUS.index(STRICT) :]),
        "recall": _recall(found, truth),
        "accuracy": round(right / len(truth), 7) if truth else None,
        "confusion": confusion,
    }


def average_precision(found: Sequence[Detections], truth: Sequence[Truth], kind: int, ious: Sequence[float] = IOUS) -> list[float]:
    """Average precision of one class at each IoU, by 101-point interpolation; NaN where no image holds the class.

    Detections take, the surest first, the free truth that they overlap most and at least by the IoU; each truth once.
    """
    there = sum(int((one.kinds == kind).sum()) for one in truth)
    if not there:
        return [float("nan")] * len(ious)
    scores, hits = [np.empty(0)], [np.empty((0, len(ious)), bool)]
    for detections, one in zip(found, truth, strict=True):
        mine = detections.kinds == kind
        order = np.argsort(-detections.scores[mine].double().cpu().numpy(), kind="stable")
        common = overlaps(detections.boxes[mine].double().cpu(), one.boxes[one.kinds == kind].double().cpu()).numpy()[order]
        scores.append(detections.scores[mine].double().cpu().numpy()[order])
        hits.append(np.array([_taken(common, iou) for iou in ious], bool).reshape(len(ious), -1).T)
    ranked = np.argsort(-np.concatenate(scores), kind="stable")
    return [_interpolated(np.concatenate(hits)[ranked, column], there) for column in range(len(ious))]


def _taken(common: Floats, iou: float) -> list[bool]:
    """Which detections (rows, the surest first) get a truth (columns) of their own."""
    free = np.ones(common.shape[1], bool)
    taken = []
    for row in common:
        best = int(np.argmax(np.where(free, row, -1.0))) if free.any() else -1
        hit = best >= 0 and row[best] >= iou
        if hit:
            free[best] = False
        taken.append(bool(hit))
    return taken


def _interpolated(hits: npt.NDArray[np.bool_], there: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond."""
    right = np.cumsum(hits)
    recall, precision = right / there, right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS - 1e-12)
    return float(np.append(best, 0.0)[at].mean())


def _recall(found: Sequence[Detections], truth: Sequence[Truth]) -> float | None:
    covered, there = 0, 0
    for detections, one in zip(found, truth, strict=True):
        for kind, box in zip(one.kinds.tolist(), one.boxes, strict=True):
            mine = detections.boxes[detections.kinds == kind]
            covered += bool(len(mine)) and bool(overlaps(mine, box[None]).max() >= IOUS[0])
            there += 1
    return round(covered / there, 7) if there else None


def _confusion(found: Sequence[Detections], truth: Sequence[Truth], classes: int) -> list[list[int]]:
    table = [[0] * classes for _ in range(classes)]
    for detections, one in zip(found, truth, strict=True):
        sure = len(detections.scores) and float(detections.scores[0]) >= CERTAIN
        guessed = int(detections.kinds[0]) if sure else 0
        table[int(one.kinds.min()) if len(one.kinds) else 0][guessed] += 1
    return table


def _mean(values: Floats) -> float | None:
    """Mean of what is defined, of the digits that float32 has."""
    defined = values[~np.isnan(values)]
    return round(float(defined.mean()), 7) if len(defined) else None
