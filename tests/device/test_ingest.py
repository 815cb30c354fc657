from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest

from p2pftl.device import ingest
from p2pftl.device.ingest import Intake
from p2pftl.device.ledger import FILE
from p2pftl.device.log import append, load
from p2pftl.device.show import SUFFIX
from p2pftl.draw import draw
from p2pftl.errors import CheckpointError, UsageError
from tests.device.ct_headers import (
    CTDI,
    CURRENT,
    DATE,
    KERNEL,
    KVP,
    MODEL,
    NOW,
    SERIAL,
    STATION,
    a_series,
    drop,
    event,
    image,
    report,
    save,
    states,
    take,
)  # fmt: skip
from tests.imaging.ct_file import SECRET, text

REAL = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dicom_ct"


# ---------------------------------------------------------------------- real files


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CT slices (../shared/data/dicom_ct) are not here")
def test_four_vendors_appear_as_four_twins_with_the_right_configuration(tmp_path: Path) -> None:
    files = sorted(REAL.rglob("*.dcm"))
    taken = take(tmp_path / "a", files)
    assert [one.outcome for one in taken] == ["image"] * 54
    found = states(tmp_path / "a")
    wanted = {
        "ge-1": ("LightSpeed VCT", "STANDARD", "standard", None), "philips-1": ("Brilliance16", "L", "lung", 10.6),
        "siemens-1": ("Sensation 10", "B70f", "bone", None), "toshiba-1": ("Aquilion ONE", "FC17", "standard", 2.8),
    }  # fmt: skip
    paths = ("attributes.model", "config.kernel", "config.kernel_group", "config.ctdi_mGy")
    assert {name: tuple(state.get(path) for path in paths) for name, state in found.items()} == wanted
    assert {name: state.get("sync.images") for name, state in found.items()} == {
        "ge-1": 10,
        "philips-1": 20,
        "siemens-1": 20,
        "toshiba-1": 4,
    }
    assert found["siemens-1"].get("config.slice_mm") == 8
    assert found["siemens-1"].get("calibration.last_any") is not None
    assert found["philips-1"].leaf("config.pitch").quality == "missing"
    assert found["philips-1"].leaf("tube.scan_s").v is None  # no time of exposure anywhere: missing, not zero
    assert found["siemens-1"].get("tube.exposures") == 1  # two reconstructions of one scan
    assert found["siemens-1"].leaf("tube.scan_s").quality == "derived"
    assert found["toshiba-1"].get("tube.exposures") == 4
    assert found["ge-1"].get("tube.exposures") == 9  # the reformatted slice is no beam-on
    for state in found.values():
        assert not [path for path, leaf in state.leaves.items() if leaf.v == 0 and not path.startswith(("sync.", "tube.", "lifecycle."))]
    order = draw(1, "order").permutation(len(files))
    take(tmp_path / "b", [files[i] for i in order])
    ignored = {"sync.last_header", "lifecycle.since"}  # of the first file that came
    for name, state in states(tmp_path / "b").items():
        assert {p: leaf.v for p, leaf in state.leaves.items() if p not in ignored and "attributes" not in p} == {
            p: leaf.v for p, leaf in found[name].leaves.items() if p not in ignored and "attributes" not in p
        }


# ---------------------------------------------------------------------- counting


def test_an_image_counts_once_however_often_and_under_whatever_name_it_comes(tmp_path: Path) -> None:
    files = a_series(tmp_path / "in")
    copies = [Path(shutil.copy(path, tmp_path / f"copy{i}")) for i, path in enumerate(files)]
    assert [one.outcome for one in take(tmp_path / "out", [*files, *copies])] == ["image"] * 5 + ["again"] * 5
    assert {one.outcome for one in take(tmp_path / "out", files)} == {"again"}  # another day, another process
    state = states(tmp_path / "out")["siemens-1"]
    assert (state.get("sync.images"), state.get("sync.studies"), state.get("sync.duplicates")) == (5, 1, 10)


def test_broken_files_are_named_by_code_only_and_nothing_of_a_text_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = {
        "E310": drop(tmp_path, f"{SECRET}.dcm", image(), 0), "E311": drop(tmp_path, "b", image(), 300),
        "E312": drop(tmp_path, "c", image(), -100), "E319": drop(tmp_path, "d", image(tags={0x00080060: ("CS", text("MR"))})),
        "E350": drop(tmp_path, "e", image(tags={KVP: ("DS", text(SECRET))})),
    }  # fmt: skip
    odd = {tag: ("LO", text(SECRET)) for tag in (MODEL, KERNEL, STATION, SERIAL, 0x00181020, 0x00181160, 0x00189323, 0x00180022)}
    good = drop(tmp_path, "f", image(tags=odd))
    dose = save(report([event()], study=2), tmp_path)
    out = tmp_path / "out"
    assert [one.outcome for one in take(out, [*broken.values(), good, dose])] == [*broken, "image", "report"]
    written = b"".join(path.read_bytes() for path in out.iterdir())
    assert len(written) > 2000
    for form in (SECRET, SECRET.lower(), SECRET[::-1], SECRET.encode().hex()):
        assert form.encode() not in written
    for number in ("1.2.3.1", "1.2.9.1", "20240229"):
        assert number.encode() not in written
    assert SECRET not in "".join(capfd.readouterr())


