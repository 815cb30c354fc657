"""What a link is: the time, the width and the reliability of the way between two participants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Le

DAY = 86_400.0
LEAST = 1e-6
"""Least transit latency in seconds: conservative time needs some look-ahead, so a link of latency 0 gets this one."""


@dataclass(frozen=True)
class Link:
    """The way between two participants, in virtual units.

    latency: seconds; bandwidth: bytes per second; jitter: an extra delay is drawn uniformly from [0, jitter) seconds;
    loss, duplication: probabilities per frame. A frame of `size` bytes needs latency + jitter draw + size / bandwidth;
    the world raises a latency below one microsecond to one microsecond.
    """

    latency: Annotated[float, Ge(0), Le(DAY)] = 0.05
    bandwidth: Annotated[float, Gt(0), Le(1e15)] = 1e7
    jitter: Annotated[float, Ge(0), Le(DAY)] = 0.0
    loss: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    duplication: Annotated[float, Interval(ge=0, lt=1)] = 0.0


@dataclass(frozen=True)
class Override:
    """What a drawn network or a regional link says about one link; what it does not say stays as the scenario's link."""

    latency: float | None = None
    bandwidth: float | None = None
    jitter: float | None = None
    loss: float | None = None
    duplication: float | None = None
    latency_factor: float = 1.0
    bandwidth_factor: float = 1.0

    def on(self, link: Link) -> Link:
        """Return `link` with this edge's own values."""
        return replace(
            link,
            latency=_or(self.latency, link.latency) * self.latency_factor,
            bandwidth=_or(self.bandwidth, link.bandwidth) * self.bandwidth_factor,
            jitter=_or(self.jitter, link.jitter),
            loss=_or(self.loss, link.loss),
            duplication=_or(self.duplication, link.duplication),
        )


def _or(own: float | None, common: float) -> float:
    return common if own is None else own
