"""A topology of one's own: a ring of hospitals around a hub."""

from dataclasses import dataclass

from p2pftl.world.topology import Topology, roll, still


@dataclass(frozen=True)
class Wheel:
    """The first twin is the hub, joined to all others; these form a ring."""

    twins: int | None = None
    names: tuple[str, ...] = ()

    def build(self, seed: int) -> Topology:
        order = roll(self.twins, self.names)  # ct-01, ct-02, ... or the names given
        rim = range(1, len(order))
        spokes = [(0, i) for i in rim]
        return still("wheel", order, spokes + [(i, i % len(rim) + 1) for i in rim if len(rim) > 2])
