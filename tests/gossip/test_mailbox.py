"""Each frame is accepted once; what was refused leaves no trace; what is taken out comes in one order whatever order it came in."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pftl.errors import FrameRefused
from p2pftl.gossip.mailbox import WINDOW, Mailbox, Update, newest
from p2pftl.gossip.seams import Part
from tests.gossip.mail import PART, frame, header, mailbox

POISON = PART.copy()
POISON[0] = math.nan


def refused(box: Mailbox, part=PART, **changes: object) -> str:
    with pytest.raises(FrameRefused) as caught:
        box.open(*frame(part, **changes), 5.0)
    return caught.value.code


def test_a_frame_is_accepted_once() -> None:
    box = mailbox()
    box.open(*frame(seq=3), 5.0)
    assert refused(box, seq=3) == "E407"
    assert refused(box, seq=3, round=9) == "E407"
    box.open(*frame(seq=4), 5.0)
    box.open(*frame(seq=3, sender="ct-03"), 5.0)


def test_overtaken_frames_are_accepted() -> None:
    box = mailbox()
    for seq in (9, 2, 5):
        box.open(*frame(seq=seq), 5.0)


def test_frames_from_before_a_revival_are_refused_and_numbers_start_again() -> None:
    box = mailbox()
    box.open(*frame(seq=3), 5.0)
    box.open(*frame(seq=3, incarnation=2), 5.0)
    assert refused(box, seq=4) == "E408"
    assert refused(box, seq=3, incarnation=2) == "E407"


def test_a_refused_frame_leaves_no_trace() -> None:
    box = mailbox()
    box.open(*frame(seq=1), 5.0)
    assert refused(box, POISON, seq=2, incarnation=5) == "E415"
    assert refused(box, PART[:4], seq=3, incarnation=5) == "E414"
    assert box.incarnations == {"ct-02": 1}
    box.open(*frame(seq=2), 5.0)


def test_an_old_frame_is_refused_however_much_came_since() -> None:
    box = mailbox()
    for seq in range(2 * WINDOW + 10):
        box.open(*frame(seq=seq), 5.0)
    for seq in (0, 1, WINDOW, 2 * WINDOW):
        assert refused(box, seq=seq) == "E407"
    assert len(box.seen["ct-02"].numbers) <= WINDOW
    box.open(*frame(seq=2 * WINDOW + 10), 5.0)


updates = st.builds(
    lambda sender, incarnation, round, seq: Update(header(sender=sender, incarnation=incarnation, round=round, seq=seq), Part(PART), 1.0),
    st.sampled_from(["ct-02", "ct-03"]), st.integers(1, 2), st.integers(0, 3), st.integers(0, 5),
)  # fmt: skip


@settings(deadline=None)
@given(waiting=st.lists(updates, max_size=8, unique_by=lambda update: update.order), data=st.data())
def test_taking_empties_in_one_order_whatever_order_they_came_in(waiting: list[Update], data: st.DataObject) -> None:
    taken = []
    for order in (waiting, data.draw(st.permutations(waiting))):
        box = mailbox()
        box.waiting.extend(order)
        taken.append(box.take(lambda update: update.header.round < 2))
        assert all(update.header.round >= 2 for update in box.waiting)
        assert len(taken[-1]) + len(box.waiting) == len(waiting)
    assert taken[0] == taken[1]
    assert taken[0] == sorted(taken[0], key=lambda update: update.order)


@settings(deadline=None)
@given(st.lists(updates, max_size=8, unique_by=lambda update: update.order))
def test_keeping_only_the_newest_of_each_sender_is_keeping_all_and_taking_the_newest(came: list[Update]) -> None:
    one, all_ = mailbox(), mailbox()
    for update in came:
        one.keep(update, every=False)
        all_.keep(update, every=True)
    assert all_.waiting == came
    assert [update.order for update in newest(one.waiting)] == [update.order for update in newest(all_.waiting)]
    assert len(one.waiting) == len({update.header.sender for update in came})


@settings(deadline=None)
@given(st.lists(updates, max_size=8, unique_by=lambda update: update.order))
def test_newest_keeps_each_senders_last(waiting: list[Update]) -> None:
    kept = newest(waiting)
    assert [update.header.sender for update in kept] == sorted({update.header.sender for update in waiting})
    for update, other in itertools.product(kept, waiting):
        assert update.header.sender != other.header.sender or update.order >= other.order
