"""A run that cannot be: one line with a code, exit code 2, within seconds, and no folder left behind (TRUST.md section 8)."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner

from p2pftl.cli import app
from p2pftl.folder import RunFolder
from tests.imaging import ct_file
from tests.runs import alone, here, written

Case = Callable[[Path], dict[str, Any]]
BASE: dict[str, Any] = {
    "name": "bad",
    "seed": 1,
    "rounds": 1,
    "topology": {"use": "ring", "twins": 3},
    "data": {"use": "phantom", "patients": 12, "slices": 1},
    "fit": {"steps": 1, "batch": 4},
}
CASES: list[tuple[str, str, Case]] = []


def case(code: str) -> Callable[[Case], Case]:
    """What makes a scenario bad, and the code that says so."""

    def kept(act: Case) -> Case:
        CASES.append((act.__name__, code, act))
        return act

    return kept


def pictures(folder: Path, labels: tuple[str, ...] = ("a", "b"), each: int = 6) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(each):
            noise = np.random.default_rng([number, ord(label)]).integers(0, 255, (24, 24)).astype(np.uint8)
            Image.fromarray(noise).save(folder / label / f"{number}.png")
    return folder


def made(path: Path, content: bytes = b"") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@case("E301")
def data_folder_missing(at: Path) -> dict[str, Any]:
    return {"data": {"use": "images", "path": str(at / "nowhere")}}


@case("E301")
def dicom_folder_empty(at: Path) -> dict[str, Any]:
    (at / "ct").mkdir()
    return {"data": {"use": "dicom", "path": str(at / "ct"), "label": "kernel_group"}}


@case("E302")
def one_class_only(at: Path) -> dict[str, Any]:
    return {"data": {"use": "images", "path": str(pictures(at / "pictures", ("a",)))}}


@case("E330")
def a_text_called_png(at: Path) -> dict[str, Any]:
    made(pictures(at / "pictures") / "a" / "9.png", b"no picture")
    return {"data": {"use": "images", "path": str(at / "pictures")}}


@case("E310")
def a_text_called_dicom(at: Path) -> dict[str, Any]:
    made(at / "ct" / "1.dcm", b"no dicom")
    return {"data": {"use": "dicom", "path": str(at / "ct"), "label": "kernel_group"}}


@case("E31")
def dicom_pixels_cut_short(at: Path) -> dict[str, Any]:
    for patient in range(12):
        tags = ct_file.elements(32, patient=f"p{patient}", series=f"1.2.{patient}", instance=f"1.2.{patient}.1")
        tags[0x00181210] = ("SH", ct_file.text("B70f" if patient % 2 else "B31f"))
        tags[0x0020000D] = ("UI", ct_file.uid(f"1.3.{patient}"))
        path = ct_file.write(at / "ct" / f"{patient}.dcm", tags)
    path.write_bytes(path.read_bytes()[:-600])
    return {"data": {"use": "dicom", "path": str(at / "ct"), "label": "kernel_group"}}


@case("E330")
def an_archive_that_is_none(at: Path) -> dict[str, Any]:
    return {"data": {"use": "npz", "path": made(at / "a.npz", b"PK\x03\x04 and nothing else")}}


@case("E301")
def an_archive_that_is_not_there(at: Path) -> dict[str, Any]:
    return {"data": {"use": "npz", "path": str(at / "a.npz")}}


@case("E304")
def fewer_patients_than_twins(at: Path) -> dict[str, Any]:
    return {"data": {"use": "phantom", "patients": 6}, "topology": {"use": "ring", "twins": 8}}


@case("E307")
def a_cache_that_is_a_file(at: Path) -> dict[str, Any]:
    return {"data": {"use": "phantom", "patients": 12, "slices": 1, "cache": made(at / "cache")}}


@case("E333")
def dicom_without_any_label(at: Path) -> dict[str, Any]:
    ct_file.write(at / "ct" / "1.dcm", ct_file.elements(32))
    return {"data": {"use": "dicom", "path": str(at / "ct")}}


@case("E306|E334")
def a_patient_on_both_sides(at: Path) -> dict[str, Any]:
    pictures(at / "pictures")
    rows = [f"{label}/{number}.png,{label},same,{'test' if number < 2 else 'train'}" for label in "ab" for number in range(6)]
    table = made(at / "pictures" / "table.csv", "\n".join(["file,label,patient,split", *rows]).encode())
    return {"data": {"use": "images", "manifest": table}}


@case("E205")
def a_regular_graph_that_cannot_be(at: Path) -> dict[str, Any]:
    return {"topology": {"use": "regular", "twins": 5, "k": 3}}


@case("E211")
def a_topology_file_that_is_not_there(at: Path) -> dict[str, Any]:
    return {"topology": {"use": "file", "path": str(at / "net.graphml")}}


@case("E2")
def a_topology_file_that_is_no_graph(at: Path) -> dict[str, Any]:
    return {"topology": {"use": "file", "path": made(at / "net.graphml", b"<graphml><node>")}}


@case("E204")
def a_network_in_two_parts(at: Path) -> dict[str, Any]:
    nx.write_graphml(nx.Graph([("ct-01", "ct-02"), ("ct-03", "ct-04")]), at / "net.graphml")
    return {"topology": {"use": "file", "path": str(at / "net.graphml")}}


@case("E127")
def weights_that_are_not_there(at: Path) -> dict[str, Any]:
    return {"model": {"weights": str(at / "w.safetensors")}}


@case("E127|E5")
def weights_that_are_no_safetensors(at: Path) -> dict[str, Any]:
    return {"model": {"weights": made(at / "w.safetensors", b"\x80\x04pickle")}}


@case("E127|E41|E5")
def weights_of_another_model(at: Path) -> dict[str, Any]:
    save_file({"head.weight": np.zeros((2, 3), np.float32)}, at / "w.safetensors")
    return {"model": {"weights": str(at / "w.safetensors")}}


@pytest.mark.parametrize(("name", "code", "make"), CASES, ids=[name for name, *_ in CASES])
def test_bad_scenarios_end_in_one_line(name: str, code: str, make: Case, tmp_path: Path) -> None:
    file = written(tmp_path / "given", BASE, **make(tmp_path))
    started = time.monotonic()
    ran = here(file, "--quiet", out=tmp_path / "out" / "deeper")
    assert ran.code == 2, (ran.out, ran.err)
    assert re.match(f"({code})", ran.err), ran.err
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert not (tmp_path / "out").exists(), "so that the same --out can be given again"
    assert time.monotonic() - started < 5


# ---------------------------------------------------------------------- the run folder


@pytest.fixture
def good(tmp_path: Path, phantoms: Path) -> Path:
    return written(tmp_path / "given", BASE, data={**BASE["data"], "cache": str(phantoms)})


def refused(file: Path, out: Path | str, *more: str) -> str:
    ran = here(file, *more, out=Path(out))
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    return ran.err


def test_the_run_folder_must_be_free_writable_and_no_file(good: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    made(taken / "mine.txt")
    assert refused(good, taken).startswith(f"E601 {taken}: is not empty")
    file = Path(made(tmp_path / "file"))
    assert refused(good, file).startswith(f"E601 {file}: is a file")
    assert refused(good, file / "below").startswith("E510")
    assert refused(good, "/proc/p2pftl").startswith("E510 /proc/p2pftl: cannot be written")
    assert refused(good, good.parent).startswith("E602")
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]
    assert [path.name for path in good.parent.iterdir()] == [good.name]


def test_a_folder_that_nobody_may_write_into(good: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert refused(good, locked).startswith("E510")
    assert refused(good, locked / "out").startswith("E510")


def test_force_writes_over_an_earlier_run_and_over_nothing_else(good: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    made(mine / "models" / "precious.bin", b"1")
    assert "holds models, but no run" in refused(good, mine, "--force")
    assert (mine / "models" / "precious.bin").exists()
    out = tmp_path / "out"
    assert here(good, out=out).code == 0
    made(out / "notes.txt", b"keep me")
    made(out / "control" / "old.txt")
    again = here(good, "--force", "--set", "seed=2", out=out)
    assert again.code == 0
    assert again.summary["seed"] == 2
    assert (out / "notes.txt").exists()
    assert not (out / "control").exists()


def test_a_scenario_that_was_mended_runs_into_the_same_folder(good: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert "E304" in refused(good, out, "--set", "topology.twins=30")
    assert list(out.iterdir()) == []
    assert here(good, out=out).code == 0


def test_a_folder_of_its_own_is_found_when_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder(None, "night", force=False), RunFolder(None, "night", force=False)
    assert first.path != second.path
    assert first.path.parent == second.path.parent == Path("runs")
    second.discard()
    first.discard()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- the cluster


def unreachable(file: Path, address: str) -> str:
    started = time.monotonic()
    result = CliRunner().invoke(app, ["run", str(file), "--address", address, "--out", str(file.parent / "out")])
    assert time.monotonic() - started < 5
    assert result.exit_code == 2
    assert not (file.parent / "out").exists()
    return result.stderr


def test_a_cluster_that_is_not_there_is_known_at_once(good: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert f"E604 no Ray cluster at 127.0.0.1:{port} (ConnectionRefusedError)" in unreachable(good, f"127.0.0.1:{port}")
    assert "E604 no Ray cluster at ray://127.0.0.1" in unreachable(good, f"ray://127.0.0.1:{port}")
    assert "E604 no Ray cluster at host.invalid:6379" in unreachable(good, "host.invalid:6379")


def test_something_else_at_the_address_is_no_cluster(good: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"E604 something answers at {address}, but not Ray" in unreachable(good, address)


@pytest.mark.parametrize("address", ["here", "127.0.0.1", "127.0.0.1:99999", ":6379", "http://a:1", "a b:1"])
def test_an_address_is_host_and_port(good: Path, address: str) -> None:
    assert "is no HOST:PORT" in unreachable(good, address)


def test_a_bad_run_in_a_process_of_its_own_is_one_line_too(good: Path, tmp_path: Path) -> None:
    ended = alone("run", good, "--executor", "local", "--out", tmp_path / "out", "--set", "model.weights=w.safetensors")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(r"E127 .*\n", ended.stderr)
