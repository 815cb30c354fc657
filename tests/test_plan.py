"""What a plan promises before anything trains, and whether the run then keeps it; what scanners and membership do to a run."""

from __future__ import annotations

import pickle
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from p2pftl import events as facts
from p2pftl.cli import app
from p2pftl.errors import DataError, ScenarioError
from p2pftl.imaging.cohort import Catalogue, Source
from p2pftl.imaging.images import Images
from p2pftl.imaging.phantom import Phantom
from p2pftl.imaging.scanner import Scanner
from p2pftl.scenario.devices import troubles
from p2pftl.scenario.load import load
from p2pftl.scenario.networks import read_topology
from p2pftl.scenario.packing import neighbourly, packing
from p2pftl.scenario.plan import Plan, compile_plan
from p2pftl.scenario.recruit import about
from p2pftl.scenario.schema import DeviceSection, Scenario
from p2pftl.world.device_incidents import HuDrift
from p2pftl.world.incidents import DeviceFault
from p2pftl.world.topologies import Complete, Ring
from p2pftl.world.topology import CLOUD
from tests.runs import Ran, here, written

CALM: dict[str, Any] = {
    "name": "calm",
    "seed": 5,
    "rounds": 4,
    "topology": {"use": "ring", "twins": 4},
    "links": {"latency": 0.1, "bandwidth": 2e6},
    "data": {"use": "phantom", "patients": 24, "slices": 1},
    "fit": {"steps": 1, "batch": 4, "lr": 0.05, "seconds_per_sample": 0.02},
}


@pytest.fixture
def base(phantoms: Path) -> dict[str, Any]:
    return {**CALM, "data": {**CALM["data"], "cache": str(phantoms)}}


def planned(folder: Path, base: dict[str, Any], **changes: Any) -> Plan:
    return compile_plan(load(written(folder, base, **changes), []))


# ---------------------------------------------------------------------- facts and predictions


