from __future__ import annotations

from pathlib import Path

import pytest

from p2pftl.device.ingest import Intake
from tests.device.ct_headers import (
    CURRENT,
    DATE,
    EVENT,
    HOUR,
    KERNEL,
    KVP,
    NOW,
    SPEED,
    a_series,
    drop,
    event,
    image,
    report,
    save,
    source,
    states,
    take,
)  # fmt: skip
from tests.imaging.ct_file import text, uid


def test_beam_on_is_estimated_from_length_and_table_speed(tmp_path: Path) -> None:
    take(tmp_path / "out", a_series(tmp_path / "a", 11))
    state = states(tmp_path / "out")["siemens-1"]
    assert state.get("tube.scan_s") == pytest.approx((20 + 1.5) / 40)
    assert state.get("tube.mAs") == pytest.approx(200 * 21.5 / 40)
    assert state.leaf("tube.scan_s").quality == "derived"
    assert state.get("tube.source") == "header"
    assert state.get("config.dlp_mGy_cm") == pytest.approx(7.5 * 2.15)


def test_without_a_table_speed_the_times_of_the_slices_tell(tmp_path: Path) -> None:
    tags = {SPEED: None}
    files = [drop(tmp_path, f"{i}", image(i, z=2 * i, hour=f"1015{i:02d}", tags=tags)) for i in range(5)]
    take(tmp_path / "out", files)
    assert states(tmp_path / "out")["siemens-1"].get("tube.scan_s") == pytest.approx(5)


@pytest.mark.parametrize("tag", [KVP, CURRENT, SPEED])
def test_a_beam_on_with_a_missing_value_is_counted_and_never_zero(tmp_path: Path, tag: int) -> None:
    with Intake(tmp_path / "out") as intake:
        for path in a_series(tmp_path / "a", tags={tag: None}):
            intake.take(path, "a file", NOW)
        intake.settle(NOW)
        intake.commit()
        assert intake.ledger.tally() == {"image": 5, "no load": 1}
        assert intake.logs["siemens-1"].state.leaf("tube.scan_s").v is None


def test_reconstructions_of_one_scan_are_one_beam_on(tmp_path: Path) -> None:
    files = [
        path for series in range(4) for path in a_series(tmp_path / "a", series=series, tags={KERNEL: ("SH", text(f"B{series + 3}0f"))})
    ]
    files += a_series(tmp_path / "a", series=7, tags={0x00080008: ("CS", text("DERIVED\\SECONDARY\\MPR"))})
    take(tmp_path / "out", files)
    assert states(tmp_path / "out")["siemens-1"].get("tube.exposures") == 1


def test_reconstructions_without_times_are_one_beam_on_by_their_place(tmp_path: Path) -> None:
    tags = {DATE: None, HOUR: None}
    files = a_series(tmp_path / "a", series=1, tags=tags) + a_series(tmp_path / "a", series=2, tags=tags)
    files += [drop(tmp_path, f"x{i}", image(50 + i, series=3, z=500 + 2 * i, tags=tags)) for i in range(3)]
    take(tmp_path / "out", files)
    assert states(tmp_path / "out")["siemens-1"].get("tube.exposures") == 2


def test_series_with_one_event_uid_are_one_beam_on_and_with_two_are_two(tmp_path: Path) -> None:
    def shared(number: int) -> dict[int, object]:
        return {EVENT: ("UI", uid(f"1.2.9.{number}"))}

    files = a_series(tmp_path, series=1, tags=shared(1)) + a_series(tmp_path, series=2, hour="103000", tags=shared(1))
    files += a_series(tmp_path, series=3, tags=shared(2))
    take(tmp_path / "out", files)
    assert states(tmp_path / "out")["siemens-1"].get("tube.exposures") == 2


def test_a_reconstruction_that_comes_a_day_later_is_no_second_beam_on(tmp_path: Path) -> None:
    take(tmp_path / "out", a_series(tmp_path / "a"))
    take(tmp_path / "out", a_series(tmp_path / "b", series=2))
    assert states(tmp_path / "out")["siemens-1"].get("tube.exposures") == 1


@pytest.mark.parametrize("first", ["images", "report"])
def test_a_dose_report_takes_the_place_of_the_estimate(tmp_path: Path, first: str) -> None:
    files, dose = a_series(tmp_path / "a"), [save(report([event(), event("1.2.9.2", seconds=2)], begun="20240229101500"), tmp_path)]
    take(tmp_path / "out", files + dose if first == "images" else dose + files)
    state = states(tmp_path / "out")["siemens-1"]
    assert state.get("tube.exposures") == 2
    assert state.get("tube.scan_s") == 6
    assert state.leaf("tube.scan_s").quality == "measured"
    assert state.get("tube.source") == "rdsr"
    assert state.get("config.dlp_mGy_cm") == 280
    assert state.get("sync.gaps") == 0


def test_a_report_that_comes_after_the_estimate_was_told_is_not_counted_twice(tmp_path: Path) -> None:
    take(tmp_path / "out", a_series(tmp_path / "a"))
    with Intake(tmp_path / "out") as intake:
        intake.take(save(report([event()]), tmp_path), "a file", NOW)
        intake.settle(NOW)
        intake.commit()
        assert intake.ledger.tally()["late"] == 1
        assert intake.logs["siemens-1"].state.get("tube.exposures") == 1


def test_a_report_that_repeats_earlier_events_adds_the_new_ones_only(tmp_path: Path) -> None:
    one = save(report([event()]), tmp_path, "1.dcm")
    two = save(report([event(), event("1.2.9.2", seconds=3)], instance="1.2.8.2"), tmp_path, "2.dcm")
    take(tmp_path / "out", [one, two])
    state = states(tmp_path / "out")["siemens-1"]
    assert (state.get("tube.exposures"), state.get("tube.scan_s")) == (2, 7)


def test_a_scanner_with_two_sources_says_so_and_its_first_tube_wears(tmp_path: Path) -> None:
    take(tmp_path / "out", [save(report([event(sources=[source("A", 140, 80), source("B", 80, 300)])]), tmp_path)])
    state = states(tmp_path / "out")["siemens-1"]
    assert state.get("attributes.tube.sources") == 2
    assert state.get("tube.mAs") == 80 * 4


def test_events_missing_in_a_report_are_gaps(tmp_path: Path) -> None:
    take(tmp_path / "out", [save(report([event()], total=4), tmp_path)])
    assert states(tmp_path / "out")["siemens-1"].get("sync.gaps") == 3
