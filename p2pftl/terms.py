"""What every participant of a run agrees on before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from p2pftl.gossip.codecs import Dense
from p2pftl.gossip.frames import Expectation
from p2pftl.gossip.seams import Aggregator, Codec, Gate, Mixing, Pace, Partners
from p2pftl.learning.knowledge import Knowledge
from p2pftl.params import Layout
from p2pftl.world.topology import CLOUD


@dataclass(frozen=True)
class CloudTerms:
    """every: rounds between uploads; wait: virtual seconds a twin waits for the answer;
    deadline: virtual seconds after its first upload at which the cloud answers whom it heard."""

    every: int
    wait: float
    deadline: float


@dataclass(frozen=True)
class Terms:
    """run: id that every frame carries; everyone: all twins, sorted; evaluate: score every so many rounds;
    knowledge: how twins learn from what they heard; gate: measures what each exchange gains, and may refuse it;
    seconds_per_sample: virtual seconds one sample takes a scanner of speed 1; answers: a twin's last test is told image by image."""

    run: str
    seed: int
    rounds: int
    everyone: tuple[str, ...]
    aggregator: Aggregator
    codec: Codec
    mixing: Mixing
    pace: Pace
    partners: Partners
    cloud: CloudTerms | None = None
    knowledge: Knowledge | None = None
    gate: Gate | None = None
    evaluate: int = 1
    seconds_per_sample: float = 0.05
    answers: bool = False

    def effort(self, tutors: int) -> float:
        """What a fit that learns from so many tutors computes, relative to one that does not."""
        return self.knowledge.effort(tutors) if self.knowledge and tutors else 1.0

    @cached_property
    def peers(self) -> frozenset[str]:
        """Everybody who may send a frame."""
        return frozenset(self.everyone) | ({CLOUD} if self.cloud else frozenset())

    @cached_property
    def codecs(self) -> Mapping[str, Codec]:
        """By kind of frame: what the cloud hears and answers is whole, it has nothing to fill gaps with."""
        whole = Dense() if self.codec.partial else self.codec
        return {"update": self.codec, "upload": whole, "answer": whole}

    def expectation(self, me: str, layout: Layout) -> Expectation:
        """What `me` is ready to accept."""
        return Expectation(self.run, me, self.peers, self.codecs, layout)
