"""Facts of a run: past-tense, frozen, without wall-clock time, so that their digest is the run's fingerprint.

Everything a person sees (live view, report, metrics, replay) is a fold over this stream.
`t` is virtual seconds, `twin` a participant's name ("" for facts of the whole run).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import msgpack

from p2pftl.errors import CheckpointError

MOST_TESTED = 1 << 24  # bytes of all `Tested` of a run


@dataclass(frozen=True, kw_only=True)
class Event:
    """A fact that happened at virtual time `t` to `twin`."""

    t: float
    twin: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPlanned(Event):
    """The whole run, known before anything trains. `facts` is Plan.facts() (see scenario/plan.py)."""

    name: str
    seed: int
    rounds: int
    classes: tuple[str, ...]
    synthetic: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TwinReady(Event):
    """A twin has read its shard. `scanner` holds the public configuration (vendor, kernel, dose...)."""

    incarnation: int
    train: int
    validation: int
    test: int
    patients: int
    labels: tuple[int, ...]
    scanner: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FitStarted(Event):
    round: int
    until: float


@dataclass(frozen=True, kw_only=True)
class Fitted(Event):
    """One local fit. loss: mean training loss; steps: optimiser steps; trained: share of trained parameters."""

    round: int
    loss: float
    samples: int
    steps: int
    trained: float


@dataclass(frozen=True, kw_only=True)
class FitRejected(Event):
    """A fit gave no usable parameters (not finite); the twin keeps what it had."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class FrameSent(Event):
    """`bytes` counted once at the sender, header included, lost ones too. arrives is None when lost; `lost` says why."""

    to: str
    round: int
    bytes: int
    arrives: float | None
    lost: str = ""
    copies: int = 1


@dataclass(frozen=True, kw_only=True)
class FrameHeard(Event):
    """A frame was accepted and waits to be merged. staleness: its age in virtual seconds at arrival."""

    sender: str
    round: int
    bytes: int
    staleness: float


@dataclass(frozen=True, kw_only=True)
class FrameRefused(Event):
    """A frame was not accepted: `code` is E4xx (TRUST.md), `reason` its short text ("duplicate", "late"...)."""

    sender: str
    round: int
    code: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Merged(Event):
    """Own model and heard updates became one. weights: sender -> weight given; staleness: mean age in virtual seconds."""

    round: int
    weights: Mapping[str, float]
    staleness: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Exchanged(Event):
    """What a round offered a twin and what came of it, where a gate measures that.

    metric: of the twin's own validation data, before the merge and after it, None where they say nothing. ledger: per sender (a peer
    or the cloud) `sender`, `round` of its update, `weight` in the merge, `accepted`, `reason` of a refusal, `gain`: how much better
    the own model would be with this sender alone, positive is better, None if that cannot be said.
    """

    round: int
    metric: str
    ledger: tuple[Mapping[str, Any], ...]
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Scored(Event):
    """Metrics on `split` ("validation" or "test"): accuracy, balanced_accuracy, precision, recall, f1, auroc
    (None where undefined), loss, confusion (rows true, columns predicted)."""

    round: int
    split: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Tested(Event):
    """What a twin's model of the last round says of each common test image, in their order, so that patients can be resampled.

    classes: predicted class, a byte each; chances: per image the probability of every class in 255ths, a byte each. Which patient and
    class an image is of, both numbers, stands in the plan's facts. Of a run too large for it (`tellable`) there is none.
    """

    round: int
    classes: bytes
    chances: bytes


def tellable(answers: Mapping[str, bytes], twins: int) -> bool:
    """Whether so many twins may each tell such answers: together at most MOST_TESTED bytes."""
    return twins * sum(map(len, answers.values())) <= MOST_TESTED


@dataclass(frozen=True, kw_only=True)
class RoundDone(Event):
    round: int
    bytes_sent: int
    heard: int


@dataclass(frozen=True, kw_only=True)
class CloudMerged(Event):
    """The cloud answered `twins` after its own `round`.

    groups: twins that learn the same model, empty where all do; figures: what else its policy tells of itself.
    """

    round: int
    twins: tuple[str, ...]
    samples: int
    groups: tuple[tuple[str, ...], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CloudMissed(Event):
    """A twin went on without the cloud's answer."""

    round: int


@dataclass(frozen=True, kw_only=True)
class DeviceLogged(Event):
    """What the log of a twin's device gained: n, t, kind, source, data, previous, hash of each entry. A revived twin repeats some."""

    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class DeviceChanged(Event):
    """How a device is, at the start and whenever lifecycle, quality or QA status changed.

    quality: as peers are told it; status: pass, warn, fail or stale; health: 0 to 1 by what it is of, None while unknown.
    """

    lifecycle: str
    quality: float
    status: str
    reason: str
    health: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class StudiesArrived(Event):
    """A twin acquired new studies of so many images. held: images in its training set now."""

    images: int
    held: int


@dataclass(frozen=True, kw_only=True)
class StudiesWithdrawn(Event):
    """A quarantine window opened (until is None) and so many images newly left the twin's studies; or it closed. Virtual seconds."""

    images: int
    since: float
    until: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class UpdateWithheld(Event):
    """A twin kept its update of this round to itself, and merged nothing."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Adapting(Event):
    """A twin trains only normalisation and head this round, because its device changed and passes QA."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class IncidentBegan(Event):
    """Something scripted happened to the world. `text` is one plain sentence for the ticker."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class IncidentEnded(Event):
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Crashed(Event):
    """A participant's process died. scripted: the scenario asked for it."""

    incarnation: int
    scripted: bool


@dataclass(frozen=True, kw_only=True)
class Revived(Event):
    """A twin came back from its last saved state with a higher incarnation."""

    incarnation: int
    round: int


@dataclass(frozen=True, kw_only=True)
class TwinLost(Event):
    """A twin did not come back."""

    incarnation: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class TwinDone(Event):
    """A twin finished its rounds. model: hash of its final parameters."""

    rounds: int
    model: str


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """status: "done", "degraded", "interrupted" or "failed"."""

    status: str


KINDS: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        RunPlanned, TwinReady, FitStarted, Fitted, FitRejected, FrameSent, FrameHeard, FrameRefused, Exchanged, Merged, Scored, Tested,
        RoundDone, CloudMerged, CloudMissed, DeviceLogged, DeviceChanged, StudiesArrived, StudiesWithdrawn, UpdateWithheld, Adapting,
        IncidentBegan, IncidentEnded, Crashed, Revived, TwinLost, TwinDone, RunFinished,
    )
}  # fmt: skip


_FIELDS = {kind: sorted(item.name for item in fields(kind)) for kind in KINDS.values()}


def pack(event: Event) -> bytes:
    """Return the canonical bytes of `event`: msgpack of [kind, {field: value}], keys sorted."""
    content = {name: _sorted(getattr(event, name)) for name in _FIELDS[type(event)]}
    packed: bytes = msgpack.packb([type(event).__name__, content], use_bin_type=True)
    return packed


def unpack(data: bytes) -> Event:
    """Inverse of pack. Raises CheckpointError E505 for an unknown kind or field."""
    try:
        name, fields = msgpack.unpackb(data, use_list=False, raw=False)
        return KINDS[name](**fields)
    except (KeyError, TypeError, ValueError, msgpack.exceptions.UnpackException) as error:
        raise CheckpointError("E505", "an event of the log cannot be read", fix="was it written by a newer p2pftl?") from error


def _sorted(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return value
