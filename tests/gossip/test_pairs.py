"""Pairs are disjoint, exactly as many as asked for, and all twins draw the same ones."""

from __future__ import annotations

import pytest

from p2pftl.gossip.pairs import Pairs

NAMES = tuple(f"ct-{k:02}" for k in range(1, 10))


def drawn(policy: Pairs, round: int, seed: int = 1) -> dict[str, str]:
    chosen = {me: policy.choose(me, [name for name in NAMES if name != me], NAMES, round, seed) for me in NAMES}
    return {me: peers[0] for me, peers in chosen.items() if peers}


@pytest.mark.parametrize(("share", "pairs"), [(1.0, 4), (0.5, 2), (0.1, 0), (0.0, 0)])
def test_exactly_so_many_disjoint_pairs_a_round(share: float, pairs: int) -> None:
    for round in range(20):
        found = drawn(Pairs(share), round)
        assert len(found) == pairs
        assert len({*found, *found.values()}) == 2 * pairs


def test_everybody_teaches_and_learns_sooner_or_later() -> None:
    rounds = [drawn(Pairs(), round) for round in range(30)]
    assert {name for found in rounds for name in found} == set(NAMES)
    assert {name for found in rounds for name in found.values()} == set(NAMES)
    assert len({tuple(sorted(found.items())) for found in rounds}) == 30


def test_a_pair_that_is_no_edge_is_left_out() -> None:
    sender, receiver = next(iter(drawn(Pairs(), 0).items()))
    assert Pairs().choose(sender, (), NAMES, 0, 1) == ()
    assert Pairs().choose(sender, (receiver,), NAMES, 0, 1) == (receiver,)
