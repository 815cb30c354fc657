"""Scanners in the live view, the plain lines and the report's pages."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from p2pftl import events as fact
from p2pftl.events import Event
from p2pftl.observe import record, report
from p2pftl.observe.board import Board
from p2pftl.observe.chronicle import Chronicle, Window
from p2pftl.observe.history import Given, fold
from p2pftl.observe.live import Live
from p2pftl.observe.logbook import DeviceLogs
from p2pftl.observe.pages import rounds, unrecalled
from p2pftl.observe.plain import Plain
from tests.observe.devices import DAY_S, HISTORY, watched
from tests.observe.staged import png, staged
from tests.observe.test_live_view import screen, terminal
from tests.observe.test_report import sound


@pytest.fixture(scope="module")
def stream() -> list[Event]:
    return watched(twins=3, rounds=4, exchange=True)


@pytest.fixture(scope="module")
def run(stream: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    logs = DeviceLogs(folder / "twins")
    with record.Record(folder / "events.msgpack") as sink:
        for event in stream:
            sink(event)
            logs(event)
    (folder / "previews").mkdir()
    for name in ("ct-02", "ct-02-hu_drift", "ct-02-ring-2", "ct-02-x"):
        (folder / "previews" / f"{name}.png").write_bytes(png(96, 64))
    report.write(folder)
    return folder


def changed(lifecycle: str, quality: float, t: float = 1.0, **health: float | None) -> fact.DeviceChanged:
    return fact.DeviceChanged(t=t, twin="ct-01", lifecycle=lifecycle, quality=quality, status="pass", reason="so", health=health)


def test_the_fleet_knows_what_devices_told_last(stream: list[Event]) -> None:
    board = Board()
    for event in stream:
        board.feed(event)
    fleet = board.fleet
    assert fleet.scanners.keys() == {"ct-01", "ct-02", "ct-03"}
    second = fleet.scanners["ct-02"]
    arrivals = [event for event in stream if isinstance(event, fact.StudiesArrived)]
    assert fleet.arrived == sum(event.images for event in arrivals)
    assert second.held == [event.held for event in arrivals if event.twin == "ct-02"][-1]
    assert second.lowest == min(value for value in second.health.values() if value is not None)
    assert second.left_out == 4
    assert {"active", "quarantined"} <= {event.lifecycle for event in stream if isinstance(event, fact.DeviceChanged)}


def test_the_ticker_tells_changes_once_and_arrivals_never() -> None:
    board = Board()
    board.feed(changed("active", 1.0, 0.0))
    for number in range(5):
        board.feed(fact.StudiesArrived(t=0.5, twin="ct-01", images=2, held=10 + 2 * number))
    assert not board.notes
    board.feed(changed("quarantined", 0.0))
    board.feed(changed("quarantined", 0.0, 1.5))
    board.feed(fact.StudiesWithdrawn(t=2.0, twin="ct-01", images=3, since=1.0, until=None, reason="drift"))
    for number in range(3, 9):
        board.feed(fact.UpdateWithheld(t=2.0 + number, twin="ct-01", round=number, reason="quarantined"))
    board.feed(fact.StudiesWithdrawn(t=20.0, twin="ct-01", images=0, since=1.0, until=19.0, reason="drift"))
    board.feed(fact.UpdateWithheld(t=30.0, twin="ct-01", round=20, reason="quarantined"))
    board.feed(fact.Adapting(t=31.0, twin="ct-01", round=21, reason="noise changed"))
    board.feed(fact.Adapting(t=32.0, twin="ct-01", round=22, reason="noise changed"))
    told = [note.text for note in board.notes]
    assert [text.split(" ct-01")[0] for text in told if "scanner" in text] == ["the scanner of", "what the scanner of"]
    assert sum("withholds" in text for text in told) == 2
    assert sum("adapts" in text for text in told) == 1
    assert len(told) == 6


def test_what_a_revived_twin_tells_again_is_counted_once() -> None:
    def life(board: Board, first: int, rounds: int) -> None:
        for number in range(first, rounds):
            board.feed(fact.StudiesArrived(t=1.0 + number, twin="ct-01", images=2, held=9))
            board.feed(fact.StudiesWithdrawn(t=1.0 + number, twin="ct-01", images=1, since=0.0, until=None, reason="drift"))
            board.feed(fact.UpdateWithheld(t=1.0 + number, twin="ct-01", round=number, reason="quarantined"))
            board.feed(fact.RoundDone(t=1.5 + number, twin="ct-01", round=number, bytes_sent=0, heard=0))

    def counts(board: Board) -> tuple[int, ...]:
        known = board.fleet.scanners["ct-01"]
        return board.fleet.arrived, known.arrived, known.left_out, known.withheld

    calm, struck = Board(), Board()
    life(calm, 0, 6)
    life(struck, 0, 4)
    struck.feed(fact.StudiesArrived(t=5.1, twin="ct-01", images=2, held=9))
    struck.feed(fact.Revived(t=6.0, twin="ct-01", incarnation=2, round=2))
    life(struck, 2, 6)
    assert counts(calm) == counts(struck) == (12, 12, 6, 6)


def test_the_ticker_tells_a_missing_phantom_and_who_counts_half() -> None:
    board = Board()
    for quality, status in ((1.0, "pass"), (0.5, "stale"), (1.0, "pass"), (0.5, "pass"), (0.5, "pass"), (1.0, "pass")):
        board.feed(replace(changed("baseline", quality), status=status))
    assert [note.text for note in board.notes] == [
        "no phantom of ct-01 for too long: it counts half",
        "ct-01 counts in full again",
        "ct-01 counts half: so",
        "ct-01 counts in full again",
    ]


def test_what_has_no_end_is_not_said_to_be_over() -> None:
    board = Board()
    for kind in ("tube_failure", "hu_drift"):
        board.feed(fact.IncidentBegan(t=1.0, twin="ct-01", kind=kind, text=f"a {kind}"))
        board.feed(fact.IncidentEnded(t=1.0, twin="ct-01", kind=kind, text=f"a {kind}"))
    assert [note.text for note in board.notes] == ["a tube_failure", "a hu_drift", "over: a hu_drift"]


@pytest.mark.parametrize("width", [60, 72, 80, 100, 120, 140, 200])
def test_health_and_lifecycle_fit_the_terminal_and_are_read_without_colour(stream: list[Event], width: int) -> None:
    live = Live(terminal(), now=lambda: 0.0)
    for event in stream:
        if event.t > 82.0:
            break
        live(event)
    lines = screen(live, width, 30)
    assert all(Console(width=400).measure(line).maximum <= width for line in lines)
    table = [line for line in lines if re.match(r" ct-0", line)]
    assert any("active" in line for line in table)
    assert any(re.search("QUARANT|service|verify", line) for line in table if "ct-02" in line)
    assert all("…" not in line for line in table)
    assert all(re.search("[▁▂▃▄▅▆▇█]{5}" if width >= 110 else "[▁▂▃▄▅▆▇█]", line) for line in table)


def test_a_part_of_health_that_is_not_known_is_a_question_mark() -> None:
    live = Live(terminal(), now=lambda: 0.0)
    live(changed("baseline", 1.0, 0.0, calibration=1.0, noise=None, uniformity=0.4, tube=0.0, data_freshness=1.0))
    assert "baseline █?▄▁█" in "\n".join(screen(live, 140, 20))


def test_without_devices_nothing_looks_different() -> None:
    live = Live(terminal(), now=lambda: 0.0)
    for event in staged(rounds=2):
        live(event)
    assert not live.board.fleet.known
    assert " device " not in "\n".join(screen(live, 140, 40))


def test_plain_lines_count_scanners_that_are_out_of_order(stream: list[Event]) -> None:
    out = io.StringIO()
    with Plain(out, now=lambda: 0.0) as view:
        for event in stream:
            view(event)
    text = out.getvalue()
    assert "! the scanner of ct-02 is quarantined" in text
    assert "+ the scanner of ct-02 is active again" in text
    assert "new images" in text
    assert text.isascii()
    assert len(text.splitlines()) < 40


def test_a_page_per_twin_lies_beside_a_light_report(run: Path) -> None:
    main = sound((run / "report.html").read_text(encoding="utf-8"))
    assert len(main) < 300_000
    for name in ("ct-01", "ct-02", "ct-03"):
        assert f'href="twins/{name}.html"' in main
        page = sound((run / "twins" / f"{name}.html").read_text(encoding="utf-8"))
        assert len(page) < 300_000
        assert "synthetic data" in page
        for words in ("Water, HU", "CUSUM", "EWMA", "Uniformity", "Ring index", "Remaining tube life", "Training images", "../report.html"):
            assert words in page


def test_the_page_of_a_drifting_scanner_tells_its_story(run: Path) -> None:
    page = (run / "twins" / "ct-02.html").read_text(encoding="utf-8")
    for words in (
        "quarantined once",
        "hu drift: rate 0.5",
        "HU above baseline, confirmed",
        "water cal by service",
        "images left out",
        "h = 6",
    ):
        assert words in page
    assert 'class="alarm"' in page
    assert page.count("data:image/png;base64,") == 3, "its own slices, and those of incidents only"
    quiet = (run / "twins" / "ct-03.html").read_text(encoding="utf-8")
    assert "was never quarantined" in quiet
    assert "hu drift" not in quiet


def test_days_count_from_the_installation(stream: list[Event]) -> None:
    device = fold((0.0, event) for event in stream).devices["ct-02"]
    assert device.began == HISTORY
    assert device.day(10 * DAY_S) == HISTORY + 10
    assert [device.day(t) for t, text in device.happened if text.startswith("hu drift")] == [HISTORY + 35]
    assert len(device.mornings) == len({one.t for one in device.mornings})


def test_entries_told_again_by_a_revived_twin_count_once(stream: list[Event]) -> None:
    once, again = Chronicle(DAY_S), Chronicle(DAY_S)
    logged = [event for event in stream if isinstance(event, fact.DeviceLogged) and event.twin == "ct-02"]
    for event in logged:
        once.feed(event)
    for event in [*logged[:9], *logged[4:], *logged]:
        again.feed(event)
    assert once == again


def test_a_tubes_highest_heat_is_drawn_where_a_log_notes_it() -> None:
    device = Chronicle(1.0)
    for day in range(3):
        values = {"tube.heat_peak": 0.5 + 0.1 * day, "health.reason": "good"}
        entry = {"n": day, "t": float(day), "kind": "observed", "source": "sim", "data": {"values": values}, "previous": "", "hash": ""}
        device.feed(fact.DeviceLogged(t=float(day), twin="a", entries=(entry,)))
    assert [one.heat for one in device.evenings] == pytest.approx([0.5, 0.6, 0.7])


def test_only_merges_inside_the_window_cannot_be_recalled() -> None:
    given = [Given(t, by, number, weight) for number, (t, by, weight) in enumerate(
        [(1.0, "b", 0.3), (5.0, "b", 0.3), (6.0, "c", 0.3), (6.5, "d", 0.0), (7.0, "b", 0.3), (9.0, "c", 0.3), (6.0, "cloud", 0.3)]
    )]  # fmt: skip
    assert unrecalled(Window(4.0, 8.0, 9.0, "drift"), given) == {"b": [1, 4], "c": [2]}
    assert unrecalled(Window(4.0, 8.0, None, "drift"), given) == {"b": [1, 4], "c": [2, 5]}


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([4], "round 4"), ([5, 4], "rounds 4, 5"), ([1, 2, 3, 7], "rounds 1 to 3 and 7"), ([1, 3, 5], "rounds 1, 3 and 5")],
)
def test_rounds_are_said_in_runs(numbers: list[int], text: str) -> None:
    assert rounds(numbers) == text


def test_names_from_elsewhere_make_no_file_and_break_no_page(tmp_path: Path) -> None:
    evil = "../<b>x"
    entry = {"n": 0, "t": 0.0, "kind": "created", "source": "sim", "data": {"name": evil}, "previous": "", "hash": ""}
    with record.Record(tmp_path / "run" / "events.msgpack") as sink:
        sink(fact.DeviceLogged(t=0.0, twin=evil, entries=(entry,)))
        sink(fact.DeviceChanged(t=0.0, twin=evil, lifecycle=evil, quality=1.0, status=evil, reason=evil, health={evil: 1.0}))
    text = sound(report.write(tmp_path / "run").read_text(encoding="utf-8"))
    assert "<b>x" not in text
    assert not list(tmp_path.glob("*.html"))
