"""What the twins of a run said of every common test image, by image and by patient, and what that is worth if patients are drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pftl.events import Tested

MEASURES = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
"""What follows from single answers."""

Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Things that were classified. of [K]: the patient of each; truth [K]: its class; said [T, K]: what each twin took it for."""

    of: Whole
    truth: Whole
    said: Whole
    patients: int
    classes: int

    def measures(self, weights: Floats | None = None) -> dict[str, Floats]:
        """Each of MEASURES [B], the mean over the twins, where patient p counts weights[b, p] times; once, and B = 1, if not given."""
        drawn = np.ones((1, self.patients)) if weights is None else weights
        occurs = np.bincount(self.truth, minlength=self.classes) > 0
        sums = {name: np.zeros(len(drawn)) for name in MEASURES}
        for said in self.said:
            place = (self.of * self.classes + self.truth) * self.classes + said
            counts = np.bincount(place, minlength=self.patients * self.classes**2).reshape(self.patients, -1)
            matrices = (drawn @ counts).reshape(len(drawn), self.classes, self.classes)
            for name, values in measured(matrices, occurs).items():
                sums[name] += values
        return {name: values / len(self.said) for name, values in sums.items()}


@dataclass(frozen=True)
class Answers:
    """images: every test image; persons: every patient whose images are of one class, taken for the class of the highest mean
    probability over its images; several: patients left out of `persons`; test: tells one test set from another."""

    images: Judged
    persons: Judged
    several: int
    test: bytes

    @property
    def slices(self) -> bool:
        """Whether some patient has more than one image, so that the two levels differ."""
        return len(self.images.of) > self.images.patients


def answers(
    data: Mapping[str, Any], classes: int, told: Mapping[str, Tested], confusions: Mapping[str, Sequence[Sequence[int]]]
) -> Answers | None:
    """Join what the twins told with whose images they are (facts of the plan); confusions: of each twin that was scored, as a check.

    None where a twin's last score has no answers to it: an older run, one too large for them, a twin that left before the end.
    """
    patients, truth = (np.array(data.get(key, ()), np.int64) for key in ("test_patients", "test_labels"))
    count = len(truth)
    if not (confusions and count and len(patients) == count and confusions.keys() <= told.keys()):
        return None
    said, chances = [], []
    for name, confusion in confusions.items():
        one = told[name]
        if (len(one.classes), len(one.chances)) != (count, count * classes):
            return None
        said.append(np.frombuffer(one.classes, np.uint8).astype(np.int64))
        chances.append(np.frombuffer(one.chances, np.uint8).reshape(count, classes))
        if np.bincount(truth * classes + said[-1], minlength=classes**2).tolist() != [cell for row in confusion for cell in row]:
            return None
    images = Judged(patients, truth, np.array(said), int(patients.max()) + 1, classes)
    persons, several = _persons(images, chances)
    return Answers(images, persons, several, patients.tobytes() + truth.tobytes())


def measured(counts: Floats, occurs: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """MEASURES of confusion matrices [B, C, C], rows true, defined as in learning/score.py; NaN of one without images.

    occurs [C]: classes of the test set. One of them that a resample happens to lack is left out of its means, not counted as 0.
    """
    hits, true, guessed = np.diagonal(counts, axis1=1, axis2=2), counts.sum(2), counts.sum(1)
    lacking = occurs & (true == 0)
    unseen = lacking & (guessed == 0)
    recall = _over(hits, true)
    return {
        "accuracy": _share(hits.sum(1), true.sum(1)),
        "balanced_accuracy": _mean(recall, true > 0),
        "precision": _mean(_over(hits, guessed), ~unseen),
        "recall": _mean(recall, ~lacking),
        "f1": _mean(_over(2 * hits, true + guessed), ~unseen),
    }


def _persons(images: Judged, chances: Sequence[npt.NDArray[np.uint8]]) -> tuple[Judged, int]:
    """The patients of `images` as they are taken from mean probabilities; equal ones go to the class that more images were taken for."""
    low = np.full(images.patients, images.classes)
    high = np.full(images.patients, -1)
    np.minimum.at(low, images.of, images.truth)
    np.maximum.at(high, images.of, images.truth)
    clear = np.flatnonzero(low == high)
    said = []
    for single, chance in zip(images.said, chances, strict=True):
        sums = np.zeros((images.patients, images.classes))
        np.add.at(sums, images.of, chance.astype(np.float64))
        np.add.at(sums, (images.of, single), 0.5 / len(single))
        said.append(sums.argmax(1)[clear])
    return Judged(clear, low[clear], np.array(said), images.patients, images.classes), int(np.count_nonzero(low < high))


def _over(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.zeros(whole.shape), where=whole > 0))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _mean(values: Floats, counted: npt.NDArray[np.bool_]) -> Floats:
    return _share((values * counted).sum(1), counted.sum(1).astype(np.float64))
