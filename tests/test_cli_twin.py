"""`p2pftl twin`: what it says on logs, phantoms and folders, and that bad input is one line, exit code 2 and no name of anybody."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.main import get_command
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.device.fleet import told
from p2pftl.device.show import SUFFIX
from p2pftl.device.supplied import measure
from p2pftl.device.troubles import KINDS
from p2pftl.draw import draw
from p2pftl.errors import P2pftlError
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.anatomy.render import Order, drawn
from p2pftl.imaging.dicom_write import Study, write_slice
from p2pftl.imaging.scanner import Scanner
from tests.device.ct_headers import a_series
from tests.imaging.ct_file import SECRET
from tests.test_cli import plain

ROOT = Path(__file__).parents[1]
STEP = "hu_step twin=ct-02 at=24 hu=9"


def said(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["twin", *map(str, arguments)])
    return result.exit_code, result.stdout, plain(result.stderr)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "twins"
    code, out, err = said("simulate", "--out", folder, "--scanners", 2, "--days", 32, "--incident", STEP, "--phantoms", 2)
    assert (code, err) == (0, "")
    assert [line.split(",")[0] for line in out.splitlines()] == ["ct-01: 32 days", "ct-02: 32 days"]
    return folder


def test_show_lists_twins_and_tells_all_of_one(demo: Path) -> None:
    code, out, err = said("show", demo)
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == ["ct-01", "ct-02"]
    assert re.search(r"kvp +120 kV", said("show", demo, "ct-02")[1])
    assert said("show", demo / f"ct-02{SUFFIX}")[1] == said("show", demo, "ct-02")[1]


def test_history_tells_the_story_and_counts_what_it_leaves_out(demo: Path) -> None:
    story = said("history", demo, "ct-02")[1]
    assert story.index("hu step") < story.index("now quarantined") < story.index("now maintenance")
    shown, left = len(story.splitlines()) - 1, int(re.search(r"and (\d+) readings", story)[1])  # type: ignore[index]
    assert len(said("history", demo, "ct-02", "--all")[1].splitlines()) == shown + left
    assert len(said("history", demo, "ct-02", "--all", "--last", 3)[1].splitlines()) == 3
    assert all("  qa  " in line for line in said("history", demo, "ct-02", "--kind", "qa")[1].splitlines())


def test_an_export_is_json(demo: Path) -> None:
    assert json.loads(said("export", demo, "ct-01")[1])["thingId"] == "p2pftl:ct-01"
    assert json.loads(said("export", demo, "ct-01", "--form", "dtdl")[1])[0]["@type"] == "Interface"


def test_verify_takes_the_head_it_printed_and_refuses_a_changed_entry(demo: Path, tmp_path: Path) -> None:
    code, out, _ = said("verify", demo)
    assert (code, len(out.splitlines())) == (0, 2)
    head = re.search(r"ct-02: .* head (\w{64})", out)[1]  # type: ignore[index]
    assert "as expected" in said("verify", demo, "ct-02", "--head", head)[1]
    lines = (demo / f"ct-02{SUFFIX}").read_bytes().splitlines(keepends=True)
    (tmp_path / f"ct-02{SUFFIX}").write_bytes(b"".join(lines[:-1]))
    assert said("verify", tmp_path, "ct-02")[0] == 0
    assert said("verify", tmp_path, "ct-02", "--head", head)[0] == 2
    (tmp_path / f"ct-02{SUFFIX}").write_bytes(b"".join([*lines[:7], lines[7].replace(b":", b": ", 1), *lines[8:]]))
    code, out, err = said("verify", tmp_path)
    assert (code, out) == (2, "")
    assert "entry 7 " in err


def test_a_device_day_is_as_long_as_the_run_says(demo: Path, tmp_path: Path) -> None:
    (tmp_path / "twins").mkdir()
    shutil.copy(demo / f"ct-01{SUFFIX}", tmp_path / "twins")
    base = "rounds: 5\nseed: 1\ntopology: {use: ring, twins: 8}\ndata: {use: phantom}\n"
    (tmp_path / "scenario.yaml").write_text(f"{base}device: {{day_s: 172800}}\n")
    days = [[float(day) for day in re.findall(r"day +([\d.]+)", said("history", place, "ct-01")[1])] for place in (demo, tmp_path)]
    assert days[1] == pytest.approx([day / 2 for day in days[0]], abs=0.06)


def test_what_if_predicts_and_refuses_with_the_reason(demo: Path) -> None:
    code, out, _ = said("whatif", demo, "ct-01", "--dose", 0.5)
    assert code == 0
    assert re.search(r"noise, HU .*\+4[12] %", out)
    assert "tube life left then" in out
    for asked, reason in (
        (("--dose", 0), "E118"),
        (("--kvp", 20), "E118"),
        (("--slice", 20), "allowed: 0.568421..10"),
        ((), "nothing is asked"),
    ):
        code, out, err = said("whatif", demo, "ct-01", *asked)
        assert (code, out) == (2, "")
        assert reason in err


def test_supplied_phantoms_are_measured_as_simulated_ones(demo: Path) -> None:
    found = measure([demo / "phantoms"])
    assert len(found.checks) == 2
    for checks in found.checks.values():
        assert [check.day for check in checks] == [0, 1]
        assert all(abs(check.reading.mean) < 5 and 5 < check.reading.sd < 7 and check.status == "pass" for check in checks)
    code, out, _ = said("qa", demo / "phantoms")
    assert code == 0
    assert out.count(" pass") == 4


def test_patients_only_warn_and_a_phantom_is_none(demo: Path, tmp_path: Path) -> None:
    pictures = drawn(Order(3, "normal", 256, 2, 2.0))
    for offset, model in ((0.0, "SIEMENS"), (40.0, "PHILIPS")):
        scanner = Scanner(vendor=model, hu_offset=offset)
        seen = acquire(pictures.hu, scanner, pictures.pixel_mm, draw(3, model)).hu.numpy()
        for row, hu in enumerate(seen):
            study = Study(SECRET, (model,), "M", 50, "")
            write_slice(tmp_path / f"{model}-{row}.dcm", hu, scanner, study, row + 1, -pictures.levels[row], pictures.pixel_mm)
    shutil.copy(next((demo / "phantoms" / "ct-01").iterdir()), tmp_path / f"{SECRET}.dcm")
    code, out, err = said("qa", "--patients", tmp_path)
    assert (code, err) == (0, "")
    sound, shifted = (next(line for line in out.splitlines() if line.startswith(vendor)) for vendor in ("SIEMENS", "PHILIPS"))
    assert sound.endswith(" pass")
    assert "warn: air of patients" in shifted
    assert "not measured: E319, files 1 " in out
    assert SECRET not in out


def test_a_phantom_that_comes_twice_counts_once_and_other_files_are_numbered(demo: Path, tmp_path: Path) -> None:
    one = next((demo / "phantoms" / "ct-01").iterdir())
    shutil.copy(one, tmp_path / f"{SECRET}-1.dcm")
    shutil.copy(one, tmp_path / f"{SECRET}-2.dcm")
    (tmp_path / f"{SECRET}-3.dcm").write_text(SECRET)
    code, out, err = said("qa", tmp_path)
    assert code == 0
    assert "not measured: E310, files 3" in out
    assert out.count(" pass") == 1
    assert SECRET not in out + err


def test_a_phantom_that_fails_is_exit_code_1(demo: Path, tmp_path: Path) -> None:
    for file in sorted((demo / "phantoms" / "ct-01").iterdir()):
        data = dcmread(file)
        data.RescaleIntercept = float(data.RescaleIntercept) + 9
        data.save_as(tmp_path / file.name)
    code, out, err = said("qa", tmp_path)
    assert (code, err) == (1, "")
    assert "fail  water" in out
    twins = tmp_path.parent / "failing"
    code, out, err = said("watch", tmp_path, "--once", "--every", 0.05, "--out", twins)
    assert (code, err) == (1, "")
    assert re.search(r"the last phantom failed, water \+[89]", out)


def test_images_of_patients_are_no_phantoms_and_nothing_of_them_is_said(tmp_path: Path) -> None:
    a_series(tmp_path, 2)
    code, out, err = said("qa", tmp_path)
    assert (code, out) == (2, "")
    assert "E338 2" in err
    assert SECRET not in err


def test_watch_once_makes_twins_without_a_word_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    a_series(tmp_path / "in", 3)
    out = tmp_path / "twins"
    texts = [said("watch", tmp_path / "in", "--once", "--every", 0.05, "--out", out), said("show", out), said("show", out, "siemens-1")]
    texts += [said("history", out, "siemens-1", "--all"), said("export", out, "siemens-1"), said("whatif", out, "siemens-1", "--dose", 0.5)]
    assert [code for code, _, _ in texts] == [0] * 6
    assert "siemens-1: 3 images" in texts[0][1]
    assert "Sensation 10" in texts[1][1]
    assert "filtered backprojection is assumed" in texts[5][1]
    assert SECRET not in "".join(out + err for _, out, err in texts)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nowhere"], "E501"),
        (["show", "DEMO", "ct-2"], "did you mean ct-0"),
        (["history", "DEMO", "ct-01", "--kind", "lifecyle"], "did you mean lifecycle?"),
        (["verify", "DEMO", "--head", "ab"], "E613"),
        (["simulate", "--out", "DEMO"], "E601"),
        (["simulate", "--out", f"DEMO/ct-01{SUFFIX}/x"], "E510"),
        (["simulate", "--out", "x", "--incident", "hu_drift twin=ct-9 at=1 rate=1"], "E120"),
        (["qa", "nowhere"], "E301 nowhere: no such file or folder; give files, or the folder"),
        (["watch", "nowhere"], "E301 nowhere: no such file or folder; give the folder that DICOM files arrive in"),
        (["watch", "DEMO", "--out", "DEMO/x"], "E602"),
        (["watch", "DEMO", "--out", f"DEMO/ct-01{SUFFIX}"], "E510"),
        (["receive", "--port", "0", "--host", "0.0.0.0"], "E615"),
        (["receive", "--title", ""], "E613"),
        (["shw"], "Did you mean 'show'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = said(*(argument.replace("DEMO", str(demo)) for argument in arguments))
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E105"), ("'", "E105"), ("hu_drift rate", "E105"), ("hu_drft twin=a at=1", "E126"), ("hu_drift at=1 rate=1", "E110"),
        ("hu_drift twin=a rate=1", "E110"), ("hu_drift twin=a at=1", "E110"), ("hu_drift twin=a at=1 rat=1", "E109"),
        ("hu_drift twin=a at=1 rate=x", "E118"), ("hu_drift twin=a at=1 rate=nan", "E118"), ("hu_drift twin=a at=-1 rate=1", "E118"),
        ("hu_drift twin=a at=9 until=2 rate=1", "E121"), ("tube_wear twin=a at=1 share=-5", "E118"),
        ("kvp_change twin=a at=1 kvp=90 qa=1", "E112"),
    ],
)  # fmt: skip
def test_an_incident_that_is_none_is_refused(text: str, code: str) -> None:
    with pytest.raises(P2pftlError) as refused:
        told(text)
    assert refused.value.code == code


def options() -> Iterator[tuple[str, str]]:
    for name, command in get_command(app).commands["twin"].commands.items():  # type: ignore[attr-defined]
        yield from ((name, option) for parameter in command.params for option in parameter.opts if option.startswith("--"))


def test_the_page_has_every_command_option_and_incident() -> None:
    page = (ROOT / "docs/twin.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, option in options():
        assert any(f"`{name}`" in row and f"`{option}" in row for row in rows), f"{name} {option}"
    assert all(f"`{kind}`" in page for kind in KINDS)


def test_a_service_is_recorded_for_a_watched_scanner_only(demo: Path, tmp_path: Path) -> None:
    twins = tmp_path / "twins"
    assert said("watch", demo / "phantoms" / "ct-01", "--once", "--every", 0.05, "--out", twins)[0] == 0
    (name,) = [file.name.removesuffix(SUFFIX) for file in twins.glob(f"*{SUFFIX}")]
    code, out, err = said("service", twins, name, "air_cal", "--by", "engineer", "--hours", 2)
    assert (code, err) == (0, "")
    assert "air cal recorded" in out
    assert re.search(r"maintained +air cal, by engineer, down 2 h", said("history", twins, name)[1])
    for folder, twin, kind, who, reason in (
        (twins, name, "oil", "x", "E613"),
        (twins, "x", "air_cal", "x", "E613"),
        (twins, name, "air_cal", " ", "E613"),
        (demo, "ct-01", "air_cal", "x", "E501"),
    ):
        code, out, err = said("service", folder, twin, kind, "--by", who)
        assert (code, out) == (2, "")
        assert reason in err


def test_a_sites_rule_makes_phantoms_of_what_it_names(demo: Path, tmp_path: Path) -> None:
    for file in (demo / "phantoms" / "ct-01").iterdir():
        data = dcmread(file)
        del data.QualityControlImage
        data.save_as(tmp_path / file.name)
    for rule, phantoms in ((), 0), (("--phantom-patient", "no*"), 0), (("--phantom-protocol", "q?"), 2):
        out = said("watch", tmp_path, "--once", "--every", 0.05, "--out", tmp_path.parent / f"rule-{len(rule)}-{phantoms}", *rule)[1]
        assert f"2 images ({phantoms} of phantoms)" in out
