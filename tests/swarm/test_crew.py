"""Fits of one process done together: foreseen as they are then asked for, with equal results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl.agenda import Step
from p2pftl.events import Event, Fitted, Scored
from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.learning.classification import Classification
from p2pftl.learning.task import Coming, Learnt, Memory, Scene
from p2pftl.params import Vector
from p2pftl.scenario.load import load
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.swarm.checkpoint import Vault
from p2pftl.swarm.conductor import Conductor
from p2pftl.swarm.local import LocalSwarm
from p2pftl.twin import Twin
from tests.runs import written
from tests.toys import Pull, play, storm

TWINS = 40


@dataclass(frozen=True)
class Foretold(Pull):
    """Tells, as its loss, how many fits were foreseen together with this one; refuses any other than was foreseen."""

    together: bool = True
    ahead: dict[int, tuple[Coming, int]] = field(default_factory=dict, compare=False)

    def fit_together(self, coming: Iterable[Coming]) -> set[str]:
        fits = list(coming)
        for one in fits:
            assert isinstance(one.task, Foretold)
            one.task.ahead[one.round] = one, len(fits)
        return {one.task.name for one in fits if isinstance(one.task, Foretold)}

    def fit(self, vector: Vector, round: int, scene: Scene, memory: Memory | None) -> Learnt:
        one, beside = self.ahead.pop(round)
        assert one.scene == scene
        assert one.vector.tobytes() == vector.tobytes()
        return Learnt(super().fit(vector, round, scene, memory).vector, beside, self.samples, 1, 1.0)


@pytest.mark.parametrize("pace", [Synchronous(4.0), Asynchronous()], ids=str)
def test_every_fit_is_foreseen_as_it_is_then_asked_for(pace: Any, tmp_path: Path) -> None:
    plain = play(storm(pace=pace), tmp_path)
    for shuffle in (None, 1, 2):
        found = play(storm(pace=pace, task=Foretold), tmp_path, shuffle=shuffle)
        assert {name: vector.tobytes() for name, vector in found.vectors.items()} == {
            name: vector.tobytes() for name, vector in plain.vectors.items()
        }
        assert max(one.loss for one in found.of(Fitted)) > 1


def planned(folder: Path, *, together: bool) -> Plan:
    """Heads on kept features, every twin with as many images."""
    draws = np.random.default_rng(1)
    labels = np.arange(TWINS * 10) % 2
    images = np.clip(draws.normal(90, 30, (len(labels), 32, 32)) + 40 * labels[:, None, None], 0, 255).astype(np.uint8)
    parts = {"train": slice(None), "test": slice(20)}
    arrays: dict[str, Any] = {
        f"{part}_{what}": values[rows] for part, rows in parts.items() for what, values in (("images", images), ("labels", labels))
    }
    np.savez(folder / "noise.npz", **arrays)
    heads: dict[str, Any] = {
        "name": "heads",
        "seed": 1,
        "rounds": 3,
        "topology": {"use": "ring", "twins": TWINS},
        "transfer": "head",
        "data": {"use": "npz", "path": str(folder / "noise.npz"), "size": 32, "split": "iid", "validation": 1e-6},
        "fit": {"batch": 8, "lr": 0.05, "epochs": 2},
        "compute": {"together": together},
    }
    return compile_plan(load(written(folder, heads), []))


def started(plan: Plan, folder: Path) -> tuple[LocalSwarm, list[Step]]:
    swarm = LocalSwarm()
    return swarm, swarm.start(plan.recruiter(None), [plan.topology.names], Vault(folder / "state"))


def ran(plan: Plan, folder: Path) -> tuple[list[Event], list[Vector]]:
    swarm, first = started(plan, folder)
    events = list(Conductor(plan.world, swarm, first))
    return events, [swarm.vector(name) for name in plan.topology.names]


@pytest.mark.parametrize("together", [True, False])
def test_the_first_of_many_fits_its_head_together_with_those_who_wait_if_that_is_asked_for(together: bool, tmp_path: Path) -> None:
    plan = planned(tmp_path, together=together)
    swarm, _ = started(plan, tmp_path)
    for name in plan.topology.names:
        swarm.advance(name, 1e-3)
    swarm.completed()
    tasks = [member.task for member in swarm.crew.members.values() if isinstance(member, Twin)]
    assert sum(bool(task._ahead) for task in tasks if isinstance(task, Classification)) == (TWINS - 1 if together else 0)


def test_a_run_of_heads_fitted_together_equals_the_ordinary_one(tmp_path: Path) -> None:
    plain, alone = ran(planned(tmp_path, together=False), tmp_path)
    joint, beside = ran(planned(tmp_path, together=True), tmp_path)
    assert [(event.t, event.twin, type(event)) for event in joint] == [(event.t, event.twin, type(event)) for event in plain]
    scores = [[event.metrics["accuracy"] for event in events if isinstance(event, Scored)] for events in (joint, plain)]
    assert scores[0] == scores[1]
    assert not np.array_equal(alone[0], alone[1])
    for one, other in zip(beside, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
