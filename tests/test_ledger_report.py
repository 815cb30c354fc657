"""The ledger as it is read: summary.json, the report's section, the plain lines; and on a real network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.gossip.gates import Gain, Watch
from p2pftl.learning.classification import Classification
from p2pftl.learning.features import Features
from p2pftl.learning.models import Model, ModelSpec, prepare_torch
from p2pftl.learning.specs import FeatureCache, Recipe
from p2pftl.learning.transfer import Full, Head, Transfer
from p2pftl.observe import record, report
from p2pftl.observe.board import Board
from p2pftl.observe.plain import standing
from p2pftl.observe.summary import Summary
from p2pftl.observe.tally import Tally, gain_of, together
from p2pftl.terms import CloudTerms
from p2pftl.world.topologies import Complete
from tests.learning.blobs import blobs
from tests.observe.test_report import sound
from tests.test_ledger import BAD, FIVE, run
from tests.toys import Outcome, play, toy

prepare_torch()
MODEL = Model(ModelSpec(), 2, 1)
START = MODEL.take()
NAMES = ("ct-01", "ct-02", "ct-03")


def planned(gate: str | None) -> facts.RunPlanned:
    twins = {name: {} for name in FIVE.names}
    policies = {"gate": gate} if gate else {}
    return facts.RunPlanned(
        t=0.0, name="toy", seed=1, rounds=6, classes=("a", "b"), synthetic=True, facts={"twins": twins, "policies": policies}
    )


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    outcome = play(run(Gain(), cloud=CloudTerms(every=3, wait=2.0, deadline=1.0)), tmp_path_factory.mktemp("gated"))
    outcome.events = [planned("gain"), *outcome.events]
    return outcome


def told(outcome: Outcome) -> dict[str, Any]:
    summary = Summary()
    for event in outcome.events:
        summary(event)
    return summary.document(digest="", executor="local", wall_seconds=0.0)


def test_the_totals_are_the_sums_of_the_edges_and_of_what_was_told(gated: Outcome) -> None:
    ledger = told(gated)["ledger"]
    entries = [entry for event in gated.of(facts.Exchanged) for entry in event.ledger]
    edges = [edge for by_sender in ledger["edges"].values() for edge in by_sender.values()]
    for key in ("offered", "accepted", "refused", "measured", "negative", "frames", "bytes"):
        assert ledger[key] == sum(edge[key] for edge in edges)
    assert ledger["offered"] == ledger["accepted"] + ledger["refused"] == len(entries)
    assert ledger["negative"] == sum(entry["gain"] < 0 for entry in entries) == ledger["refused"]
    assert ledger["mean_gain"] == pytest.approx(np.mean([entry["gain"] for entry in entries]))
    assert ledger["merges"] == len(gated.of(facts.Exchanged))
    assert ledger["worse"] == sum((gain_of(event) or 0.0) < 0 for event in gated.of(facts.Exchanged))
    heard = [event for event in gated.of(facts.FrameHeard) if event.twin != "cloud"]
    assert ledger["frames"] == len(heard) == ledger["offered"], "nothing was lost or late here"
    assert ledger["bytes"] == sum(event.bytes for event in heard)
    assert json.dumps(ledger)


def test_without_a_gate_there_is_no_ledger_and_no_section(tmp_path: Path) -> None:
    plain = play(run(None), tmp_path / "run")
    plain.events = [planned(None), *plain.events]
    assert "ledger" not in told(plain)
    assert "exchanges gained" not in section(plain, tmp_path)


def section(outcome: Outcome, folder: Path) -> str:
    with record.Record(folder / "events.msgpack") as sink:
        for event in outcome.events:
            sink(event)
    return sound(report.write(folder).read_text(encoding="utf-8"))


def test_the_report_shows_who_gained_by_whom_and_names_the_worst(gated: Outcome, tmp_path: Path) -> None:
    ledger = told(gated)["ledger"]
    text = section(gated, tmp_path).partition("<h2>What the exchanges gained</h2>")[2].partition("<section>")[0]
    assert f"{ledger['offered']} updates offered, {ledger['refused']} of {ledger['offered']} (" in text
    assert "mean gain by receiver and sender" in text
    assert "Gain of whole merges in loss" in text
    assert text.count("<rect") == 5 * 4 + 5, "an edge each, and the cloud's answers; nobody hears itself"
    assert "bar-lost" in text
    worst = min((edge["mean_gain"], twin, sender) for twin, row in ledger["edges"].items() for sender, edge in row.items())
    assert f"{worst[1]} lost most by {'the cloud' if worst[2] == 'cloud' else worst[2]}" in text


def test_a_gate_to_which_nothing_came_says_so(tmp_path: Path) -> None:
    events = [planned("watch"), facts.RunFinished(t=1.0, status="done")]
    assert "nothing was offered" in section(Outcome(events, {}, []), tmp_path)


def test_many_twins_get_a_table_and_no_map(tmp_path: Path) -> None:
    names = [f"ct-{at:02d}" for at in range(1, 41)]
    entry = {"sender": "ct-02", "round": 0, "weight": 0.1, "accepted": True, "reason": "", "gain": None}
    events = [
        facts.TwinReady(t=0.0, twin=name, incarnation=1, train=1, validation=0, test=0, patients=1, labels=()) for name in names
    ] + [facts.Exchanged(t=1.0, twin="ct-01", round=0, metric="accuracy", ledger=(entry,), before=None, after=None)]  # fmt: skip
    text = section(Outcome(events, {}, []), tmp_path)
    assert "No map of 40 twins" in text
    assert "No twin had validation data" in text


def test_the_plain_lines_count_what_was_kept_out(gated: Outcome) -> None:
    board = Board()
    for event in gated.events:
        board.feed(event)
    assert f"{told(gated)['ledger']['refused']} kept out by the gate" in standing(board)
    assert any(note.kind == "gate" for note in board.notes)


def test_an_empty_account_has_no_mean() -> None:
    assert together(Tally().edges.values()).mean is None
    assert Tally().document()["merge_gain"] is None


# ---------------------------------------------------------------------- on a real network


def clinics(gate: Any, transfer: Transfer, features: Features, rounds: int) -> Any:
    """Three twins with 32 blobs each; the labels of `BAD` are swapped, in training and validation."""

    def task(name: str, seed: int, rate: float) -> Classification:
        cohorts = {"train": blobs(32, seed=int(name[-1])), "validation": blobs(24, seed=10 + int(name[-1])), "test": blobs(40, seed=99)}
        if name == BAD:
            for split in ("train", "validation"):
                np.subtract(1, cohorts[split].labels, out=cohorts[split].labels)
        return Classification(name, MODEL, START, cohorts, Recipe(lr=0.05, batch=8, epochs=2), transfer, seed, 2, features)

    return toy(Complete(names=NAMES).build(1), task=task, rounds=rounds, gate=gate)


@pytest.mark.parametrize("transfer", [Full(), Head()], ids=repr)
def test_watching_leaves_real_models_and_scores_as_they_are_whatever_is_kept_of_features(transfer: Transfer, tmp_path: Path) -> None:
    kept, nothing = FeatureCache(), FeatureCache(cache=False)
    outcomes = [
        play(clinics(gate, transfer, Features(MODEL, cache), 2), tmp_path / f"{at}")
        for at, (gate, cache) in enumerate([(Watch(), kept), (Watch(), nothing), (None, kept)])
    ]
    assert outcomes[0].digest == outcomes[1].digest
    assert all(outcomes[0].vectors[name].tobytes() == outcomes[2].vectors[name].tobytes() for name in NAMES)
    assert outcomes[0].of(facts.Scored) == outcomes[2].of(facts.Scored)
    scored = {(event.twin, event.round): event.metrics["loss"] for event in outcomes[0].of(facts.Scored) if event.split == "validation"}
    assert scored == {(event.twin, event.round): event.after for event in outcomes[0].of(facts.Exchanged)}


def test_a_gate_protects_real_twins_from_one_with_swapped_labels(tmp_path: Path) -> None:
    features = Features(MODEL, FeatureCache())
    gated, open_ = (play(clinics(gate, Full(), features, 6), tmp_path / repr(gate)) for gate in (Gain(), None))

    def accuracy(outcome: Outcome) -> dict[str, float]:
        return {event.twin: event.metrics["accuracy"] for event in outcome.of(facts.Scored) if event.split == "test"}

    honest = [name for name in NAMES if name != BAD]
    assert all(accuracy(gated)[name] > accuracy(open_)[name] for name in honest)
    late = [entry for event in gated.of(facts.Exchanged) if event.twin != BAD and event.round >= 3 for entry in event.ledger]
    assert not any(entry["accepted"] for entry in late if entry["sender"] == BAD)
