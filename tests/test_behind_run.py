"""Knowledge policies with entries of their own behind the model's, in a run of twins: ProxyFL and prototypes."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from p2pftl import events as facts
from p2pftl.agenda import Parcel
from p2pftl.errors import ScenarioError
from p2pftl.gossip.frames import unseal
from p2pftl.gossip.keep import Adopt
from p2pftl.gossip.partners import All, Nobody, OnePeerExponential
from p2pftl.learning.discriminant import DiscriminantLearning
from p2pftl.learning.knowledge import Discriminant, Prototypes, Proxy, extended
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.prototypes import PrototypeLearning
from p2pftl.learning.proxy import ProxyLearning
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import Full, Head, Transfer
from p2pftl.scenario.load import load
from p2pftl.world.incidents import Crash
from p2pftl.world.topologies import Complete
from tests.history import check_history
from tests.runs import Ran, finished, here, written
from tests.test_knowledge_run import MATE, MODEL, NAMES, Teach
from tests.toys import Toy, Wire, conduct, play, toy

prepare_torch()
FIRST = Model(ModelSpec(), 2, 5).take()
EIGHT = tuple(f"ct-0{number}" for number in range(1, 9))
PROXYFL: dict[str, Any] = {"partners": OnePeerExponential(), "aggregator": Adopt()}


@dataclass(frozen=True)
class Extended(Teach):
    """The same for a policy that keeps entries behind the model's."""

    def __call__(self, name: str, seed: int, rate: float) -> Any:
        task, policy = replace(super().__call__(name, seed, rate), knowledge=None), self.knowledge
        layout = extended(MODEL.layout, ModelSpec(), policy)
        if isinstance(policy, Proxy):
            return ProxyLearning(task, policy, layout, MATE, FIRST)
        if isinstance(policy, Discriminant):
            return DiscriminantLearning(task, policy, layout)
        assert isinstance(policy, Prototypes)
        return PrototypeLearning(task, policy, layout)


def behind(knowledge: Any, transfer: Transfer = Full(), names: tuple[str, ...] = NAMES, **more: Any) -> Toy:  # noqa: B008
    chosen = {"rounds": 3, "partners": All()} | more
    return toy(Complete(names=names).build(1), task=Extended(knowledge, transfer), knowledge=knowledge, **chosen)


EXTENSIONS: dict[str, Any] = {
    "proxy": (Proxy(), PROXYFL), "prototypes": (Prototypes(), {}),
    "beside": (Prototypes(weight=5, beside=True), {}), "discriminant": (Discriminant(least=1), {}),
}  # fmt: skip


@pytest.mark.parametrize("what", EXTENSIONS)
def test_a_run_with_entries_behind_the_model_is_the_same_whatever_the_order(what: str, tmp_path: Path) -> None:
    knowledge, policies = EXTENSIONS[what]
    run = behind(knowledge, **policies, incidents=[Crash("ct-02", 2.5, 0.5)])
    one, other = play(run, tmp_path / "a", shuffle=1), play(run, tmp_path / "b", shuffle=2)
    assert one.digest == other.digest
    check_history(one, run)
    alone = play(behind(knowledge, **policies | {"partners": Nobody()}), tmp_path / "c")
    size = MODEL.layout.size
    assert all((one.vectors[name][:size] != alone.vectors[name][:size]).any() for name in NAMES)


def wired(run: Toy, folder: Path) -> list[Parcel]:
    swarm = Wire()
    conduct(run, swarm, folder)
    return swarm.frames


@pytest.mark.parametrize("transfer", [Full(), Head()], ids=repr)
def test_no_frame_holds_any_entry_of_a_private_model(transfer: Transfer, tmp_path: Path) -> None:
    run = behind(Proxy(), transfer, **PROXYFL)
    layout = extended(MODEL.layout, ModelSpec(), Proxy())
    frames = wired(run, tmp_path)
    assert len(frames) == 4 * 3
    for frame in frames:
        assert frame.payload is not None
        header = unseal(frame.head, frame.payload.data, run.terms.expectation(frame.receiver, layout))
        assert header.ranges[0][0] >= MODEL.layout.size
        assert frame.payload.nbytes == 4 * sum(stop - start for start, stop in header.ranges)


def test_the_values_on_the_wire_are_the_proxys_and_not_the_private_ones(tmp_path: Path) -> None:
    """The first frames, against the fit that made them."""
    run = behind(Proxy(), **PROXYFL)
    for frame in wired(run, tmp_path)[:4]:
        assert frame.payload is not None
        task = Extended(Proxy())(frame.sender, 1, 0.0)
        vector = task.fit(task.initial(), 0, Scene(), None).vector
        size = MODEL.layout.size
        assert frame.payload.tobytes() == vector[size:].tobytes()
        private = MODEL.layout.tensors(vector[:size])
        assert not any(tensor.tobytes() in frame.payload.tobytes() for name, tensor in private.items() if name.endswith("weight"))


