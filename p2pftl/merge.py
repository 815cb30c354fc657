"""Merging, as a twin does it: what an update says to it, what a gate finds, and the facts of what came of a round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from p2pftl.events import Exchanged, Merged, Scored, Tested, tellable
from p2pftl.exchange import Round
from p2pftl.gossip.gates import Trial
from p2pftl.gossip.mailbox import Update
from p2pftl.gossip.seams import Gate, Heard
from p2pftl.learning.task import Scene, Task
from p2pftl.params import Ranges, Vector, gather, scatter
from p2pftl.terms import Terms


def aligned(update: Update, shared: Ranges, own: Vector, vector: Vector) -> Vector:
    """What an update says about the elements `shared` of `vector`, which are `own` by now; what it does not carry stays."""
    ranges = update.header.ranges
    if ranges == shared:
        return update.part.onto(own)
    came = update.part.onto(gather(vector, ranges))
    return gather(scatter(vector, ranges, came), shared)


def next_round(waiting: Iterable[Update], completed: int, terms: Terms) -> int:
    """The round after the last completed one; in lockstep a twin that was away joins the round its peers are in."""
    return max([completed, *(update.header.round for update in waiting)]) if terms.pace.lockstep else completed


def joined(number: int, answer: Update | None, terms: Terms) -> int:
    """The round that a twin in round `number` merges in: in lockstep a later one that the cloud's `answer` says its twins are in."""
    return max(number, min(answer.header.met, terms.rounds - 1)) if answer and terms.pace.lockstep else number


def on_trial(gate: Gate, task: Task, vector: Vector, shared: Ranges, own: Vector, scene: Scene, round: int) -> Trial:
    """A merge of `own`, the elements `shared` of `vector`, under a gate; judged by the validation studies of `scene`."""

    def judge(part: Vector) -> float | None:
        value = task.score(scatter(vector, shared, part), "validation", scene, round).get(gate.metric)
        return None if value is None else float(value)

    return Trial(gate, judge, own)


def cost(trial: Trial, scene: Scene, validation: int) -> float:
    """What a trial cost, in training samples: a pass over an image is a third of a step on it; an instrument costs nothing.

    validation: images of a twin whose scene brings none.
    """
    return trial.passes * len(scene.cohorts.get("validation", range(validation))) / 3 if trial.gate.sifts else 0.0


def exchanged(t: float, name: str, round: int, trial: Trial, weights: Mapping[str, float], merged: Vector) -> Exchanged:
    """What the ledger says of a merge that came to `merged`. weights: of those merged."""
    after = None if trial.before is None else trial.measured(merged)
    ledger = trial.entries(weights)
    return Exchanged(t=t, twin=name, round=round, metric=trial.gate.metric, ledger=ledger, before=trial.before, after=after)


def merged(
    t: float, name: str, current: Round, weights: Mapping[str, float], answer: Update | None, heard: Sequence[Heard], left_out: Set[str]
) -> Merged:
    """What was merged: the cloud's `answer`, or the updates `heard`. left_out: who is not missing, though nothing of it was merged."""
    ages = [t - answer.header.sent_at] if answer else [update.staleness for update in heard]
    stale = sum(ages) / len(ages) if ages else 0.0
    missing = () if answer else tuple(sorted(current.expected - weights.keys() - left_out))
    return Merged(t=t, twin=name, round=current.number, weights=weights, staleness=stale, missing=missing)


def scored(name: str, t: float, round: int, task: Task, vector: Vector, scene: Scene, terms: Terms) -> Iterator[Scored | Tested]:
    """Yield what the model of twin `name` is worth after `round`: on its own validation studies, then on the common test images."""
    last = round + 1 >= terms.rounds
    for split, seen in (("validation", scene), ("test", Scene())):
        metrics = dict(task.score(vector, split, seen, round))
        answers = metrics.pop("answers", None)
        if metrics:
            yield Scored(t=t, twin=name, round=round, split=split, metrics=metrics)
        if last and answers and terms.answers and tellable(answers, len(terms.everyone)):
            yield Tested(t=t, twin=name, round=round, **answers)
