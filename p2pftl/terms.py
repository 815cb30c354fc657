"""What every participant of a run agrees on before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from p2pftl.gossip.seams import Aggregator, Codec, Mixing, Pace, Partners


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
    seconds_per_sample: virtual seconds one sample takes a scanner of speed 1."""

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
    evaluate: int = 1
    seconds_per_sample: float = 0.05