def test_proxies_form_a_permutation_each_round_and_one_visits_m_twins_in_m_rounds(tmp_path: Path) -> None:
    run = behind(Proxy(), names=EIGHT, rounds=4, **PROXYFL)
    outcome = play(run, tmp_path)
    at = {name: [name] for name in EIGHT}  # where the proxy that began there is, round by round
    for round in range(4):
        merged = {event.twin: event.weights for event in outcome.of(facts.Merged) if event.round == round}
        assert all(list(weights.values()) == [1.0] for weights in merged.values())
        came = {next(iter(weights)): twin for twin, weights in merged.items()}
        assert sorted(came) == sorted(came.values()) == list(EIGHT)
        assert all((EIGHT.index(there) - EIGHT.index(here_)) % 8 == 2 ** (round % 3) for here_, there in came.items())
        for visited in at.values():
            visited.append(came[visited[-1]])
    assert all(len(set(visited[first : first + 4])) == 4 for visited in at.values() for first in (0, 1))


def test_a_twin_holds_the_proxy_of_its_sender_after_a_round_and_its_own_private_model(tmp_path: Path) -> None:
    outcome = play(behind(Proxy(), rounds=1, **PROXYFL), tmp_path)
    size = MODEL.layout.size
    fitted = {}
    for name in NAMES:
        task = Extended(Proxy())(name, 1, 0.0)
        fitted[name] = task.fit(task.initial(), 0, Scene(), None).vector
    for number, name in enumerate(NAMES):
        assert outcome.vectors[name][:size].tobytes() == fitted[name][:size].tobytes()
        assert outcome.vectors[name][size:].tobytes() == fitted[NAMES[number - 1]][size:].tobytes()


def test_prototypes_alone_leave_models_private_and_messages_small(tmp_path: Path) -> None:
    run = behind(Prototypes(), rounds=2)
    frames = wired(run, tmp_path)
    assert {frame.payload.nbytes for frame in frames if frame.payload is not None} == {4 * (2 * 192 + 2)}


def test_after_the_last_merge_all_hold_the_count_weighted_prototypes_of_everybody(tmp_path: Path) -> None:
    outcome = play(behind(Prototypes(least=1), rounds=1), tmp_path)
    size = MODEL.layout.size
    told = []
    for name in NAMES:
        task = Extended(Prototypes(least=1))(name, 1, 0.0)
        told.append(task.fit(task.initial(), 0, Scene(), None).vector[size:].astype(np.float64))
    for name in NAMES:
        held = outcome.vectors[name][size:]
        assert np.allclose(held[:-2].reshape(2, -1) / held[-2:, None], sum(told)[:-2].reshape(2, -1) / sum(told)[-2:, None], rtol=1e-4)


