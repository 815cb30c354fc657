"""The fold that the live view, the plain lines and the summary share."""

import random
import subprocess
import sys
import time

import pytest

from p2pftl import events as fact
from p2pftl.observe.board import Board
from p2pftl.observe.units import clock, figure, scanner, seconds, signed, size
from tests.observe.staged import FRAME, staged


def folded(stream):
    board = Board()
    for event in stream:
        board.feed(event)
    return board


def test_bytes_and_frames_are_those_that_were_sent():
    stream = staged()
    sent = [event for event in stream if isinstance(event, fact.FrameSent)]
    board = folded(stream)
    assert board.bytes == FRAME * len(sent) == sum(row.sent for row in board.everyone())
    assert board.lost == sum(event.arrives is None for event in sent)


def test_progress_never_falls_and_ends_at_one():
    board, last = Board(), 0.0
    for event in staged():
        board.feed(event)
        assert last <= board.progress <= 1.0 + 1e-12
        last = board.progress
    assert last == 1.0
    assert board.mean_round == board.rounds == 12


def test_rounds_counted_from_zero_and_from_one_look_the_same():
    one = [fact.RunPlanned(t=0.0, name="x", seed=1, rounds=2, classes=(), synthetic=False, facts={"twins": {"a": {}}})]
    shown = []
    for base in (0, 1):
        done = [fact.FitStarted(t=1.0, twin="a", round=base, until=2.0), fact.RoundDone(t=2.0, twin="a", round=base, bytes_sent=0, heard=0)]
        shown.append(folded(one + done).rows["a"].round)
    assert shown == [1, 1]


def test_any_part_of_a_stream_in_any_order_is_folded_without_an_error():
    stream = staged(lost=True)
    for seed in range(25):
        chance = random.Random(seed)
        some = chance.sample(stream, chance.randrange(len(stream)))
        board = folded(some)
        assert 0.0 <= board.progress <= 1.0


def test_states_follow_outage_crash_revival_and_end():
    seen = {"ct-03": [], "ct-05": [], "ct-08": [], "cloud": []}
    board = Board()
    for event in staged():
        board.feed(event)
        for name, states in seen.items():
            row = board.cloud if name == "cloud" else board.rows.get(name)
            if row is not None and (not states or states[-1] != row.state):
                states.append(row.state)
    assert "down" in seen["ct-03"]
    assert seen["ct-03"][-1] == "done"
    assert "crashed" in seen["ct-05"]
    assert board.rows["ct-05"].incarnation == 2
    assert seen["ct-08"][0] == "not yet"
    assert seen["ct-08"][-1] == "done"
    assert "down" in seen["cloud"]
    assert seen["cloud"][-1] != "down"


def test_only_what_nobody_scripted_degrades_a_run():
    assert not folded(staged()).degraded
    assert folded(staged(lost=True)).degraded


def planned(*incidents):
    return fact.RunPlanned(
        t=0.0, name="x", seed=1, rounds=3, classes=(), synthetic=False,
        facts={"twins": {"a": {}, "b": {}, "c": {}}, "cloud": {"use": "fedavg"}, "incidents": incidents},
    )  # fmt: skip


def test_an_incident_befalls_all_whom_the_plan_names():
    text = "The link a - b is cut from 1 s to 2 s."
    plan = planned({"kind": "cut_link", "twins": ("a", "b"), "at": 1.0, "until": 2.0, "text": text})
    began = fact.IncidentBegan(t=1.0, twin="a", kind="cut_link", text=text)
    assert folded([plan]).touched(began) == ("a", "b")
    assert folded([]).touched(began) == ("a",)


@pytest.mark.parametrize(
    ("kind", "twins", "said"),
    [
        ("outage", ("a",), "a is back"), ("outage", ("cloud",), "the cloud is back"),
        ("cut_link", ("a", "b"), "the link a - b is as before"),
        ("partition", ("a", "b", "c"), "the network is whole again"), ("hu_drift", ("a",), "over: it drifts"),
    ],
)  # fmt: skip
def test_the_end_of_an_incident_does_not_repeat_its_beginning(kind, twins, said):
    plan = planned({"kind": kind, "twins": twins, "at": 1.0, "until": 2.0, "text": "it drifts"})
    events = [cls(t=t, twin=twins[0], kind=kind, text="it drifts") for t, cls in ((1.0, fact.IncidentBegan), (2.0, fact.IncidentEnded))]
    assert [note.text for note in folded([plan, *events]).notes] == ["it drifts", said]


