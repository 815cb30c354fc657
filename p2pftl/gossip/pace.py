"""Pace: when a round closes and what a late update is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt


@dataclass(frozen=True)
class Synchronous:
    """A round closes when all partners were heard, at the latest `deadline` virtual seconds after sending.

    An edge counts only if both its frames came in time, so the mixing stays symmetric; late updates are dropped.
    """

    deadline: Annotated[float, Gt(0)] = 60.0

    lockstep: ClassVar[bool] = True

    def closes(self, sent_at: float, all_came: bool) -> float:
        return sent_at if all_came else sent_at + self.deadline

    def discount(self, lag: int) -> float:
        return 1.0 if lag == 0 else 0.0


@dataclass(frozen=True)
class Asynchronous:
    """A round merges whatever was heard by then and never waits.

    An update `lag` rounds behind the receiver counts (1 + lag)^-power, and nothing beyond `bound` rounds.
    """

    bound: Annotated[int, Ge(0)] = 50
    power: Annotated[float, Ge(0)] = 0.5

    lockstep: ClassVar[bool] = False

    def closes(self, sent_at: float, all_came: bool) -> float:
        return sent_at

    def discount(self, lag: int) -> float:
        late = max(0, lag)
        return 0.0 if late > self.bound else (1.0 + late) ** -self.power
