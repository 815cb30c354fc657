"""Every registered pace closes no round before it began and never gives an older update more weight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pftl.gossip.pace import Asynchronous, Synchronous
from p2pftl.gossip.seams import Pace
from p2pftl.policies import find, registered

every = pytest.mark.parametrize("pace", [find("pace", name)() for name in sorted(registered("pace"))], ids=lambda pace: type(pace).__name__)
times = st.floats(0, 1e9)


@every
@given(sent_at=times, all_came=st.booleans())
def test_a_round_closes_when_it_was_sent_or_later(pace: Pace, sent_at: float, all_came: bool) -> None:
    assert pace.closes(sent_at, all_came) >= sent_at
    assert pace.closes(sent_at, True) <= pace.closes(sent_at, False)


@every
@given(lag=st.integers(-100, 100))
def test_weight_falls_with_age_from_one_for_the_own_round(pace: Pace, lag: int) -> None:
    assert pace.discount(0) == 1.0
    assert 0.0 <= pace.discount(lag + 1) <= 1.0
    assert lag < 0 or pace.discount(lag + 1) <= pace.discount(lag)


def test_synchronous_waits_until_its_deadline_and_drops_every_other_round() -> None:
    assert Synchronous(7.0).closes(3.0, all_came=False) == 10.0
    assert Synchronous(7.0).closes(3.0, all_came=True) == 3.0
    assert [Synchronous().discount(lag) for lag in (-1, 0, 1)] == [0.0, 1.0, 0.0]


def test_asynchronous_never_waits_and_discounts_by_lag_up_to_its_bound() -> None:
    pace = Asynchronous(bound=4, power=0.5)
    assert pace.closes(3.0, all_came=False) == 3.0
    assert [pace.discount(lag) for lag in (-2, 0, 3, 4, 5)] == [1.0, 1.0, 0.5, pytest.approx(5**-0.5), 0.0]
    assert Asynchronous(power=0.0).discount(50) == 1.0
