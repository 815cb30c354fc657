"""The live view and the replay."""

import io
import re

import pytest
from rich.console import Console

from p2pftl.errors import CheckpointError
from p2pftl.observe.live import Live, replay, view
from p2pftl.observe.plain import Plain, Quiet
from tests.observe.staged import save, staged


def terminal(width=120, height=40, **options):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, legacy_windows=False, **options)


def screen(live, width, height):
    """The lines of one frame, as a terminal of that size would hold them."""
    console = terminal(width, height, color_system=None)
    console.print(live.draw(width, height))
    return console.file.getvalue().rstrip("\n").split("\n")


def fed(until=None, **options):
    live = Live(terminal(), now=lambda: 0.0)
    for event in staged(**options):
        if until is not None and event.t > until:
            break
        live(event)
    return live


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
@pytest.mark.parametrize("until", [0.0, 30.0, 99.0, None])
def test_every_frame_fits_the_terminal(width, height, until):
    live = fed(until)
    live.dashboard("http://127.0.0.1:8265")
    lines = screen(live, width, height)
    assert len(lines) <= height - 1
    assert max(map(len, lines)) <= width


def test_one_row_per_twin_says_all_that_is_known_of_it():
    lines = screen(fed(99.0), 120, 40)
    row = next(line for line in lines if line.startswith(" ct-01"))
    assert re.search(r"SIEMENS bone 1x +● fitting +8/12 +0\.618 +0\.792 [▁▂▃▄▅▆▇█]+ +ct-02 08 +868 kB +0\.20 s", row)
    assert any("▼ down" in line and "PHILIPS" in line for line in lines)
    assert any("#2" in line for line in lines)
    assert any(line.startswith(" cloud") and "fedavg every 4" in line for line in lines)
    assert any("the process of ct-05 is killed" in line for line in lines)
    assert "synthetic data" in lines[0]


def test_eighty_columns_shorten_the_vendor_and_cut_no_number():
    lines = screen(fed(99.0), 80, 24)
    table = [line for line in lines if re.match(r" (ct-\d|cloud)", line)]
    assert len(table) == 9
    assert not any("…" in line for line in table)
    assert "PHI standard 0.25x" in "\n".join(table)


def test_a_thousand_twins_show_the_weakest_and_count_the_rest():
    live = fed(20.0, twins=1000, rounds=2)
    lines = screen(live, 100, 30)
    assert len(lines) <= 29
    shown = [line for line in lines if line.startswith(" ct-")]
    assert any(f"and {1000 - len(shown)} more" in line for line in lines)
    assert any("ct-1000" in line for line in shown), "a twin that has not joined yet is of interest"


def test_what_is_waited_for_is_said_before_the_first_event():
    live = Live(terminal(), now=lambda: 0.0)
    live.progress("studies", 12, 96)
    live.status("starting Ray")
    text = "\n".join(screen(live, 80, 24))
    assert "starting Ray  studies 12/96" in text
    live.progress("studies", 96, 96)
    assert "studies" not in "\n".join(screen(live, 80, 24))
    planned, *later = staged()
    live(planned)
    assert "starting" in "\n".join(screen(live, 80, 24)), "after the plan the actors still have to start"
    live(later[0])
    assert "starting" not in "\n".join(screen(live, 80, 24))


def test_the_screen_is_drawn_from_its_own_thread_while_events_come():
    console = terminal()
    with Live(console) as live:
        for event in staged():
            live(event)
    text = console.file.getvalue()
    assert "quickstart" in text
    assert "test accuracy" in text
    assert "Traceback" not in text


def test_a_replay_ends_in_the_same_state_as_the_run(tmp_path):
    run = save(tmp_path / "run", rounds=3)
    first, second = fed(rounds=3), Live(terminal(), now=lambda: 0.0)
    replay(run, speed=0, screen=second)
    assert screen(second, 120, 40) == screen(first, 120, 40)


def test_a_replay_keeps_the_recorded_pace_times_its_speed(tmp_path):
    from p2pftl.observe.record import Record

    ticks = iter(range(1000))
    with Record(tmp_path / "events.msgpack", clock=lambda: float(next(ticks))) as sink:
        for event in staged()[:5]:
            sink(event)
    for speed, whole in ((None, 5.0), (2.0, 2.5), (0.0, 0.0)):
        slept = []
        replay(tmp_path, speed, Quiet(io.StringIO()), sleep=slept.append)
        assert max(slept, default=0.0) == pytest.approx(whole, abs=0.2)


def test_a_replay_of_nothing_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="E501"):
        replay(tmp_path / "nothing", 0, Quiet())


def test_the_view_that_fits_is_chosen():
    assert isinstance(view(quiet=True), Quiet)
    assert isinstance(view(console=Console(file=io.StringIO())), Plain)
    assert isinstance(view(console=terminal(40, 20)), Plain)


def test_names_with_markup_are_shown_as_they_are():
    from p2pftl import events as fact

    live = Live(terminal(), now=lambda: 0.0)
    live(fact.RunPlanned(t=0.0, name="[bold]x[/bold]", seed=1, rounds=1, classes=(), synthetic=False, facts={"twins": {"[red]": {}}}))
    live(fact.IncidentBegan(t=1.0, twin="[red]", kind="outage", text="[link=x]off[/link]"))
    text = "\n".join(screen(live, 100, 20))
    assert "[bold]x[/bold]" in text
    assert "[red]" in text
    assert "[link=x]off[/link]" in text
