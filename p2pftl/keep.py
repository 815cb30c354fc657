"""What is kept of a run's models: a file per twin, and how far the twins are from one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from p2pftl.learning.knowledge import BEHIND, DISCRIMINANT, PROTOTYPES, PROXY, Discriminant, of_model
from p2pftl.learning.moments import headed
from p2pftl.params import Ranges, Vector, gather
from p2pftl.scenario.plan import Plan

PROXIES = "proxy"


def keep_models(plan: Plan, living: Iterable[str], vector: Callable[[str], Vector], folder: Path) -> float | None:
    """Write the `living` twins' models as safetensors, as the scenario's `models` says, one at a time; proxies to a folder of theirs.

    Returns the consensus distance (1/n) sum_i |x_i - mean|^2 of the shared elements, None without any twin or any of a network.
    """
    names = _wanted(plan)
    last = plan.transfer.plan(plan.scenario.rounds - 1, plan.layout)
    distance = _Distance(plan.layout.ranges(name for name in last.shared if not name.startswith((PROTOTYPES, DISCRIMINANT))))
    for name in living:
        found = vector(name)
        distance.add(found)
        if names:
            found = _headed(plan, found)
            tensors = {entry: tensor for entry, tensor in plan.layout.tensors(found).items() if entry in names}
            _write({entry: tensor for entry, tensor in tensors.items() if not entry.startswith(BEHIND)}, folder / f"{name}.safetensors")
            proxy = {entry.removeprefix(PROXY): tensor for entry, tensor in tensors.items() if entry.startswith(PROXY)}
            if proxy:
                _write(proxy, folder / PROXIES / f"{name}.safetensors")
    return distance.value


def _headed(plan: Plan, vector: Vector) -> Vector:
    """`vector` with the head that its twin is scored with."""
    policy = plan.terms.knowledge
    if not isinstance(policy, Discriminant):
        return vector
    size = (layout := of_model(plan.layout)).size
    return np.concatenate((headed(vector[:size], vector[size:], layout, policy.shrink), vector[size:]))


def _wanted(plan: Plan) -> frozenset[str]:
    if plan.scenario.models == "none":
        return frozenset()
    if plan.scenario.models == "all":
        return frozenset(plan.layout.names)
    lessons = [plan.transfer.plan(round, plan.layout) for round in range(plan.scenario.rounds)]
    trained = (phase.trained for lesson in lessons for phase in lesson.phases)
    return frozenset().union(*trained, *(lesson.shared for lesson in lessons))


def _write(tensors: dict[str, Vector], file: Path) -> None:
    from safetensors.numpy import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


class _Distance:
    """Consensus distance in one pass: sums of differences from the first twin, which is near the mean."""

    def __init__(self, shared: Ranges) -> None:
        self.shared = shared
        self.first = self.total = np.zeros(0)
        self.squares, self.count = 0.0, 0

    def add(self, vector: Vector) -> None:
        part = gather(vector, self.shared).astype(np.float64)
        if not self.count:
            self.first, self.total = part, np.zeros_like(part)
        part = part - self.first
        self.total += part
        self.squares += float(part @ part)
        self.count += 1

    @property
    def value(self) -> float | None:
        if not self.count or not self.shared:
            return None
        return max(0.0, (self.squares - float(self.total @ self.total) / self.count) / self.count)