def test_a_file_that_happens_to_lie_there_is_no_broken_one(tmp_path: Path) -> None:
    found = {"readme.txt": b"hello", "SHA256SUMS": b"00aa  image\n", "1.2.840.99": b"hello", "IM0001": b"\0\1cut", "IM0002": b""}
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
    taken = take(tmp_path / "out", [tmp_path / name for name in found])
    assert [one.outcome for one in taken] == ["other", "other", "E310", "E310", "E310"]


# ---------------------------------------------------------------------- which twin


def test_each_scanner_becomes_a_twin(tmp_path: Path) -> None:
    files = [drop(tmp_path, f"{i}.dcm", image(i, study=i, serial=str(i % 3))) for i in range(9)]
    twins = [one.twin for one in take(tmp_path / "out", files)]
    assert twins == ["siemens-1", "siemens-2", "siemens-3"] * 3
    assert {state.get("sync.images") for state in states(tmp_path / "out").values()} == {3}


@pytest.mark.parametrize("first", ["image", "report"])
def test_a_dose_report_finds_the_twin_of_its_images_though_they_lost_the_serial_number(tmp_path: Path, first: str) -> None:
    files = [drop(tmp_path, "a.dcm", image(tags={SERIAL: None, STATION: None})), save(report([event()]), tmp_path)]
    take(tmp_path / "out", files if first == "image" else files[::-1])
    assert list(states(tmp_path / "out")) == ["siemens-1"]


def test_a_study_scanned_on_two_scanners_that_say_who_they_are_stays_two_twins(tmp_path: Path) -> None:
    take(tmp_path / "out", [drop(tmp_path, f"{i}.dcm", image(i, serial=str(i))) for i in range(2)])
    assert len(states(tmp_path / "out")) == 2


# ---------------------------------------------------------------------- configuration


def test_the_state_does_not_depend_on_the_order_in_which_series_and_images_come(tmp_path: Path) -> None:
    sharp, soft = {KERNEL: ("SH", text("B70f"))}, {KERNEL: ("SH", text("B30f"))}
    later = {KERNEL: ("SH", text("B40f")), KVP: ("DS", text("100"))}
    files = a_series(tmp_path / "in", 3, series=1, tags=sharp) + a_series(tmp_path / "in", 3, series=2, tags=soft)
    files += a_series(tmp_path / "in", 3, study=2, series=3, hour="111500", tags=later)
    found = set()
    for number, order in enumerate(itertools.islice(itertools.permutations(range(9)), 0, 362880, 36287)):
        out = tmp_path / f"out{number}"
        take(out, [files[i] for i in order])
        state = states(out)["siemens-1"]
        found.add(json.dumps({path: leaf.v for path, leaf in sorted(state.leaves.items()) if path.startswith(("config", "tube", "sync"))}))
    assert len(found) == 1
    assert '"config.kernel": "B40f"' in found.pop()


def test_an_old_study_sent_again_later_does_not_turn_the_configuration_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(out, a_series(tmp_path / "a", tags={DATE: ("DA", text("20240301"))}))
    take(out, a_series(tmp_path / "b", study=2, tags={KVP: ("DS", text("80"))}))
    state = states(out)["siemens-1"]
    assert state.get("config.kvp") == 120
    assert state.get("sync.images") == 10


