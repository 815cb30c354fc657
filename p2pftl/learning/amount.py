"""How much a fit looks at, and in which order of batches. Without torch, so that a run can be planned before torch is there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from p2pftl.learning.specs import Recipe
from p2pftl.learning.transfer import Lesson, Phase


def samples_seen(recipe: Recipe, lesson: Lesson, n: int) -> int:
    """Number of images a fit on `n` images looks at, repeats counted: what virtual compute time is made of."""
    total = 0
    for phase in lesson.phases:
        if phase.epochs is not None or recipe.steps is None:
            total += n * (phase.epochs or recipe.epochs)
        else:
            sizes = [rows.stop - rows.start for rows in one_epoch(n, recipe.batch)]
            whole, rest = divmod(recipe.steps, len(sizes))
            total += whole * n + sum(sizes[:rest])
    return total


def one_epoch(n: int, batch: int) -> list[slice]:
    """Cut n images into batches; a last batch of one joins the one before it."""
    stops = list(range(batch, n, batch))
    if stops and batch > 1 and n - stops[-1] == 1:
        stops.pop()
    return [slice(start, stop) for start, stop in itertools.pairwise([0, *stops, n])]


def batches(n: int, recipe: Recipe, phase: Phase) -> Iterator[tuple[int, slice]]:
    """Yield (epoch, rows of that epoch's order): the phase's epochs, else the recipe's steps, else its epochs."""
    rows = one_epoch(n, recipe.batch)
    if phase.epochs is None and recipe.steps is not None:
        endless = ((epoch, part) for epoch in itertools.count() for part in rows)
        yield from itertools.islice(endless, recipe.steps)
    else:
        yield from ((epoch, part) for epoch in range(phase.epochs or recipe.epochs) for part in rows)
