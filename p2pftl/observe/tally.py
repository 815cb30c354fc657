"""What came of every exchange that a gate measured, per edge and together: a fold over `Exchanged`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from p2pftl.events import Exchanged, FrameHeard
from p2pftl.gossip.gates import better
from p2pftl.world.topology import CLOUD


@dataclass(slots=True)
class Account:
    """Exchanges of one edge, or of several. measured: those with a gain; negative: those below 0, refused or not; gain: their sum."""

    offered: int = 0
    accepted: int = 0
    measured: int = 0
    negative: int = 0
    gain: float = 0.0
    frames: int = 0
    bytes: int = 0

    @property
    def refused(self) -> int:
        return self.offered - self.accepted

    @property
    def mean(self) -> float | None:
        """Gain of an exchange on average, None if none was measured."""
        return self.gain / self.measured if self.measured else None

    def enter(self, entry: Mapping[str, Any]) -> None:
        """Take in an entry of a ledger."""
        gain = entry["gain"]
        self.offered += 1
        self.accepted += bool(entry["accepted"])
        if gain is not None:
            self.measured += 1
            self.negative += gain < 0
            self.gain += gain

    def document(self) -> dict[str, Any]:
        """As summary.json tells it."""
        return {
            "offered": self.offered, "accepted": self.accepted, "refused": self.refused, "measured": self.measured,
            "negative": self.negative, "mean_gain": self.mean, "frames": self.frames, "bytes": self.bytes,
        }  # fmt: skip


@dataclass(slots=True)
class Tally:
    """The ledger of a run. on: there is a gate; edges: by receiver and sender; merges: gain of each whole merge that was measured."""

    on: bool = False
    metric: str = ""
    edges: dict[tuple[str, str], Account] = field(default_factory=lambda: defaultdict(Account))
    merges: list[float] = field(default_factory=list)

    def heard(self, event: FrameHeard) -> None:
        """Count a frame that a twin heard; what the cloud hears is offered to nobody."""
        if self.on and event.twin != CLOUD:
            account = self.edges[event.twin, event.sender]
            account.frames += 1
            account.bytes += event.bytes

    def exchanged(self, event: Exchanged) -> None:
        """Take in what a round offered to a twin."""
        self.on, self.metric = True, event.metric
        for entry in event.ledger:
            self.edges[event.twin, entry["sender"]].enter(entry)
        gain = gain_of(event)
        if gain is not None:
            self.merges.append(gain)

    @property
    def refused(self) -> int:
        return sum(account.refused for account in self.edges.values())

    def document(self) -> dict[str, Any]:
        """All exchanges together, the merges they ended in, and every edge."""
        edges: dict[str, dict[str, Any]] = {}
        for (receiver, sender), account in sorted(self.edges.items()):
            edges.setdefault(receiver, {})[sender] = account.document()
        return {
            "metric": self.metric, **together(self.edges.values()).document(), "merges": len(self.merges),
            "worse": sum(gain < 0 for gain in self.merges),
            "merge_gain": sum(self.merges) / len(self.merges) if self.merges else None, "edges": edges,
        }  # fmt: skip


def gain_of(event: Exchanged) -> float | None:
    """What a whole merge gained, None if that cannot be said."""
    if event.before is None or event.after is None:
        return None
    return better(event.metric, event.before, event.after)


def together(accounts: Iterable[Account]) -> Account:
    """Their sum."""
    whole = Account()
    for one in accounts:
        for name in Account.__slots__:
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
    return whole
