"""What variants lose against a reference, and whether one of them loses at most half of what another does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np

from p2pftl.compare.answers import Floats
from p2pftl.compare.statistics import ALPHA, Limits, limits

HALF = 0.5
Word = Literal["at most half", "more than half", "undecided"]


@dataclass(frozen=True)
class Loss:
    """Mean of a metric of the reference minus that of the variant on the same seeds; below 0 it gains. interval: 95 %, bootstrap."""

    variant: str
    value: float
    interval: Limits | None


@dataclass(frozen=True)
class Ratio:
    """The loss of one variant as a share of another's. share, interval: None where there is none; reason: why it is undecided."""

    variant: str
    other: str
    losses: tuple[float, float]
    share: float | None
    interval: Limits | None
    word: Word
    reason: str = ""

    def sentence(self, metric: str, reference: str) -> str:
        """The whole in plain words."""
        mine, theirs = self.losses
        text = f"On {metric}, {self.variant} loses {mine:.3f} against {reference}, {self.other} {theirs:.3f}"
        if self.share is not None:
            text += f": {100 * self.share:.0f} % of it"
        if self.interval:
            text += f" (95 % interval {100 * self.interval[0]:.0f} to {100 * self.interval[1]:.0f} %)"
        return f"{text}. Is that at most half? {self._answer}."

    @property
    def _answer(self) -> str:
        return {"at most half": "Yes", "more than half": "No", "undecided": f"Undecided: {self.reason}"}[self.word]


def loss(variant: str, values: Sequence[Sequence[float]], drawn: Floats | None) -> Loss:
    """values: of the reference and of the variant, on the same seeds; drawn [2, B]: their means when drawn again."""
    reference, mine = values
    return Loss(variant, fmean(reference) - fmean(mine), None if drawn is None else limits(drawn[0] - drawn[1]))


def ratio(names: tuple[str, str], values: Sequence[Sequence[float]], drawn: Floats | None) -> Ratio:
    """values: of the reference, of names[0] and of names[1], on the same seeds; drawn [3, B].

    That names[1] loses at all must be shown first: its share is told if at most 2.5 % of the resamples see no loss, and these count
    as an unlimited share. The interval decides: it must lie on one side of a half.
    """
    reference, mine, theirs = (fmean(row) for row in values)
    lost = reference - mine, reference - theirs
    share = lost[0] / lost[1] if lost[1] > 1e-12 else None
    if share is None:
        return Ratio(*names, lost, None, None, "undecided", f"{names[1]} loses nothing")
    if drawn is None:
        return Ratio(*names, lost, share, None, "undecided", "one seed, and no patients to draw again, has no interval")
    first, second = drawn[0] - drawn[1], drawn[0] - drawn[2]
    none = second <= 1e-12
    if np.count_nonzero(none) > ALPHA / 2 * len(none):
        return Ratio(*names, lost, share, None, "undecided", f"it is not shown that {names[1]} loses anything")
    low, high = limits(np.where(none, math.inf, first / np.where(none, 1.0, second)))
    if high <= HALF:
        return Ratio(*names, lost, share, (low, high), "at most half")
    if low > HALF:
        return Ratio(*names, lost, share, (low, high), "more than half")
    return Ratio(*names, lost, share, (low, high), "undecided", "the interval allows both")