def test_a_change_of_software_shows_in_the_state(tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(out, a_series(tmp_path / "a"))
    take(out, a_series(tmp_path / "b", study=2, hour="120000", tags={0x00181020: ("LO", text("syngo CT 2009E"))}))
    assert states(out)["siemens-1"].get("config.software") == "syngo CT 2009E"


def test_currents_of_a_modulated_scan_are_averaged(tmp_path: Path) -> None:
    files = [drop(tmp_path, f"{i}", image(i, z=i, tags={CURRENT: ("IS", text(str(100 + 20 * i)))})) for i in range(5)]
    take(tmp_path / "out", files)
    state = states(tmp_path / "out")["siemens-1"]
    assert state.get("config.ma") == 140
    assert state.get("config.mas") == 70


def test_phantoms_are_told_apart_and_change_no_configuration(tmp_path: Path) -> None:
    out, mark = tmp_path / "out", {0x00280300: ("CS", text("YES")), KVP: ("DS", text("80"))}
    take(out, a_series(tmp_path / "a"))
    assert {one.outcome for one in take(out, a_series(tmp_path / "b", study=2, hour="120000", tags=mark))} == {"phantom"}
    state = states(out)["siemens-1"]
    assert state.get("sync.phantoms") == 5
    assert state.get("config.kvp") == 120
    assert state.get("tube.exposures") == 2  # the tube wears all the same


def test_an_open_series_says_nothing_until_it_is_calm(tmp_path: Path) -> None:
    with Intake(tmp_path / "out") as intake:
        for path in a_series(tmp_path / "a"):
            intake.take(path, "a file", NOW)
        intake.settle(NOW + 1, calm=5, wait=600)
        intake.commit()
        assert intake.logs["siemens-1"].state.get("config.kvp") is None
        assert intake.logs["siemens-1"].state.get("sync.images") == 5
        intake.settle(NOW + 6, calm=5, wait=600)
        intake.commit()
        assert intake.logs["siemens-1"].state.get("config.kvp") == 120
        assert intake.logs["siemens-1"].state.get("tube.exposures") is None
        intake.settle(NOW - 4000, calm=5, wait=600)  # a clock that was set back holds nothing up
        intake.commit()
        assert intake.logs["siemens-1"].state.get("tube.exposures") == 1


# ---------------------------------------------------------------------- after a death


class Died(Exception):
    pass


@pytest.mark.parametrize("at", ["before the log", "within a line", "after the log"])
def test_facts_are_written_once_wherever_the_process_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    files, out, real = a_series(tmp_path / "a"), tmp_path / "out", ingest.append
    take(tmp_path / "calm", files)

    def dying(path: Path, log: object, since: int) -> int:
        if at == "within a line":
            path.write_bytes(path.read_bytes() + b'{"data":{"val' if path.exists() else b'{"da')
        if at == "after the log":
            real(path, log, since)  # type: ignore[arg-type]
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "append", dying)
        with pytest.raises(Died):
            take(out, files)
    assert {one.outcome for one in take(out, files)} == {"again"}
    one, other = states(out)["siemens-1"], states(tmp_path / "calm")["siemens-1"]
    assert one.get("tube.exposures") == 1
    assert {p: leaf.v for p, leaf in one.leaves.items() if p.startswith(("config", "tube"))} == {
        p: leaf.v for p, leaf in other.leaves.items() if p.startswith(("config", "tube"))
    }


def test_what_was_not_committed_is_taken_again(tmp_path: Path) -> None:
    files = a_series(tmp_path / "a")
    with Intake(tmp_path / "out") as intake:
        intake.take(files[0], "a file", NOW)
    assert {one.outcome for one in take(tmp_path / "out", files)} == {"image"}


def test_a_log_that_was_changed_or_cut_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(out, a_series(tmp_path / "a"))
    log = out / f"siemens-1{SUFFIX}"
    lines = log.read_bytes().splitlines(keepends=True)
    for changed in (b"".join(lines[:-1]), b"".join(lines).replace(b"120.0", b"100.0")):
        log.write_bytes(changed)
        with pytest.raises(CheckpointError, match="E502"):
            Intake(out)
    log.write_bytes(b"".join(lines))
    with Intake(out) as intake:
        assert len(intake.logs["siemens-1"]) == len(lines)


def test_facts_of_others_are_taken_up_and_kept_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(out, a_series(tmp_path / "a"))
    path = out / f"siemens-1{SUFFIX}"
    log = load(path)
    log.record("happened", NOW, "manual", {"kind": "service", "text": "door closed"})
    append(path, log, len(log) - 1)
    with Intake(out) as intake:
        intake.tell("siemens-1", "happened", NOW, "manual", {"kind": "service", "text": "door open"})
        intake.commit()
    take(out, a_series(tmp_path / "b", study=2, hour="120000"))
    found = [entry.fact.data["text"] for entry in load(path).entries if entry.fact.kind == "happened"]
    assert found == ["door closed", "door open"]
    assert load(path).state.get("tube.exposures") == 2


def test_two_processes_cannot_keep_the_same_twins(tmp_path: Path) -> None:
    with Intake(tmp_path / "out"), pytest.raises(UsageError, match="E512"):
        Intake(tmp_path / "out")
    with Intake(tmp_path / "out"):
        pass


def test_a_damaged_memory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    with pytest.raises(CheckpointError, match="E502"):
        Intake(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="E510"):
        Intake(tmp_path / "file")


def test_the_memory_is_its_owners_alone(tmp_path: Path) -> None:
    take(tmp_path / "out", a_series(tmp_path / "a"))
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    assert (tmp_path / "out" / FILE).stat().st_mode & 0o077 == 0


def test_the_dose_of_a_header_shows_in_the_state(tmp_path: Path) -> None:
    take(tmp_path / "out", a_series(tmp_path / "a", tags={CTDI: None}))
    assert states(tmp_path / "out")["siemens-1"].leaf("config.ctdi_mGy").quality == "missing"
