"""IFCA: k models, and every twin chooses the one that explains its own studies best (Ghosh, Chung, Yin, Ramchandran 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from p2pftl.cloud.fedavg import averaged
from p2pftl.cloud.seams import Memory, Reply, Upload
from p2pftl.cloud.similarity import learnt_elements, norm
from p2pftl.params import Layout, Vector, gather, scatter


@dataclass(frozen=True)
class IFCA:
    """All k models are offered to everybody; each becomes the mean, by samples, of the uploads of those that chose it.

    A model nobody chose stays as it was. The twins of a run begin with one model, so the k begin with uploads: with those that are
    farthest from one another, and what is nearest to each (the paper draws k models, and starts again). An upload without a choice
    counts for the nearest model. k = 1 is FedAvg, bit for bit.
    """

    k: Annotated[int, Interval(ge=1, le=64)] = 2

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        mean, learnt = averaged(uploads, layout.size), learnt_elements(layout)
        whole = {name: scatter(mean, uploads[name].ranges, uploads[name].part) for name in sorted(uploads)}
        models: list[Vector] = list(memory.get("models", ()))
        unsure = [name for name in whole if not models or uploads[name].model < 0]

        def distances(name: str, others: Sequence[Vector]) -> list[float]:
            return [norm((whole[name] - other)[learnt]) for other in others]

        while len(models) < self.k and len(models) < len(unsure):
            farthest = max(unsure, key=lambda name: min(distances(name, models or [mean])))
            models.append(whole[farthest])
        chosen = {name: _least(distances(name, models)) if name in unsure else uploads[name].model for name in whole}
        moved = [
            averaged({name: upload for name, upload in uploads.items() if chosen[name] == number}, layout.size, instead=model)
            for number, model in enumerate(models)
        ]
        homes = dict(memory.get("homes", {})) | chosen
        offers = {name: tuple(gather(model, upload.ranges) for model in moved) for name, upload in uploads.items()}
        members = [tuple(sorted(name for name, home in homes.items() if home == number)) for number in range(len(moved))]
        return Reply(offers, {"models": moved, "homes": homes}, tuple(sorted(group for group in members if group)))


def _least(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)
