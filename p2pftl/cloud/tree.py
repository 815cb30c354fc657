"""What clustered learning remembers: a tree of clusters, their models, and what each twin was sent last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from p2pftl.cloud.fedavg import averaged
from p2pftl.cloud.seams import Memory, Upload
from p2pftl.cloud.similarity import dot
from p2pftl.params import Vector, gather, scatter


@dataclass(frozen=True)
class Cluster:
    """A cluster, or what is left of one that was split.

    model: number of the model it uses, or used last, -1 before its first answer; halves: numbers of its two halves, () if it was
    not split; axis: mean update of the first half less that of the second, each of length 1: who moves along it belongs to the first.
    """

    model: int = -1
    halves: tuple[int, ...] = ()
    axis: Vector | None = None


@dataclass
class Tree:
    """clusters: 0 is the first one, with everybody; homes: the last cluster of each twin; sent: the number of the model each was sent
    last; models: by number, NaN where nobody ever sent an element; answers: given so far; longest: norm of an update so far."""

    clusters: list[Cluster] = field(default_factory=lambda: [Cluster()])
    homes: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    models: dict[int, Vector] = field(default_factory=dict)
    answers: int = 0
    longest: float = 0.0

    @classmethod
    def recalled(cls, memory: Memory) -> Tree:
        """The tree that `remembered` saved, a new one from an empty memory."""
        if not memory:
            return cls()
        clusters = [Cluster(model, tuple(halves), axis) for model, halves, axis in memory["clusters"]]
        models = dict(zip(memory["numbers"], memory["models"], strict=True))
        return cls(clusters, dict(memory["homes"]), dict(memory["sent"]), models, memory["answers"], memory["longest"])

    def remembered(self) -> Memory:
        """Everything, less the models that nobody uses any more."""
        used = sorted({cluster.model for cluster in self.clusters} | set(self.sent.values()) - {-1})
        numbers = [number for number in used if number >= 0]
        return {
            "clusters": [[cluster.model, list(cluster.halves), cluster.axis] for cluster in self.clusters],
            "numbers": numbers, "models": [self.models[number] for number in numbers],
            "homes": self.homes, "sent": self.sent, "answers": self.answers, "longest": self.longest,
        }  # fmt: skip

    def updates(self, uploads: Mapping[str, Upload], size: int) -> dict[str, Vector]:
        """By how much each twin moved from what it was sent, NaN where it sent nothing or was sent nothing.

        A twin that was sent nothing yet is measured from the model everybody had last in common.
        """
        nowhere = np.full(size, np.nan, np.float32)
        common = self.models.get(self.clusters[0].model, nowhere)
        return {
            name: scatter(nowhere, upload.ranges, upload.part) - (self.models[self.sent[name]] if name in self.sent else common)
            for name, upload in uploads.items()
        }

    def place(self, updates: Mapping[str, Vector]) -> dict[int, list[str]]:
        """Return cluster -> twins. Who was away when its cluster was split goes to the half its update resembles more."""
        found: dict[int, list[str]] = {}
        for name in sorted(updates):
            at = self.homes.get(name, 0)
            while self.clusters[at].halves:
                cluster = self.clusters[at]
                assert cluster.axis is not None
                first, second = cluster.halves
                at = first if dot(np.nan_to_num(updates[name]), cluster.axis) >= 0 else second
            self.homes[name] = at
            found.setdefault(at, []).append(name)
        return found

    def split(self, at: int, first: Iterable[str], second: Iterable[str], axis: Vector) -> None:
        """Give either half of a cluster a cluster of its own, which begins with the model they had together."""
        for half, names in enumerate((first, second)):
            self.homes.update(dict.fromkeys(names, len(self.clusters) + half))
        begun = Cluster(self.clusters[at].model)
        self.clusters[at] = replace(self.clusters[at], halves=(len(self.clusters), len(self.clusters) + 1), axis=axis)
        self.clusters += [begun, begun]

    def move(self, at: int, uploads: Mapping[str, Upload], size: int) -> dict[str, Vector]:
        """Move a cluster by the mean of its twins' updates, weighted by samples; return what each of them is sent.

        Where all of them began with the cluster's model that is the mean of what they uploaded, to the bit.
        """
        number = self.clusters[at].model
        model = self.models.get(number, np.full(size, np.nan, np.float32))
        moved = averaged({name: self._from(model, number, name, upload) for name, upload in uploads.items()}, size, instead=model)
        new = max(self.models, default=-1) + 1
        self.models[new] = moved
        self.clusters[at] = replace(self.clusters[at], model=new)
        self.sent.update(dict.fromkeys(uploads, new))
        return {name: gather(moved, upload.ranges) for name, upload in uploads.items()}

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The twins of each cluster; who was away at a split belongs to neither half yet."""
        whole = [at for at, cluster in enumerate(self.clusters) if not cluster.halves]
        members = (tuple(sorted(name for name, home in self.homes.items() if home == at)) for at in whole)
        return tuple(sorted(group for group in members if group))

    def _from(self, model: Vector, number: int, name: str, upload: Upload) -> Upload:
        """The upload as it would be had the twin begun with `model`."""
        begun = self.sent.get(name, number)
        if begun == number:
            return upload
        between = np.nan_to_num(gather(model - self.models[begun], upload.ranges))
        return replace(upload, part=upload.part + between)