def test_on_a_complete_graph_moments_are_soon_those_of_all_images(tmp_path: Path) -> None:
    """Four twins with equal weights hold a quarter of everybody's sum after each merge, whatever they hold themselves."""
    policy = Discriminant(least=1)
    outcome = play(behind(policy, rounds=1), tmp_path)
    size = MODEL.layout.size
    tasks = [Extended(policy)(name, 1, 0.0) for name in NAMES]
    own = [task.fit(task.initial(), 0, Scene(), None).vector[size:].astype(np.float64) for task in tasks]
    for name in NAMES:
        assert np.allclose(outcome.vectors[name][size:], sum(own) / 4, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------- through the program

TINY: dict[str, Any] = {
    "name": "behind",
    "seed": 5,
    "rounds": 2,
    "topology": {"use": "complete", "twins": 4},
    "data": {"use": "phantom", "patients": 16, "slices": 1},
    "fit": {"steps": 2, "batch": 4, "lr": 0.05},
}
WAYS: dict[str, dict[str, Any]] = {
    "proxy": {"knowledge": "proxy", "partners": "one_peer_exponential", "aggregator": "adopt"},
    "prototypes": {"knowledge": "prototypes"},
    "beside": {"knowledge": {"use": "prototypes", "beside": True}, "codec": "half"},
    "discriminant": {"knowledge": "discriminant"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> dict[str, Ran]:
    place = tmp_path_factory.mktemp("behind")
    data = {**TINY["data"], "cache": str(phantoms)}
    return {
        way: here(written(place / way, TINY, data=data, control=way == "proxy", **changes), out=place / way / "out")
        for way, changes in WAYS.items()
    }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_runs_to_its_end_and_sends_as_much_as_planned(way: str, runs: dict[str, Ran]) -> None:
    ran = runs[way]
    assert ran.code == 0, ran.out + ran.err
    plan = ran.of(facts.RunPlanned)[0].facts
    assert plan["policies"]["knowledge"] == {"beside": "prototypes"}.get(way, way)
    assert plan["model"]["parameters"] == MODEL.layout.size
    assert plan["model"]["behind"] > 0
    assert f"({MODEL.layout.size:,} parameters)" in ran.page
    assert ran.summary["bytes_sent"] == pytest.approx(plan["predicted"]["bytes"], rel=0.02)
    assert ran.summary["virtual_seconds"] == pytest.approx(plan["predicted"]["virtual_seconds"], rel=0.1)
    assert all(twin["rounds"] == 2 for twin in ran.summary["twins"].values())


def test_model_files_are_of_private_models_and_proxies_have_a_folder(runs: dict[str, Ran]) -> None:
    models = runs["proxy"].folder / "models"
    assert {path.name for path in models.iterdir()} == {
        "ct-01.safetensors",
        "ct-02.safetensors",
        "ct-03.safetensors",
        "ct-04.safetensors",
        "proxy",
    }
    private, proxy = (load_file(folder / "ct-01.safetensors") for folder in (models, models / "proxy"))
    assert set(private) == set(proxy) == set(MODEL.layout.names)
    assert (private["head.weight"] != proxy["head.weight"]).any()
    for way in ("prototypes", "beside", "discriminant"):
        assert set(load_file(runs[way].folder / "models" / "ct-01.safetensors")) == set(MODEL.layout.names)
    assert runs["prototypes"].summary["consensus_distance"] is None
    assert runs["beside"].summary["consensus_distance"] is not None


def test_a_run_that_starts_from_the_file_of_a_twin_starts_from_the_head_that_was_scored(
    runs: dict[str, Ran], tmp_path: Path, phantoms: Path
) -> None:
    file = runs["discriminant"].folder / "models" / "ct-02.safetensors"
    still: dict[str, Any] = {"rounds": 1, "partners": "none", "transfer": "fixbn", "fit": {"steps": 1, "batch": 4, "lr": 1e-12}}
    data, model = {**TINY["data"], "cache": str(phantoms)}, {"weights": str(file), "head": True}
    again = here(written(tmp_path, TINY, data=data, model=model, **still), out=tmp_path / "out")
    scored, first = (ran.summary["twins"]["ct-02"]["test"] for ran in (runs["discriminant"], again))
    assert first["accuracy"] == scored["accuracy"]
    assert first["auroc"] == pytest.approx(scored["auroc"])
    assert first["loss"] == pytest.approx(scored["loss"], rel=1e-4)


def test_without_exchange_there_is_no_proxy_and_no_prototype(runs: dict[str, Ran], tmp_path: Path, phantoms: Path) -> None:
    plain = here(written(tmp_path, TINY, data={**TINY["data"], "cache": str(phantoms)}, partners="none"), out=tmp_path / "out")
    assert runs["proxy"].summary["control"]["mean"] == plain.summary["mean"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of our own, short because Ray's sockets lie below it."""
    folder = Path(f"/tmp/b{os.getpid()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.ray
@pytest.mark.parametrize("way", ["proxy"])
def test_ray_gives_the_same_digest(way: str, runs: dict[str, Ran], tmp_path: Path, phantoms: Path, temporary: Path) -> None:
    data = {**TINY["data"], "cache": str(phantoms)}
    ran = finished(written(tmp_path, TINY, data=data, **WAYS[way]), "--workers", "2", "--quiet", out=tmp_path / "out", temporary=temporary)
    assert ran.code == 0
    assert ran.digest == runs[way].digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"knowledge": "proxy", "cloud": {"use": "fedavg"}}, "use cloud: null"),
        ({"knowledge": "prototypes", "codec": "top_k"}, "travel whole"),
        ({"knowledge": "discriminant", "codec": "half"}, "rounds it"),
        ({"knowledge": "discriminant", "cloud": {"use": "fedavg"}}, "use cloud: null"),
        ({"knowledge": "prototypes", "aggregator": "keep_own"}, "must be merged"),
        ({"knowledge": "proxy", "gate": {"use": "watch"}}, "stays private"),
        ({"knowledge": {"use": "proxy", "backbone": "resnet18"}, "transfer": "head"}, "as a whole"),
        ({"knowledge": "prototypes", "transfer": "head"}, "as they came"),
    ],
)
def test_what_does_not_go_with_entries_behind_the_model_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=re.escape(says)) as refused:
        load(written(tmp_path, TINY, **changes))
    assert refused.value.code == "E128"
