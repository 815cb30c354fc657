"""How far a device reaches into the learning of its twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval


@dataclass(frozen=True)
class Coupling:
    """quarantine: leave out studies of a quarantine window and withhold the update meanwhile; adapt: rounds in which a changed
    protocol is answered by training normalisation and head alone, 0: never; regain: how far below its accuracy before a change a
    twin may be and count in full again; drop: how far below its best a model may fall, twice in a row, before a flag asks for a
    phantom, 0: as far as it likes.
    """

    quarantine: bool = True
    adapt: Annotated[int, Ge(0)] = 1
    regain: Annotated[float, Interval(ge=0, le=1)] = 0.02
    drop: Annotated[float, Interval(ge=0, le=1)] = 0.15
