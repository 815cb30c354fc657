"""Water phantoms that arrive in a watched folder: measured, judged study by study, and their twin goes where they lead."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from p2pftl.device import water
from p2pftl.device.headers import Site
from p2pftl.device.ingest import Intake
from p2pftl.device.lifecycle import quality
from p2pftl.device.log import DeviceLog, load
from p2pftl.device.phantoms import judge
from p2pftl.device.protocol import Protocol
from p2pftl.device.qa import QaPolicy
from p2pftl.device.service import serviced
from p2pftl.device.show import SUFFIX
from p2pftl.device.state import State
from p2pftl.device.supplied import measure
from p2pftl.device.tube import DAY
from p2pftl.device.watch import totals, watch
from p2pftl.draw import draw
from p2pftl.errors import CheckpointError, UsageError
from p2pftl.imaging.condition import Condition
from p2pftl.imaging.dicom_write import Study, ct_slice
from tests.device.ct_headers import a_series, drop, image
from tests.imaging.ct_file import SECRET, text

FIRST = date(2024, 2, 1)
PROTOCOL = Protocol(size=128)  # coarse and fast: what is measured in a phantom is tested elsewhere
QUICK = replace(QaPolicy(), charts=replace(QaPolicy().charts, days=3, threshold=4.0))


def phantom(
    folder: Path, day: int, offset: float = 0.0, *, hour: int = 7, marked: bool = True, slices: int = 1, **change: Any
) -> list[Path]:
    """A study of the water phantom on `day`, as a SIEMENS scanner writes it."""
    protocol = replace(PROTOCOL, **change)
    seen = water.scan(protocol, draw(1, day, hour), Condition(offset=offset), images=slices)
    study = Study("WATER", ("phantom", day, hour, str(protocol)), "O", 0, "water phantom")
    paths = []
    for number, hu in enumerate(seen, 1):
        data = ct_slice(hu, protocol.scanner, study, number, 5.0 * number, protocol.pixel_mm, quality_control=marked)
        data.PatientID, data.ProtocolName = f"{SECRET} QA", f"{SECRET} daily check"
        for what in ("Study", "Series", "Acquisition", "Content"):
            setattr(data, f"{what}Date", f"{FIRST + timedelta(days=day):%Y%m%d}")
            setattr(data, f"{what}Time", f"{hour:02}0000")
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{SECRET}-{protocol.kernel}-{day}-{hour}-{number}.dcm")
        data.save_as(paths[-1], enforce_file_format=True)
    return paths


def took(out: Path, paths: list[Path], now: float, site: Site | None = None) -> State:
    """The state after these files came, were found complete and were judged."""
    with Intake(out, site or Site()) as intake:
        for path in paths:
            intake.take(path, "a file", now)
        intake.settle(now)
        intake.commit()
        judge(intake, now, policy=QUICK)
        intake.commit()
        return intake.logs["siemens-1"].state


def at(day: float) -> float:
    return (FIRST - date(1970, 1, 1)).days * DAY + day * DAY


def test_phantoms_that_arrive_lead_their_twin_through_its_life(tmp_path: Path) -> None:
    for day in range(4):
        state = took(tmp_path / "out", phantom(tmp_path / "in", day), at(day + 0.3))
    assert state.lifecycle == "active"
    assert state.get("qa.baseline.n") == 3
    assert state.get("qa.last.t") == at(3) + 7 * 3600
    assert state.get("qa.last.sd_expected") == pytest.approx(water.expected_sd(PROTOCOL), rel=0.01)
    assert abs(state.get("sync.noise_residual_pct")) < 15
    assert quality(state) == 1
    state = took(tmp_path / "out", phantom(tmp_path / "in", 4, offset=9.0), at(4.3))
    assert state.lifecycle == "quarantined"
    assert state.quarantine[0]["since"] == at(3) + 7 * 3600  # from the last phantom that passed
    assert quality(state) == 0
    assert load(tmp_path / "out" / f"siemens-1{SUFFIX}").state == state


def test_a_study_counts_once_with_the_median_of_its_images_and_only_once(tmp_path: Path) -> None:
    paths = phantom(tmp_path / "in", 0, slices=3) + phantom(tmp_path / "in", 1, slices=2)
    assert took(tmp_path / "out", paths, at(1.5)).get("qa.baseline.n") == 2
    again = took(tmp_path / "out", paths, at(1.6))
    assert again.get("qa.baseline.n") == 2
    assert again.get("sync.duplicates") == 5


def test_the_order_in_which_phantoms_come_makes_no_difference_while_none_is_judged(tmp_path: Path) -> None:
    paths = [path for day in range(5) for path in phantom(tmp_path / "in", day, 3.0 if day > 2 else 0.0)]
    one, other = (took(tmp_path / name, order, at(6)) for name, order in (("a", paths), ("b", paths[::-1])))
    assert {path: leaf.v for path, leaf in one.leaves.items() if path.startswith("qa.")} == {
        path: leaf.v for path, leaf in other.leaves.items() if path.startswith("qa.")
    }


@pytest.mark.parametrize(("second", "state", "status"), [(0.0, "active", "pass"), (4.0, "quarantined", "fail"), (None, "warn", "warn")])
def test_a_second_phantom_of_the_same_day_decides_an_alarm(tmp_path: Path, second: float | None, state: str, status: str) -> None:
    for day in range(4):
        took(tmp_path / "out", phantom(tmp_path / "in", day), at(day + 0.3))
    alarmed = took(tmp_path / "out", phantom(tmp_path / "in", 4, 4.0), at(4.3))
    assert (alarmed.lifecycle, alarmed.get("qa.alarms")) == ("warn", ["HU above baseline"])
    decided = took(tmp_path / "out", [] if second is None else phantom(tmp_path / "in", 4, second, hour=8), at(4.4))
    assert (decided.lifecycle, decided.get("qa.status")) == (state, status)


def test_what_cannot_be_compared_is_counted_and_not_judged(tmp_path: Path) -> None:
    known = took(tmp_path / "out", phantom(tmp_path / "in", 2), at(2.3))
    odd = phantom(tmp_path / "in", 3, kernel="bone") + phantom(tmp_path / "in", 1)
    odd.append(drop(tmp_path / "in", "dry.dcm", image(tags={0x00280300: ("CS", text("YES")), 0x00181000: None, 0x00081010: None})))
    state = took(tmp_path / "out", odd, at(3.3))
    assert state.get("qa.last.t") == known.get("qa.last.t")
    with Intake(tmp_path / "out") as intake:
        assert totals(intake).unjudged == 3
        assert any("not judged: 3" in line for line in totals(intake).lines())


@pytest.mark.parametrize("site", [Site(patient="*qa"), Site(protocol="* Daily *"), Site("nobody", "*check")])
def test_a_site_names_test_objects_that_its_scanners_do_not_mark(tmp_path: Path, site: Site) -> None:
    paths = phantom(tmp_path / "in", 0, marked=False)
    assert took(tmp_path / "a", paths, at(0.3)).get("sync.phantoms") == 0
    state = took(tmp_path / "b", [*paths, *a_series(tmp_path / "patients")], at(0.3), site)
    assert (state.get("sync.phantoms"), state.get("qa.baseline.n")) == (1, 1)
    written = b"".join(path.read_bytes() for path in (tmp_path / "b").iterdir())
    assert SECRET.encode() not in written


def test_missing_phantoms_are_noticed_once_and_only_where_there_were_some(tmp_path: Path) -> None:
    for day in range(3):
        took(tmp_path / "out", phantom(tmp_path / "in", day), at(day + 0.3))
    late = took(tmp_path / "out", [], at(5))
    assert (late.lifecycle, late.get("qa.status"), late.get("health.data_freshness")) == ("warn", "stale", 0)
    assert took(tmp_path / "out", [], at(6)) == late
    took(tmp_path / "other", a_series(tmp_path / "patients"), at(0))
    assert took(tmp_path / "other", [], at(9)).get("qa.status") is None


def test_output_is_known_after_a_week_of_phantoms(tmp_path: Path) -> None:
    paths = [path for day in range(12) for path in phantom(tmp_path / "in", day)]
    assert took(tmp_path / "out", paths, at(11.5)).get("tube.output_hat") == pytest.approx(1, abs=0.12)
    dim = [path for day in range(12, 15) for path in phantom(tmp_path / "in", day, mas=200.0)]
    assert took(tmp_path / "out", dim, at(14.5)).get("tube.output_hat") == pytest.approx(1, abs=0.12)


def test_watching_judges_what_lies_there_and_says_nothing_twice(tmp_path: Path) -> None:
    for day in range(4):
        phantom(tmp_path / "in", day)
    said: list[str] = []
    found = watch(tmp_path / "in", tmp_path / "out", every=0.01, once=True, policy=QUICK, say=said.append)
    assert (found.phantoms, found.unjudged) == (4, 0)
    assert said == ["4 images (4 of phantoms), 0 dose reports, 0 came again", "siemens-1: 4 images"]
    log: DeviceLog = load(tmp_path / "out" / f"siemens-1{SUFFIX}")
    assert [entry.fact.data["to"] for entry in log.entries if entry.fact.kind == "lifecycle"] == ["baseline", "active", "warn"]


def test_a_phantom_that_was_measured_is_judged_by_the_next_process(tmp_path: Path) -> None:
    with Intake(tmp_path / "out") as intake:
        for path in phantom(tmp_path / "in", 0):
            intake.take(path, "a file", at(0.3))
        intake.settle(at(0.3))
        intake.commit()
        judge(intake, at(0.3) + 1, calm=5.0)  # more images may come
        intake.commit()
        assert intake.logs["siemens-1"].state.get("qa.status") is None
    assert took(tmp_path / "out", [], at(0.4)).get("qa.status") == "pass"


@pytest.mark.parametrize(("second", "status"), [(0.0, "pass"), (4.0, "fail")])
def test_phantoms_that_a_user_supplies_are_decided_by_a_second_one_too(tmp_path: Path, second: float, status: str) -> None:
    for day in range(5):
        phantom(tmp_path, day, 4.0 if day == 4 else 0.0)
    phantom(tmp_path, 4, second, hour=8)
    (checks,) = measure([tmp_path], QUICK).checks.values()
    assert [check.status for check in checks] == ["pass"] * 4 + ["warn", status]


# ---------------------------------------------------------------------- the way back


def quarantined(out: Path, folder: Path) -> None:
    for day in range(5):
        took(out, phantom(folder, day, 9.0 if day == 4 else 0.0), at(day + 0.3))


def test_a_scanner_in_quarantine_returns_after_a_service_and_three_phantoms(tmp_path: Path) -> None:
    quarantined(tmp_path / "out", tmp_path / "in")
    state = serviced(tmp_path / "out", "siemens-1", "water_cal", at(5), by="A. Engineer", downtime_h=4)
    assert (state.lifecycle, quality(state)) == ("verifying", 0)
    ways = [took(tmp_path / "out", phantom(tmp_path / "in", day), at(day + 0.3)) for day in (5, 6, 7)]
    assert [way.lifecycle for way in ways] == ["verifying", "verifying", "active"]
    assert ways[-1].quarantine[0]["until"] == at(7) + 7 * 3600
    assert ways[-1].maintenance[0]["by"] == "A. Engineer"
    assert load(tmp_path / "out" / f"siemens-1{SUFFIX}").state == ways[-1]


def test_a_new_tube_means_another_baseline_and_perhaps_another_protocol(tmp_path: Path) -> None:
    quarantined(tmp_path / "out", tmp_path / "in")
    assert serviced(tmp_path / "out", "siemens-1", "tube_replace", at(5), by="vendor").get("qa.baseline.n") == 0
    paths = [path for day in range(5, 8) for path in phantom(tmp_path / "in", day, kernel="soft")]
    assert took(tmp_path / "out", paths, at(7.5)).get("qa.baseline.n") == 3


def test_a_service_of_a_trusted_scanner_is_recorded_and_only_renewing_ones_move_it(tmp_path: Path) -> None:
    for day in range(4):
        took(tmp_path / "out", phantom(tmp_path / "in", day), at(day + 0.3))
    assert serviced(tmp_path / "out", "siemens-1", "air_cal", at(4), by="operator").lifecycle == "active"
    assert serviced(tmp_path / "out", "siemens-1", "software", at(4), by="vendor", part="VA50").lifecycle == "baseline"


def test_a_service_needs_a_watched_folder_a_known_name_a_known_kind_and_a_human(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="E501"):
        serviced(tmp_path, "siemens-1", "air_cal", 0.0, by="x")
    took(tmp_path / "out", phantom(tmp_path / "in", 0), at(0.3))
    for name, kind, by in (("siemens-2", "air_cal", "x"), ("siemens-1", "oil", "x"), ("siemens-1", "air_cal", " ")):
        with pytest.raises(UsageError, match="E613"):
            serviced(tmp_path / "out", name, kind, at(1), by=by)
    with Intake(tmp_path / "out"), pytest.raises(UsageError, match="E512"):
        serviced(tmp_path / "out", "siemens-1", "air_cal", at(1), by="x")