def test_a_plan_tells_the_graph_the_data_and_draws_no_patient(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plan = planned(tmp_path, {**CALM, "data": {**CALM["data"], "cache": str(cache)}})
    told = plan.facts()
    assert not cache.exists()
    assert told["topology"]["kind"] == "ring"
    assert (told["topology"]["twins"], told["topology"]["edges"], told["topology"]["diameter"]) == (4, 4, 2)
    assert told["topology"]["spectral_gap"] == pytest.approx(2 / 3)  # Metropolis on C4: eigenvalues 1, 1/3, 1/3, -1/3
    assert told["data"]["patients"] == 24
    assert sum(twin["patients"] for twin in told["twins"].values()) + told["data"]["test"] == 24
    assert told["twins"]["ct-01"]["neighbours"] == ["ct-02", "ct-04"]


def test_nobody_s_patient_is_on_two_sides(tmp_path: Path, base: dict[str, Any]) -> None:
    data = {**base["data"], "slices": 3, "split": {"use": "dirichlet", "alpha": 0.5}}
    plan = planned(tmp_path, base, data=data)
    parts = [
        {sample.patient for sample in part}
        for shard in plan.shards.values() for part in (shard.train, shard.validation)
    ]  # fmt: skip
    test = {sample.patient for sample in plan.shards["ct-01"].test}
    assert sum(map(len, parts)) + len(test) == len(set().union(*parts) | test) == 24
    assert all(shard.test == plan.shards["ct-01"].test for shard in plan.shards.values())


PREDICTED: dict[str, dict[str, Any]] = {
    "all neighbours": {},
    "half as many bytes": {"codec": "half"},
    "the head only": {"transfer": "head"},
    "random partners": {"partners": {"use": "random", "k": 1}},
    "one peer": {"topology": {"use": "complete", "twins": 4}, "partners": "one_peer_exponential"},
    "epidemic": {"topology": {"use": "complete", "twins": 4}, "partners": {"use": "epidemic", "s": 1}},
    "a cloud": {"cloud": {"use": "fedavg", "every": 2, "wait": 30}},
    "asynchronous": {"pace": "asynchronous", "aggregator": "age_weighted"},
    "scanners of two speeds": {"twins": {"ct-02": {"speed": 0.5}}},
}


@pytest.mark.parametrize("case", PREDICTED)
def test_a_calm_run_costs_what_the_plan_predicts(case: str, tmp_path: Path, base: dict[str, Any]) -> None:
    file = written(tmp_path, base, **PREDICTED[case])
    predicted = compile_plan(load(file, [])).facts()["predicted"]
    ran = here(file, out=tmp_path / "out")
    assert ran.code == 0
    found = ran.summary
    assert found["frames"]["lost"] == 0
    assert found["frames"]["sent"] == predicted["frames"]
    assert found["bytes_sent"] == pytest.approx(predicted["bytes"], rel=0.005)
    assert found["virtual_seconds"] == pytest.approx(predicted["virtual_seconds"], rel=0.1)


def test_without_exchange_nothing_is_sent_or_predicted(tmp_path: Path, base: dict[str, Any]) -> None:
    alone = planned(tmp_path, base, cloud={"use": "fedavg"}).without_exchange()
    told = alone.facts()
    assert told["exchange"] is False
    assert (told["cloud"], told["predicted"]["frames"], told["predicted"]["bytes"]) == (None, 0, 0)
    assert CLOUD not in alone.names


@pytest.mark.parametrize(("wait", "noted"), [(30, True), (31, False)])
def test_a_cloud_that_may_answer_when_everybody_has_gone_on_is_noted(tmp_path: Path, base: dict[str, Any], wait: int, noted: bool) -> None:
    plan = planned(tmp_path, base, cloud={"use": "fedavg", "wait": wait, "deadline": 30})
    assert any(note.startswith("cloud.deadline 30 s is not below") for note in plan.facts()["topology"]["notes"]) == noted


def test_incidents_after_the_end_are_noted(tmp_path: Path, base: dict[str, Any]) -> None:
    plan = planned(tmp_path, base, incidents=[{"kind": "outage", "twin": "ct-01", "at": 1e6}])
    assert [note for note in plan.facts()["topology"]["notes"] if note.startswith("E119 outage at 1e+06 s may never happen")]


def test_the_plan_command_shows_it_all(tmp_path: Path, base: dict[str, Any]) -> None:
    incidents = [{"kind": "outage", "twin": "ct-03", "at": 1, "until": 2}]
    shown = CliRunner().invoke(app, ["plan", str(written(tmp_path, base, incidents=incidents))])
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    for said in (
        "ring: 4 twins, 4 edges, diameter 2",
        "spectral gap 0.667",
        "4 rounds",
        "ct-03 is off from 1 s to 2 s",
        "normal / ggo",
        "seed 5",
    ):
        assert said in text


@dataclass(frozen=True)
class GreyPhantom(Phantom):
    """A source from elsewhere whose pixels are no Hounsfield units."""

    def catalogue(self, scanners: Any, seed: int) -> Catalogue:
        return replace(super().catalogue(scanners, seed), unit="grey")


@dataclass(frozen=True)
class StoredPhantom(Phantom):
    """A source that knows images only as they were acquired."""

    anatomy = Source.anatomy  # type: ignore[assignment]


OF_IMAGES = [{"kind": "hu_drift", "rate": 1.0}, {"kind": "dose_change", "factor": 0.5}, {"kind": "ring", "hu": 3.0}]
ANEW = [{"kind": "dose_change", "factor": 2.0}, {"kind": "kvp_change", "kvp": 80.0}, {"kind": "software_upgrade", "kernel": "bone"}]


def from_another(scenario: Scenario, source: type[Phantom]) -> Scenario:
    return replace(scenario, data=replace(scenario.data, source=source()))


@pytest.mark.parametrize("kind", OF_IMAGES, ids=lambda kind: str(kind["kind"]))
def test_incidents_of_images_are_refused_where_there_are_no_hounsfield_units(
    kind: dict[str, Any], tmp_path: Path, base: dict[str, Any]
) -> None:
    scenario = load(written(tmp_path, base, device={}, incidents=[{"twin": "ct-01", "at": 1.0, **kind}]), [])
    compile_plan(scenario)
    compile_plan(from_another(scenario, StoredPhantom))
    with pytest.raises(DataError, match=kind["kind"]) as refused:
        compile_plan(from_another(scenario, GreyPhantom))
    assert (refused.value.code, refused.value.where) == ("E336", "incidents[0]")


@pytest.mark.parametrize("kind", ANEW, ids=lambda kind: str(kind["kind"]))
def test_images_that_are_acquired_already_cannot_be_given_what_is_not_in_them(
    kind: dict[str, Any], tmp_path: Path, base: dict[str, Any]
) -> None:
    scenario = load(written(tmp_path, base, device={}, arrivals={}, incidents=[{"twin": "ct-01", "day": 1.0, **kind}]), [])
    compile_plan(scenario)
    compile_plan(from_another(replace(scenario, arrivals=None), StoredPhantom))
    with pytest.raises(ScenarioError, match="E128") as refused:
        compile_plan(from_another(scenario, StoredPhantom))
    assert refused.value.where == "incidents[0]"


def test_another_mix_of_cases_names_classes_that_there_are(tmp_path: Path, base: dict[str, Any]) -> None:
    mix = {"kind": "case_mix_shift", "twin": "ct-01", "at": 1.0}
    planned(tmp_path, base, device={}, arrivals={}, incidents=[{**mix, "labels": {"ggo": 0.5, "0": 0.5}}])
    for wrong in ("tumour", "2"):
        with pytest.raises(ScenarioError, match=r"E118 .*there is no class"):
            planned(tmp_path, base, device={}, arrivals={}, incidents=[{**mix, "labels": {wrong: 0.5}}])


def test_a_dose_that_no_scanner_has_is_refused_before_anything_runs(tmp_path: Path, base: dict[str, Any]) -> None:
    more = [{"kind": "dose_change", "twin": "ct-01", "day": day, "factor": 10.0, "qa": True} for day in (1, 2, 3)]
    planned(tmp_path, base, device={}, incidents=more[:2])
    with pytest.raises(ScenarioError, match=r"E118 incidents\[2\]"):
        planned(tmp_path, base, device={}, incidents=more)


def test_a_plan_tells_of_the_devices_and_of_what_no_image_will_show(tmp_path: Path, base: dict[str, Any]) -> None:
    drift = {"kind": "hu_drift", "twin": "ct-02", "day": 1}
    plan = planned(tmp_path, base, device={"day_s": 0.2}, twins={"ct-02": {"kernel": "bone"}}, incidents=[drift])
    told = plan.facts()
    device = told["twins"]["ct-02"]["device"]
    assert (device["day_s"], device["history"], device["protocol"]["kernel"], device["protocol"]["mas"]) == (0.2, 25, "bone", 100.0)
    assert told["incidents"][0]["at"] == 0.2
    assert [note for note in told["topology"]["notes"] if note.startswith("no image shows the hu_drift of ct-02")]
    assert planned(tmp_path, base).facts()["twins"]["ct-02"]["device"] is None
    plan = planned(tmp_path, base, device={"day_s": 0.2}, arrivals={}, incidents=[drift])
    assert not [note for note in plan.facts()["topology"]["notes"] if "image" in note]


@pytest.mark.parametrize("day_s", [0.1, 0.3, 7.7, 3600.0, 86_400.0 / 7])
def test_a_device_day_is_the_same_day_after_it_was_seconds(day_s: float) -> None:
    section = DeviceSection(day_s=day_s, history=25)
    for day in (0, 1, 3, 29, 30, 365):
        (fault,) = HuDrift("ct-01", day=day, until_day=day + 7).on(day_s).effects()
        assert isinstance(fault, DeviceFault)
        (trouble,) = troubles([fault], section)
        assert (trouble.day, trouble.until) == (day + 25, day + 32)


# ---------------------------------------------------------------------- who shares a process


@given(twins=st.integers(2, 40), cores=st.integers(1, 8), packing=st.one_of(st.just("auto"), st.integers(1, 50)), data=st.data())
def test_everybody_has_one_process_and_who_may_crash_has_it_alone(twins: int, cores: int, packing: Any, data: st.DataObject) -> None:
    crashing = data.draw(st.sets(st.integers(1, twins), max_size=3))
    plan = object.__new__(Plan)
    values = {
        "scenario": Packed(packing),
        "topology": Complete(twins=twins).build(1),
        "world": Crashing(crashing),
        "terms": Cloudy(),
        "scanners": defaultdict(Scanner),
    }
    for key, value in values.items():
        object.__setattr__(plan, key, value)
    crews = plan.packing(cores).crews
    assert sorted(name for crew in crews for name in crew) == sorted([*plan.topology.names, CLOUD])
    assert all(len(crew) == 1 for crew in crews if any(name == CLOUD or plan.world.crashes(name) for name in crew))
    assert packing == "auto" or max(map(len, crews)) <= packing


@given(twins=st.integers(3, 60), actors=st.integers(1, 6))
def test_neighbours_on_a_ring_share_a_process_as_far_as_it_goes(twins: int, actors: int) -> None:
    topology = Ring(twins=twins).build(1)
    crews = packing(dict.fromkeys(neighbourly(topology), 1.0), [], -(-twins // actors), 2).crews
    for crew in crews:
        leaving = [(name, peer) for name in crew for peer in topology.neighbours(name) if peer not in crew]
        assert len(leaving) <= 4


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=40), st.integers(2, 5))
def test_no_process_has_more_twins_than_another_or_all_the_fast_ones(speeds: list[float], each: int) -> None:
    crews = packing({f"ct-{place}": speed for place, speed in enumerate(speeds)}, [], each, 2).crews
    sizes = [len(crew) for crew in crews]
    assert max(sizes) - min(sizes) <= 1
    fastest = sorted(range(len(speeds)), key=lambda place: -speeds[place])[: len(crews)]
    homes = [next(at for at, crew in enumerate(crews) if f"ct-{place}" in crew) for place in fastest]
    assert len(set(speeds)) < len(speeds) or len(set(homes)) == len(homes)


@dataclass(frozen=True)
class Packed:
    twins_per_actor: Any


@dataclass(frozen=True)
class Crashing:
    numbers: set[int]

    def crashes(self, name: str) -> bool:
        return name != CLOUD and int(name[3:]) in self.numbers


@dataclass(frozen=True)
class Cloudy:
    cloud: bool = True


# ---------------------------------------------------------------------- what an actor gets


def test_a_recruiter_travels_without_what_belongs_to_a_process(tmp_path: Path, base: dict[str, Any]) -> None:
    recruiter = planned(tmp_path, base).prepared(lambda done, of: None).recruiter(None)
    twin = recruiter("ct-01")
    assert recruiter._kept
    travelled = pickle.loads(pickle.dumps(recruiter))
    assert travelled._kept == {}
    assert (travelled.shards, travelled.terms, travelled.layout) == (recruiter.shards, recruiter.terms, recruiter.layout)
    assert np.array_equal(travelled("ct-01").vector, twin.vector)
    assert len(pickle.dumps(recruiter)) < 50_000, "pixels stay where they are"


def test_a_twin_gets_its_device_and_its_studies_where_it_lives(tmp_path: Path, base: dict[str, Any]) -> None:
    step = {"kind": "hu_step", "twin": "ct-01", "day": 0, "hu": 50.0}
    plan = planned(tmp_path, base, device={"day_s": 1.0, "history": 3}, arrivals={"rate": 3600}, incidents=[step])
    recruiter = pickle.loads(pickle.dumps(plan.prepared(lambda done, of: None).recruiter(None)))
    struck, sound = recruiter("ct-01").mirror, recruiter("ct-02").mirror
    for mirror in (struck, sound):
        mirror.advance(2.5, 0)
        assert mirror.device.day == 6
    assert (struck.signs.quality, sound.signs.quality) == (0, 1)
    assert struck.archive.count == 0, "a scanner in quarantine scans nobody"
    assert sound.archive.count > 0
    assert planned(tmp_path, base).prepared(lambda done, of: None).recruiter(None)("ct-01").mirror is None  # type: ignore[attr-defined]


def test_an_opposed_twin_numbers_the_classes_of_the_same_images_backwards(tmp_path: Path, base: dict[str, Any]) -> None:
    plan = planned(tmp_path, base, data={**base["data"], "opposed": ["ct-02"]}).prepared(lambda done, of: None)
    plain = planned(tmp_path, base).prepared(lambda done, of: None)
    for name, flipped in (("ct-01", False), ("ct-02", True)):
        one, other = plan.recruiter(None)(name).task.cohorts, plain.recruiter(None)(name).task.cohorts  # type: ignore[attr-defined]
        for part in ("train", "validation", "test"):
            assert np.array_equal(one[part].pixels, other[part].pixels)
            assert np.array_equal(one[part].labels, 1 - other[part].labels if flipped else other[part].labels)
        told, before = (found.facts()["twins"][name]["labels"] for found in (plan, plain))
        assert list(told.values()) == list(before.values())[:: -1 if flipped else 1]
    assert not plan.terms.answers
    assert plain.terms.answers
    assert not plan.pooled().opposed


def test_what_a_twin_tells_of_its_studies_names_no_patient(tmp_path: Path, base: dict[str, Any]) -> None:
    plan = planned(tmp_path, base)
    shard = plan.shards["ct-01"]
    told = repr(about(shard, plan.scanners["ct-01"], 2, simulated=True))
    assert not any(sample.patient in told or sample.file in told for sample in shard.train)


@pytest.mark.parametrize(
    ("source", "asked", "shown"),
    [("phantom", None, True), ("phantom", False, False), ("phantom", True, True), ("images", None, False), ("images", True, True)],
)
def test_pictures_of_real_studies_need_to_be_asked_for(
    source: str, asked: bool | None, shown: bool, tmp_path: Path, base: dict[str, Any]
) -> None:
    plan = planned(tmp_path, base)
    scenario = replace(plan.scenario, previews=asked)
    if source == "images":
        scenario = replace(scenario, data=replace(scenario.data, source=Images(path="x")))
    plan = replace(plan, scenario=scenario, catalogue=replace(plan.catalogue, synthetic=source == "phantom"))
    assert (plan.recruiter(tmp_path).previews is not None) is shown


# ---------------------------------------------------------------------- topology files


def test_a_topology_is_read_from_a_scenario_a_file_of_its_own_and_a_drawing(tmp_path: Path, base: dict[str, Any]) -> None:
    whole, link = read_topology(written(tmp_path, base), None)
    assert (whole.kind, len(whole.names), link.latency) == ("ring", 4, 0.1)
    alone = tmp_path / "alone.yaml"
    alone.write_text("use: star\ntwins: 5\n")
    assert read_topology(alone, None)[0].kind == "star"
    import networkx as nx

    drawn = tmp_path / "drawn.graphml"
    nx.write_graphml(nx.path_graph(3), drawn)
    assert len(read_topology(drawn, None)[0].names) == 3


# ---------------------------------------------------------------------- scanners that change, twins that come and go


def losses(ran: Ran, twin: str) -> dict[float, float]:
    return {event.t: event.loss for event in ran.of(facts.Fitted, twin)}


@pytest.mark.parametrize(
    "incident", [{"kind": "hu_step", "hu": 300.0}, {"kind": "dose_change", "factor": 0.01}], ids=["hu_step", "dose_change"]
)
def test_a_scanner_that_changes_brings_other_pictures_from_then_on(incident: dict[str, Any], tmp_path: Path, base: dict[str, Any]) -> None:
    changes = {"partners": "none", "rounds": 6, "device": {"history": 0}, "arrivals": {"rate": 360_000, "start": 0.5}}
    calm = here(written(tmp_path, base, **changes), out=tmp_path / "calm")
    changed = [{**incident, "twin": "ct-01", "at": 0.3}]
    odd = here(written(tmp_path, base, **changes, incidents=changed), out=tmp_path / "odd")
    before, after = losses(calm, "ct-01"), losses(odd, "ct-01")
    starts = {event.round: event.t for event in calm.of(facts.FitStarted, "ct-01")}
    rounds = {event.t: event.round for event in calm.of(facts.Fitted, "ct-01")}
    assert before.keys() == after.keys()
    untouched = [t for t in before if starts[rounds[t]] <= 0.3]
    touched = [t for t in before if starts[rounds[t]] > 0.3]
    assert untouched
    assert touched
    assert all(before[t] == after[t] for t in untouched)
    assert all(before[t] != after[t] for t in touched)
    assert losses(calm, "ct-02") == losses(odd, "ct-02"), "nobody else is touched"


def test_without_arrivals_what_becomes_of_a_scanner_touches_no_picture(tmp_path: Path, base: dict[str, Any]) -> None:
    changes = {"partners": "none", "rounds": 3, "device": {"day_s": 0.05, "quarantine": False, "adapt": 0}}
    plain = here(written(tmp_path, base, partners="none", rounds=3), out=tmp_path / "plain")
    step = [{"kind": "hu_step", "twin": "ct-01", "at": 0.01, "hu": 300.0}]
    struck = here(written(tmp_path, base, **changes, incidents=step), out=tmp_path / "struck")
    assert losses(plain, "ct-01") == losses(struck, "ct-01")
    assert plain.models == struck.models


def test_who_joins_late_does_nothing_before_and_who_leaves_nothing_after(tmp_path: Path, base: dict[str, Any]) -> None:
    incidents = [{"kind": "join", "twin": "ct-02", "at": 0.5}, {"kind": "leave", "twin": "ct-03", "at": 0.7}]
    ran = here(written(tmp_path, base, rounds=6, incidents=incidents), out=tmp_path / "out")
    assert ran.code == 0
    acts = (facts.FitStarted, facts.Fitted, facts.FrameSent, facts.FrameHeard, facts.Merged, facts.RoundDone)
    times = {name: [event.t for event in ran.events() if isinstance(event, acts) and event.twin == name] for name in ("ct-02", "ct-03")}
    assert min(times["ct-02"]) >= 0.5
    assert max(times["ct-03"]) < 0.7
    twins = ran.summary["twins"]
    assert (twins["ct-03"]["state"], twins["ct-01"]["state"]) == ("left", "done")
    assert twins["ct-03"]["rounds"] < 6
    assert twins["ct-01"]["rounds"] == twins["ct-04"]["rounds"] == 6
    assert "ct-02" in {event.sender for event in ran.of(facts.FrameHeard, "ct-01")}, "the latecomer is heard"


def test_nothing_crosses_a_partition_and_the_parts_meet_again(tmp_path: Path, base: dict[str, Any]) -> None:
    cut = (0.35, 1.4)
    incidents = [{"kind": "partition", "groups": [["ct-01", "ct-02"], ["ct-03", "ct-04"]], "at": cut[0], "until": cut[1]}]
    changes = {"rounds": 10, "pace": {"use": "synchronous", "deadline": 0.5}}
    ran = here(written(tmp_path, base, **changes, incidents=incidents), out=tmp_path / "out")
    assert ran.code == 0
    side = {"ct-01": 0, "ct-02": 0, "ct-03": 1, "ct-04": 1}
    crossing = [event for event in ran.of(facts.FrameSent) if side[event.twin] != side[event.to]]
    during = [event for event in crossing if cut[0] <= event.t < cut[1]]
    assert during
    assert all(event.arrives is None for event in during)
    assert [event for event in crossing if event.t >= cut[1] and event.arrives is not None], "after healing they meet"
    merged = [event for event in ran.of(facts.Merged) if cut[0] + 0.2 <= event.t < cut[1]]
    assert merged
    assert all(side[sender] == side[event.twin] for event in merged for sender in event.weights)
