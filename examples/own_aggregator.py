"""An aggregator of one's own: go only part of the way towards what was heard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Gt, Le

from p2pftl.gossip.seams import Copy, Heard


@dataclass(frozen=True)
class Cautious:
    """x <- x + trust * sum_j W_ij (z_j - x); trust = 1 is the weighted mean."""

    trust: Annotated[float, Gt(0), Le(1)] = 0.5
    whole: ClassVar[bool] = False  # late updates may be dropped

    def share(self, own: Copy, fanout: int, failed: int) -> tuple[Copy, Copy]:
        return own, own

    def merge(self, own: Copy, heard: Sequence[Heard]) -> tuple[Copy, dict[str, float]]:
        ordered = sorted(heard, key=lambda update: update.sender)  # arrival order must not change a bit
        weights = {update.sender: self.trust * update.weight for update in ordered}
        steps = [weights[update.sender] * (update.copy.vector.astype(np.float64) - own.vector) for update in ordered]
        return replace(own, vector=(own.vector + sum(steps)).astype(np.float32)), weights
