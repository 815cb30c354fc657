"""How far each participant can go: safe times, kept up to date at a cost that does not grow with the swarm.

A participant's *safe time* is the earliest virtual time at which a frame that is not sent yet could arrive: the least,
over all who can send to it, of when they could send plus the link's least latency. When somebody *could* send is its own
earliest send, or `reacts` after its own safe time if hearing hastens it. Over single links (`Web`) that is a shortest-path
problem in which lengths change all the time: only what hangs on a change is computed anew (Ramalingam and Reps 1996).
Where everybody can send to everybody else with one latency (`Crowd`), and by way of the cloud, a few least values tell all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from p2pftl.world.topology import CLOUD
from p2pftl.world.world import World

SPARE = 64


class Least:
    """The least of many values that change: reading it, or setting one, costs the logarithm of their number."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def set(self, name: str, value: float) -> None:
        """Give `name` a value; inf takes it out."""
        if self._values.get(name) == value:
            return
        self._values[name] = value
        if value < math.inf:
            heapq.heappush(self._heap, (value, name))
        if len(self._heap) > 4 * len(self._values) + SPARE:
            self._heap = [(value, name) for name, value in self._values.items() if value < math.inf]
            heapq.heapify(self._heap)

    def first(self) -> tuple[float, str]:
        """The least value and whose it is; (inf, "") if there is none."""
        while self._heap and self._values[self._heap[0][1]] != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else (math.inf, "")

    def but(self, name: str) -> float:
        """The least value of anybody else."""
        aside = []
        while (found := self.first())[1] == name:
            aside.append(heapq.heappop(self._heap))
        for entry in aside[:1]:
            heapq.heappush(self._heap, entry)
        return found[0]


class Web:
    """Safe times over single links, participants by position. links: for each, whom it can send to with which least latency.

    could: when each could send; safe: when something unsent could reach it. Both are inf until told and settled. Each safe
    time remembers which sender it hangs on: these make a forest, and what rises takes along nothing but its own subtree.
    """

    def __init__(self, links: Sequence[Sequence[tuple[int, float]]]) -> None:
        count = len(links)
        self.links = links
        self.senders: list[list[tuple[int, float]]] = [[] for _ in links]
        for sender, receivers in enumerate(links):
            for receiver, latency in receivers:
                self.senders[receiver].append((sender, latency))
        self.could = [math.inf] * count
        self.safe = [math.inf] * count
        self._sends = [math.inf] * count
        self._reacts = [math.inf] * count
        self._hangs_on = [-1] * count
        self._holds: list[set[int]] = [set() for _ in links]
        self._told: dict[int, None] = {}

    def tell(self, who: int, sends: float, reacts: float) -> None:
        """Say when `who` could send, hearing nothing new, and how long after hearing something it could at the earliest."""
        if (sends, reacts) != (self._sends[who], self._reacts[who]):
            self._sends[who], self._reacts[who] = sends, reacts
            self._told[who] = None

    def settle(self) -> list[int]:
        """Take in what was told; return those whose safe time is another one now."""
        before: dict[int, float] = {}
        risen: dict[int, None] = {}
        heap: list[tuple[float, int]] = []
        for who in self._told:
            could = self._reckoned(who)
            if could > self.could[who]:
                risen[who] = None
            elif could < self.could[who]:
                self.could[who] = could
                heap.append((could, who))
        self._told = {}
        self._loosen(risen, before)
        for who in before:
            self._hang(who, risen)
        for who in (*risen, *before):  # the safe time of a loosened one may have fallen instead, with another's could
            could = self._reckoned(who)
            if who in risen or could < self.could[who]:
                self.could[who] = could
                heap.append((could, who))
        self._spread(heap, before)
        return [who for who, safe in before.items() if self.safe[who] != safe]

    def _reckoned(self, who: int) -> float:
        return min(self._sends[who], self.safe[who] + self._reacts[who])

    def _loosen(self, risen: dict[int, None], before: dict[int, float]) -> None:
        """Add to `risen` whose sending hangs on it, and note in `before` the safe times that are not known any more."""
        stack = list(risen)
        while stack:
            who = stack.pop()
            for receiver in self._holds[who]:
                before[receiver] = self.safe[receiver]
                if receiver not in risen and self.could[receiver] < self._sends[receiver]:
                    risen[receiver] = None
                    stack.append(receiver)
            self._holds[who] = set()

    def _hang(self, who: int, risen: Mapping[int, None]) -> None:
        """Reckon a safe time from those senders whose own is known."""
        safe, holder = math.inf, -1
        for sender, latency in self.senders[who]:
            if sender not in risen and self.could[sender] + latency < safe:
                safe, holder = self.could[sender] + latency, sender
        self.safe[who], self._hangs_on[who] = safe, holder
        if holder >= 0:
            self._holds[holder].add(who)

    def _spread(self, heap: list[tuple[float, int]], before: dict[int, float]) -> None:
        """Dijkstra's algorithm from those in `heap`."""
        heapq.heapify(heap)
        while heap:
            could, who = heapq.heappop(heap)
            if could != self.could[who] or could == math.inf:
                continue
            for receiver, latency in self.links[who]:
                arrival = could + latency
                if arrival >= self.safe[receiver]:
                    continue
                before.setdefault(receiver, self.safe[receiver])
                if self._hangs_on[receiver] >= 0:
                    self._holds[self._hangs_on[receiver]].discard(receiver)
                self.safe[receiver], self._hangs_on[receiver] = arrival, who
                self._holds[who].add(receiver)
                if arrival + self._reacts[receiver] < self.could[receiver]:
                    self.could[receiver] = arrival + self._reacts[receiver]
                    heapq.heappush(heap, (self.could[receiver], receiver))


