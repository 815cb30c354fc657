"""Seeds drawn again and, within each, patients drawn again: what the means of several variants come to, all on the same draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from p2pftl.compare.answers import MEASURES, Floats
from p2pftl.compare.course import PATIENTS, Course
from p2pftl.compare.statistics import resamples
from p2pftl.draw import draw

ROUNDS = 2_000
RESAMPLED = (*MEASURES, *PATIENTS)
"""Metrics whose patients can be drawn again."""


class Resampling:
    """Two-stage bootstrap (Davison and Hinkley 1997, 3.8). If all runs have one and the same test set, its patients are drawn once for
    all seeds, else for every seed anew: the answers of one patient to several seeds are no independent facts."""

    def __init__(self, courses: Sequence[Course]) -> None:
        self._common = len({one.answers.test for one in courses if one.answers}) == 1
        self._known: dict[tuple[str, int], dict[str, Floats]] = {}

    def means(self, metric: str, cells: Sequence[Sequence[Course]]) -> Floats | None:
        """Means over the seeds [V, B]; cells[v][s]: of variant v and seed s.

        None where that cannot be told: the metric does not follow from single answers, or a cell has none, or other test images.
        """
        count = len(cells[0]) if cells else 0
        if metric not in RESAMPLED or not count:
            return None
        for column in zip(*cells, strict=True):
            if len({one.answers.test if one.answers else None for one in column} | {None}) != 2 or not all(one.answers for one in column):
                return None
        pool = np.array([[self._measures(one)[metric] for one in row] for row in cells])
        seeds, turns = _draws(count)
        return np.asarray(pool[:, seeds, np.arange(ROUNDS)[:, None] if self._common else turns].mean(axis=2))

    def _measures(self, one: Course) -> dict[str, Floats]:
        """All metrics of a cell [B]."""
        place = one.variant, one.seed
        if place not in self._known:
            assert one.answers is not None
            drawn = weights(one.answers.images.patients, 0 if self._common else one.seed)
            images, persons = one.answers.images.measures(drawn), one.answers.persons.measures(drawn)
            self._known[place] = images | {f"patient_{name}": values for name, values in persons.items()}
        return self._known[place]


def over_seeds(values: Sequence[Sequence[float]]) -> Floats | None:
    """Means [V, B] of values [V][S] with the seeds alone drawn again; None below two."""
    rows = np.array(values, np.float64)
    return np.asarray(rows[:, resamples(rows.shape[1])].mean(axis=2)) if rows.size and rows.shape[1] > 1 else None


@lru_cache(maxsize=64)
def weights(patients: int, seed: int) -> Floats:
    """How often each patient is drawn [B, P]."""
    return draw(0, "patients", patients, seed).multinomial(patients, np.full(patients, 1 / patients), ROUNDS).astype(np.float64)


@lru_cache
def _draws(count: int) -> tuple[np.ndarray, np.ndarray]:
    """[B, S] which seed stands in which place, and which of its resamples: a seed that stands in two places comes with other patients."""
    rng = draw(0, "seeds", count)
    seeds = rng.integers(count, size=(ROUNDS, count))
    return seeds, np.stack([rng.permutation(ROUNDS) for _ in range(count)], axis=1)
