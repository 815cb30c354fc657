"""A run with scanners behind its twins, from the scenario to the pages: the same phantoms as all other runs of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from p2pftl import events as facts
from p2pftl.cli import app
from p2pftl.device.show import SUFFIX, opened
from p2pftl.observe.history import fold
from p2pftl.observe.record import read
from tests.observe.test_report import sound
from tests.runs import STORM, Ran, here, written


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> Ran:
    """Three twins; ct-01's CT numbers step by 9 HU, so its next phantom fails; ct-02's process is killed and comes back."""
    place = tmp_path_factory.mktemp("device")
    incidents = [
        {"kind": "crash", "twin": "ct-02", "at": 40.0, "revive_after": 5.0},
        {"kind": "hu_drift", "twin": "ct-01", "day": 2, "rate": 9.0},
    ]
    scenario = written(
        place, data={**STORM["data"], "cache": str(phantoms)}, incidents=incidents, rounds=8, device={"day_s": 10},
        arrivals={"rate": 360.0}, fit={**STORM["fit"], "seconds_per_sample": 0.5}, cloud=None, control=None, links=None,
        pace={"use": "synchronous"}, models="trained",
    )  # fmt: skip
    return here(scenario, out=place / "run")


def test_every_log_is_whole_and_is_the_log_that_the_events_tell(ran: Ran) -> None:
    assert ran.code == 0
    for name in ("ct-01", "ct-02", "ct-03"):
        told = {entry["n"]: entry["hash"] for event in ran.of(facts.DeviceLogged, name) for entry in event.entries}
        log = opened(ran.folder, name)
        assert [entry.hash for entry in log.entries] == [told[n] for n in range(len(told))]
    assert CliRunner().invoke(app, ["twin", "verify", str(ran.folder)]).stdout.count("entries hold") == 3


def test_the_quarantine_is_on_the_screen_on_the_page_and_in_the_log(ran: Ran) -> None:
    assert "! the scanner of ct-01 is quarantined" in ran.out
    assert "! ct-01 withholds its updates" in ran.out
    sound(ran.page)
    page = sound((ran.folder / "twins" / "ct-01.html").read_text(encoding="utf-8"))
    history = fold(read(ran.folder / "events.msgpack"))
    (window,) = history.devices["ct-01"].windows.values()
    state = opened(ran.folder, "ct-01").state
    assert dict(state.quarantine[0])["since"] == window.since
    assert "was quarantined once" in page
    assert "It withheld its update in round" in page
    assert "before and after, and what changed" in page


def test_the_page_names_the_rounds_that_cannot_be_recalled(ran: Ran) -> None:
    history = fold(read(ran.folder / "events.msgpack"))
    (window,) = history.devices["ct-01"].windows.values()
    merged = [event for event in ran.of(facts.Merged) if "ct-01" in event.weights and window.since <= event.t < (window.until or 1e9)]
    page = (ran.folder / "twins" / "ct-01.html").read_text(encoding="utf-8")
    table = page.partition("Cannot be recalled")[2].partition("</table>")[0]
    assert set(re.findall(r"<td>(ct-\d\d)</td>", table)) == {event.twin for event in merged}
    withheld = {event.round for event in ran.of(facts.UpdateWithheld, "ct-01")}
    assert not withheld & {event.round for event in merged}, "what was withheld was merged by nobody"


def test_the_report_is_written_again_from_the_events_alone(ran: Ran) -> None:
    before = {path.name: path.read_bytes() for path in (ran.folder / "twins").iterdir()}
    for path in (ran.folder / "twins").glob("*.html"):
        path.unlink()
    assert CliRunner().invoke(app, ["report", str(ran.folder)]).exit_code == 0
    after = {path.name: path.read_bytes() for path in (ran.folder / "twins").iterdir()}
    assert after == before
    assert sum(name.endswith(SUFFIX) for name in after) == 3


def test_what_if_asks_the_final_model_of_the_run(ran: Ran) -> None:
    result = CliRunner().invoke(app, ["twin", "whatif", str(ran.folder), "ct-02", "--dose", "0.2"])
    assert result.exit_code == 0
    assert "final model" in result.stdout