def test_a_twin_that_left_is_through_with_its_rounds():
    board = folded(
        [planned(), fact.IncidentBegan(t=1.0, twin="a", kind="leave", text="a leaves"), fact.TwinDone(t=2.0, twin="a", rounds=1, model="")]
    )
    assert board.rows["a"].state == "left"
    assert board.progress == pytest.approx(1 / 3)


def test_the_cloud_is_no_twin_and_counts_for_no_progress():
    board = folded([planned(), fact.CloudMerged(t=1.0, twin="cloud", round=2, twins=("a",), samples=3)])
    board.feed(fact.IncidentBegan(t=1.0, twin="cloud", kind="outage", text="off"))
    assert board.progress == 0.0
    assert set(board.rows) == {"a", "b", "c"}


def test_a_fit_that_was_thrown_away_is_noted():
    board = folded([planned(), *(fact.FitRejected(t=1.0, twin="a", round=k, reason="not finite") for k in range(3))])
    assert [(note.text, note.count) for note in board.notes] == [("a fit of a was thrown away: not finite", 3)]


def test_repeated_notes_are_counted_not_repeated():
    board = Board()
    for i in range(5):
        board.feed(fact.CloudMissed(t=float(i), twin=f"ct-0{i}", round=4))
    assert [note.count for note in board.notes] == [5]


def test_an_event_costs_far_less_than_fifty_microseconds():
    stream = staged(twins=40)
    start = time.perf_counter()
    folded(stream)
    assert (time.perf_counter() - start) / len(stream) < 50e-6


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (size(0), "0 B"), (size(999), "999 B"), (size(999.7), "1.00 kB"), (size(48_200), "48.2 kB"), (size(9_996), "10.0 kB"),
        (size(3.2e6), "3.20 MB"), (size(999_600), "1.00 MB"), (size(5e15), "5000 TB"),
        (seconds(0.25), "0.25 s"), (seconds(154.21), "154.2 s"), (seconds(12_340), "12,340 s"), (seconds(None), "-"),
        (clock(42), "0:42"), (clock(3723), "1:02:03"), (clock(None), "-:--"), (clock(float("inf")), "-:--"),
        (figure(None), "-"), (figure(float("nan")), "-"), (figure(0.7131), "0.713"), (signed(0.1), "+0.100"), (signed(-0.1), "-0.100"),
        (scanner({"vendor": "GE", "kernel": "bone", "dose": 0.5}), "GE bone 0.5x"), (scanner(None), ""), (scanner({}), ""),
    ],
)  # fmt: skip
def test_numbers_are_written_with_their_units(shown, expected):
    assert shown == expected


def test_nothing_but_the_live_view_loads_rich_and_nothing_loads_ray():
    names = [
        "board",
        "history",
        "record",
        "plain",
        "summary",
        "report",
        "metrics",
        "story",
        "sections",
        "scenes",
        "charts",
        "markup",
        "units",
    ]
    code = "import sys;" + ";".join(f"import p2pftl.observe.{name}" for name in names)
    code += ";print(sorted({'ray','rich','torch','pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_cloud_that_parts_the_twins_says_so_once_and_one_that_never_does_says_nothing():
    def answered(*groups):
        stream = [
            fact.CloudMerged(t=float(at), twin="cloud", round=at, twins=("a", "b"), samples=3, groups=now) for at, now in enumerate(groups)
        ]
        return folded([planned(), *stream])

    whole, parted = (("a", "b"),), (("a",), ("b",))
    assert not [note for note in answered(whole, whole).notes if "model" in note.text]
    board = answered(whole, parted, parted)
    assert [note.text for note in board.notes if "model" in note.text] == ["the cloud keeps 2 models now: a; b"]
    assert board.groups == parted
