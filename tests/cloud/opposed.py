"""Two groups of twins whose labels contradict each other: no common model can be right for both."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from p2pftl.agenda import Participant
from p2pftl.cloud.cloud import Cloud
from p2pftl.cloud.fedavg import FedAvg
from p2pftl.cloud.seams import Coordinator, Memory, Reply, Upload
from p2pftl.draw import draw
from p2pftl.learning.task import Learnt
from p2pftl.params import Layout, Vector
from p2pftl.world.topology import CLOUD
from tests.toys import Pull, Toy

WIDTH = 8
LINE = Layout(("body.weight", "body.norm", "body.mean"), ((WIDTH,), (2,), (2,)), ("weight", "norm", "statistic"), (0, 0, 0))


@dataclass(frozen=True)
class Opposed(Pull):
    """Logistic regression on 30 points; odd twins call 1 what even ones call 0 (no difference between them with `alike`)."""

    samples: int = 30
    layout: Layout = LINE
    alike: bool = False

    def initial(self) -> Vector:
        return np.zeros(self.layout.size, np.float32)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        rng = draw(self.seed, "points", self.name)
        points = rng.standard_normal((self.samples, WIDTH))
        truth = draw(self.seed, "truth").standard_normal(WIDTH)
        labels = points @ truth > 0
        return points, labels if self.alike or group(self.name) == 0 else ~labels

    def fit(self, vector: Vector, round: int, scene: Any, memory: Any) -> Learnt:
        """Five steps down the slope; the statistic is another number every time, as large as it gets."""
        points, labels = self.points()
        weight = vector[:WIDTH].astype(float)
        for _ in range(5):
            weight += self.rate * points.T @ (labels - 1 / (1 + np.exp(-points @ weight))) / self.samples
        moved = vector.copy()
        moved[:WIDTH] = weight
        moved[-2:] = 100 * draw(self.seed, "statistic", self.name, round).standard_normal(2)
        return Learnt(moved, 0.0, self.samples, 5, 1.0)

    def score(self, vector: Vector, split: str, scene: Any, round: int) -> dict[str, float]:
        return {"train": {"loss": self.loss(vector)}, "test": {"accuracy": self.right(vector)}}.get(split, {})

    def right(self, vector: Vector) -> float:
        """Share of the own points called right."""
        points, labels = self.points()
        return float(((points @ vector[:WIDTH] > 0) == labels).mean())

    def loss(self, vector: Vector) -> float:
        points, labels = self.points()
        return float(np.logaddexp(0, -np.where(labels, 1, -1) * (points @ vector[:WIDTH])).mean())


def group(name: str) -> int:
    return int(name[-1]) % 2


@dataclass(frozen=True)
class Coordinated(Toy):
    """A toy run with a coordinator of one's choice."""

    coordinator: Coordinator = FedAvg()  # noqa: RUF009 (frozen)

    def __call__(self, name: str) -> Participant:
        made = super().__call__(name)
        return Cloud(self.coordinator, made.terms, made.world, made.layout) if name == CLOUD and isinstance(made, Cloud) else made


def coordinated(run: Toy, coordinator: Coordinator) -> Coordinated:
    return Coordinated(**{item.name: getattr(run, item.name) for item in fields(run)}, coordinator=coordinator)


def rounds(
    coordinator: Coordinator, tasks: dict[str, Opposed], count: int, absent: dict[int, set[str]] | None = None
) -> tuple[Reply, dict[str, Vector]]:
    """Fit and answer `count` times, without a network; each twin takes the model that explains its own points best."""
    models = {name: task.initial() for name, task in tasks.items()}
    chosen = dict.fromkeys(tasks, -1)
    memory: Memory = {}
    for round in range(count):
        here = sorted(set(tasks) - (absent or {}).get(round, set()))
        fits = {name: tasks[name].fit(models[name], round, None, None).vector for name in here}
        uploads = {name: Upload(fits[name], ((0, LINE.size),), tasks[name].samples, chosen[name]) for name in here}
        reply = coordinator.answer(uploads, LINE, memory)
        memory = reply.memory
        for name, offers in reply.offers.items():
            losses = [tasks[name].loss(offer) for offer in offers]
            chosen[name] = losses.index(min(losses))
            models[name] = offers[chosen[name]]
    return reply, models