@dataclass(frozen=True)
class Reach:
    """Whom each participant could ever send to.

    links: receivers and least latencies of each twin, empty if the twins are a crowd; crowd: least latency from every twin to
    every other, None if they have links; cloud: least latency to and from the cloud, None if there is none.
    """

    twins: tuple[str, ...]
    links: Mapping[str, Sequence[tuple[str, float]]]
    crowd: float | None = None
    cloud: float | None = None

    def senders(self, receiver: str) -> Iterable[str]:
        """Who could send to `receiver`."""
        if receiver == CLOUD or self.crowd is not None:
            others: Iterable[str] = (name for name in self.twins if name != receiver)
        else:
            others = (name for name, _ in self.links[receiver])  # links are those of an undirected union
        return (*others, CLOUD) if self.cloud is not None and receiver != CLOUD else tuple(others)


def reach(world: World, names: Sequence[str]) -> Reach:
    """What `world` lets the participants `names` do."""
    topology = world.topology
    twins = tuple(name for name in names if name != CLOUD)
    cloud = world.fastest(twins[0], CLOUD) if CLOUD in names and twins else None
    alike = not topology.links and len(twins) > 1
    if alike and (not topology.period or topology.union().number_of_edges() == len(twins) * (len(twins) - 1) // 2):
        return Reach(twins, {}, world.fastest(twins[0], twins[1]), cloud)
    graph = topology.union()
    links = {name: [(peer, world.fastest(name, peer)) for peer in sorted(graph.neighbors(name))] for name in twins}
    return Reach(twins, links, None, cloud)


class Horizon:
    """The safe time of everybody, and word of who may go on.

    `tell` what changed of a participant, `watch` for its safe time to pass a virtual time, and ask who has `passed`.
    """

    def __init__(self, ways: Reach) -> None:
        self._ways = ways
        self._place = {name: place for place, name in enumerate(ways.twins)}
        self._web = Web([[(self._place[peer], latency) for peer, latency in ways.links.get(name, ())] for name in ways.twins])
        self._sends, self._reacts = Least(), Least()
        self._cloud = (math.inf, math.inf)
        self._watched: dict[str, float] = {}
        self._parked = Least()

    def tell(self, name: str, sends: float, reacts: float) -> None:
        """Say when `name` could send, hearing nothing new, and how long after hearing something it could (inf: hearing hastens nothing)."""
        if name == CLOUD:
            self._cloud = (sends, reacts)
            return
        self._web.tell(self._place[name], sends, reacts)
        if self._ways.crowd is not None or self._ways.cloud is not None:
            self._sends.set(name, sends)
            self._reacts.set(name, reacts)

    def safe(self, name: str) -> float:
        """Earliest virtual time at which a frame that is not sent yet could arrive at `name`, as of the last `passed`."""
        if name == CLOUD:
            return self._safe_of_the_cloud()
        if self._ways.crowd is None:
            return min(self._web.safe[self._place[name]], self._from_the_cloud())
        return min(self._among(name, self._ways.crowd), self._from_the_cloud())

    def watch(self, name: str, t: float) -> None:
        """Have `name` among the `passed` once its safe time is later than `t`."""
        self._watched[name] = t
        if self._common() <= t:
            self._parked.set(name, t)

    def passed(self) -> list[str]:
        """Take in what was told; return the watched whose safe time is later now, and watch them no longer."""
        maybe = [self._ways.twins[place] for place in self._web.settle()]
        maybe += [self._sends.first()[1], CLOUD]  # for whom the common bound does not hold
        common = self._common()
        while self._parked.first()[0] < common:
            maybe.append(self._parked.first()[1])
            self._parked.set(maybe[-1], math.inf)
        return [name for name in maybe if name in self._watched and self._has_passed(name)]

    def _has_passed(self, name: str) -> bool:
        t = self._watched[name]
        if self.safe(name) > t:
            del self._watched[name]
            return True
        if self._common() <= t:
            self._parked.set(name, t)
        return False

    # ------------------------------------------------------------------ bounds that many have in common

    def _common(self) -> float:
        """No twin's safe time is later unless it is the first to send in a crowd."""
        crowd = math.inf if self._ways.crowd is None else self._sends.first()[0] + self._ways.crowd
        return min(crowd, self._from_the_cloud())

    def _among(self, name: str, latency: float) -> float:
        """In a crowd, all hear first from whoever can send first, and that one from the second, or from an echo of its own."""
        first, leader = self._sends.first()
        if name != leader:
            return first + latency
        return min(self._sends.but(leader), first + latency + self._reacts.but(leader)) + latency

    def _from_the_cloud(self) -> float:
        """When a frame of the cloud could arrive; a detour by way of another twin would take longer."""
        if self._ways.cloud is None:
            return math.inf
        sends, reacts = self._cloud
        return min(sends, self._sends.first()[0] + self._ways.cloud + reacts) + self._ways.cloud

    def _safe_of_the_cloud(self) -> float:
        if self._ways.cloud is None:
            return math.inf
        return min(self._sends.first()[0], self._from_the_cloud() + self._reacts.first()[0]) + self._ways.cloud
