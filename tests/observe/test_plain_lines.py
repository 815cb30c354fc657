"""What is said where there is no terminal."""

import io
import re

from p2pftl.observe.plain import Plain, Quiet
from tests.observe.staged import staged


def said(view, stream, **options):
    with view:
        for event in staged(**options):
            view(event)
    return stream.getvalue().splitlines()


def test_one_line_per_round_of_the_swarm_and_one_per_incident():
    stream = io.StringIO()
    lines = said(Plain(stream, now=lambda: 0.0), stream)
    rounds = [int(found[1]) for line in lines if (found := re.match(r"\[.*\] round (\d+)/12: accuracy 0\.\d+", line))]
    assert rounds == list(range(1, 13))
    assert "8 twins on ring, 12 rounds, with a cloud, seed 7, synthetic data" in lines[0]
    for text in ("the cloud is down", "ct-03 is switched off", "ct-05 is back as incarnation 2", "ct-08 joins late", "E415"):
        assert sum(text in line for line in lines) >= 1
    assert lines[-1].startswith("done at ")
    assert len(lines) < 45


def test_lines_are_ascii_and_no_longer_than_a_log_can_bear():
    stream = io.StringIO()
    lines = said(Plain(stream), stream, lost=True)
    assert all(line.isascii() for line in lines)
    assert max(map(len, lines)) <= 150


def test_progress_is_said_in_quarters():
    stream = io.StringIO()
    view = Plain(stream)
    view.status("starting Ray")
    for done in range(97):
        view.progress("studies", done, 96)
    view.progress("studies", 0, 0)
    assert stream.getvalue().splitlines()[1:] == [f"studies {n}/96" for n in (24, 48, 72, 96)]


def test_a_long_run_of_many_twins_has_a_line_per_round_not_per_twin():
    stream = io.StringIO()
    lines = said(Plain(stream), stream, twins=60, rounds=6)
    assert sum(" round " in line for line in lines) <= 7


def test_quiet_says_nothing_unless_something_real_is_lost():
    stream = io.StringIO()
    assert said(Quiet(stream), stream) == []
    assert said(Quiet(stream), stream, lost=True) == [
        "ct-01's process died, not scripted",
        "ct-01 did not come back: its process died twice",
    ]


def test_interrupted_runs_release_what_was_held_back():
    stream = io.StringIO()
    with Plain(stream) as view:
        for event in staged():
            if event.t > 80.0:
                break
            view(event)
    assert "no answer from the cloud" in stream.getvalue()
