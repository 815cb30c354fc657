"""What must hold of the events of any run (TRUST.md section 5), whatever happened in it."""

from __future__ import annotations

from collections import Counter, defaultdict

from p2pftl import events as facts
from p2pftl.gossip.aggregators import WeightedMean
from p2pftl.gossip.mixing import Metropolis
from p2pftl.world.topology import CLOUD
from tests.toys import Outcome, Toy


def check_history(outcome: Outcome, run: Toy) -> None:
    """Assert that `outcome` is a possible history of `run`."""
    times = [event.t for event in outcome.events]
    assert times == sorted(times), "events leave in order"
    _check_rounds(outcome)
    _check_frames(outcome, run)
    _check_merges(outcome, run)
    _check_devices(outcome)


def _check_rounds(outcome: Outcome) -> None:
    """Rounds rise within an incarnation, and begin again where the saved state says; nothing happens after the end."""
    done: dict[str, int] = {}
    ended: set[str] = set()
    for event in outcome.events:
        if isinstance(event, facts.Revived):
            assert event.round == done.get(event.twin, -1) + 1 or event.twin == CLOUD
        if isinstance(event, facts.FitStarted | facts.Fitted | facts.RoundDone | facts.Merged):
            assert event.round > done.get(event.twin, -1)
            assert event.twin not in ended
        if isinstance(event, facts.RoundDone):
            done[event.twin] = event.round
        if isinstance(event, facts.TwinDone):
            assert event.twin not in ended
            ended.add(event.twin)


def _check_frames(outcome: Outcome, run: Toy) -> None:
    """What was heard was sent, at most once, along an edge, across no cut, by somebody who was up to somebody who was up."""
    world, sent = run.world, Counter[tuple[str, str, int]]()
    union = world.topology.union()
    for event in outcome.of(facts.FrameSent):
        assert CLOUD in (event.twin, event.to) or union.has_edge(event.twin, event.to)
        assert (event.arrives is None) == bool(event.lost)
        assert event.arrives is None or event.arrives >= event.t + world.fastest(event.twin, event.to)
        sent[event.twin, event.to, event.round] += event.arrives is not None
    for event in outcome.of(facts.FrameHeard):
        left = event.t - event.staleness
        assert not world._severed(event.sender, event.twin, left, event.t), "nothing crosses a cut"
        assert world.back(event.twin, event.t) is None, "who is away hears nothing"
        sent[event.sender, event.twin, event.round] -= 1
    assert min(sent.values(), default=0) >= 0, "a frame is heard once"
    for event in outcome.events:
        if isinstance(event, facts.FitStarted | facts.FrameSent | facts.Merged):
            assert world.back(event.twin, event.t) is None, "who is away does nothing"


def _check_merges(outcome: Outcome, run: Toy) -> None:
    """Merged is a subset of heard; with undirected lockstep rounds an edge counts at both ends or at none, by Metropolis equally."""
    heard: dict[str, set[str]] = defaultdict(set)
    edges: dict[tuple[str, str, int], float] = {}
    for event in outcome.events:
        if isinstance(event, facts.FrameHeard):
            heard[event.twin].add(event.sender)
        if isinstance(event, facts.Merged):
            assert event.weights.keys() <= heard[event.twin]
            assert event.staleness >= 0
            edges.update({(event.twin, sender, event.round): weight for sender, weight in event.weights.items()})
    if _symmetric(run):
        turned = {(sender, twin, round): weight for (twin, sender, round), weight in edges.items()}
        assert turned.keys() == edges.keys()
        assert turned == edges or run.terms.aggregator != WeightedMean() or run.terms.mixing != Metropolis()


def _check_devices(outcome: Outcome) -> None:
    """A device log comes whole and in order; a withheld update is merged by nobody, and whoever withholds merges nothing."""
    logged: Counter[str] = Counter()
    held_back: set[tuple[str, int]] = set()
    heads: dict[tuple[str, int], str] = {}
    for event in outcome.events:
        if isinstance(event, facts.DeviceLogged):
            for entry in event.entries:
                assert entry["n"] <= logged[event.twin], "no entry is left out"
                assert heads.setdefault((event.twin, entry["n"]), entry["hash"]) == entry["hash"], "a revived device lives the same life"
                assert entry["n"] == 0 or entry["previous"] == heads[event.twin, entry["n"] - 1]
                logged[event.twin] = max(logged[event.twin], entry["n"] + 1)
        if isinstance(event, facts.UpdateWithheld):
            held_back.add((event.twin, event.round))
        if isinstance(event, facts.StudiesArrived):
            assert event.images > 0 <= event.held
        if isinstance(event, facts.Merged) and (event.twin, event.round) in held_back:
            assert event.weights.keys() <= {event.twin}


def _symmetric(run: Toy) -> bool:
    terms = run.terms
    whole_lives = not any(incident.kind in ("crash", "leave") for incident in run.world.incidents)
    directed = terms.partners.directed or run.world.topology.directed or terms.aggregator.whole
    return terms.pace.lockstep and not directed and terms.cloud is None and whole_lives
