"""Aggregators that do not average with the own model: for twins that learn from what they hear, or pass models on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from p2pftl.gossip.seams import Copy, Heard
from p2pftl.params import weighted_sum


@dataclass(frozen=True)
class KeepOwn:
    """What is heard changes no parameter: it is there for a knowledge policy to learn from (Def-KT, Li et al. 2021)."""

    whole: ClassVar[bool] = False

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        return own, {update.sender: 0.0 for update in sorted(heard, key=lambda update: update.sender)}


@dataclass(frozen=True)
class Adopt:
    """The own model gives way to the one that came, to the mean of several by W; who hears nothing keeps its own (ProxyFL, Kalra 2023)."""

    whole: ClassVar[bool] = False

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        if not heard:
            return own, {}
        ordered = sorted(heard, key=lambda update: (update.sender, update.round, update.staleness))
        total = sum(update.weight for update in ordered)
        weights = [update.weight / total if total > 0 else 1 / len(ordered) for update in ordered]
        vector = weighted_sum([update.copy.vector for update in ordered], weights)
        age = max(update.copy.age for update in ordered)
        return replace(own, vector=vector, age=age), dict(zip((update.sender for update in ordered), weights, strict=True))
