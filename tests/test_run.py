"""`p2pftl run` from the scenario to the report: both executors, every policy family, every data source, and what went wrong."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from p2pftl import events as facts
from p2pftl.cli import app
from p2pftl.draw import draw
from p2pftl.observe import record
from p2pftl.scenario.load import load
from tests.imaging import ct_file
from tests.runs import STORM, Ran, finished, here, written

KEYS = {
    "name", "seed", "digest", "executor", "rounds", "virtual_seconds", "wall_seconds", "bytes_sent", "frames", "degraded", "status",
    "reasons", "twins", "mean", "consensus_distance",
}  # fmt: skip
METRICS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def storm(place: Path, phantoms: Path) -> Path:
    """Three twins and a cloud; an outage, a crash, a late joiner; scanners, one quarantined, and new studies; the same without exchange."""
    incidents = [*STORM["incidents"], {"kind": "hu_step", "twin": "ct-01", "day": 1, "hu": 9}]
    return written(
        place, data={**STORM["data"], "cache": str(phantoms)}, incidents=incidents, mixing="similarity",
        device={"day_s": 0.2}, arrivals={"rate": 40_000, "start": 0.5},
    )  # fmt: skip


@pytest.fixture(scope="module")
def first(place: Path, storm: Path) -> Ran:
    return here(storm, out=place / "first")


@pytest.fixture(scope="module")
def temporary(place: Path) -> Iterator[Path]:
    """A TMPDIR of our own, short because Ray's sockets lie below it."""
    folder = Path(f"/tmp/t{os.getpid()}")
    folder.mkdir()
    yield folder
    for entry in folder.glob("torchinductor_*"):
        for inner in sorted(entry.rglob("*"), reverse=True):
            inner.rmdir() if inner.is_dir() else inner.unlink()
        entry.rmdir()
    folder.rmdir()  # refuses if anything of ours is left


# ---------------------------------------------------------------------- one run, and the same again


def test_a_run_is_done_and_says_where_it_left_what(first: Ran) -> None:
    assert (first.code, first.err) == (0, "")
    assert sorted(path.name for path in first.folder.iterdir()) == [
        "control", "events.msgpack", "models", "previews", "report.html", "scenario.yaml", "summary.json", "twins",
    ]  # fmt: skip
    assert sorted(path.name for path in (first.folder / "control").iterdir()) == ["events.msgpack", "models"]
    assert f"report {first.folder / 'report.html'}" in first.out
    assert re.search(r"^mean synthetic test accuracy 0\.\d{3} \([+-]0\.\d{3} against no exchange\)$", first.out, re.M)


def test_the_summary_holds_what_tools_read(first: Ran) -> None:
    found = first.summary
    assert found.keys() >= KEYS
    assert (found["name"], found["seed"], found["executor"], found["rounds"]) == ("storm", 3, "local", 3)
    assert (found["status"], found["degraded"], found["reasons"]) == ("done", False, [])
    frames = found["frames"]
    assert frames["sent"] == frames["delivered"] + frames["lost"]
    assert {"sent", "delivered", "lost", "refused"} <= frames.keys()
    assert sorted(found["twins"]) == ["ct-01", "ct-02", "ct-03"]
    for twin in found["twins"].values():
        assert {*METRICS, "confusion"} <= twin["test"].keys()
        assert {*METRICS, "confusion"} <= twin["validation"].keys()
        assert twin["rounds"] == 3
    assert [twin["incarnation"] for twin in found["twins"].values()] == [1, 2, 1]
    assert set(METRICS) <= found["mean"].keys()
    assert found["control"]["margin"].keys() >= set(METRICS)
    assert found["bytes_sent"] == sum(event.bytes for event in first.of(facts.FrameSent))


def test_the_recorded_events_are_the_printed_digest(first: Ran) -> None:
    events = first.events()
    assert record.digest(events) == first.digest == first.summary["digest"]
    assert isinstance(events[0], facts.RunPlanned)
    assert events[-1] == facts.RunFinished(t=events[-1].t, status="done")
    scripted = {event.kind for event in first.of(facts.IncidentBegan)}
    assert scripted == {"outage", "crash", "join", "hu_step"}
    for kind in (facts.StudiesArrived, facts.StudiesWithdrawn, facts.UpdateWithheld, facts.DeviceChanged):
        assert first.of(kind, "ct-01"), kind
    assert first.of(facts.StudiesArrived, "ct-02"), "of the twin that was revived"
    assert [event.scripted for event in first.of(facts.Crashed)] == [True]


def test_the_models_on_disk_are_those_whose_hash_was_recorded(first: Ran) -> None:
    import hashlib

    vectors = {name: load_file(first.folder / "models" / f"{name}.safetensors") for name in ("ct-01", "ct-03")}
    layout = first.of(facts.RunPlanned)[0].facts["model"]
    assert sum(tensor.size for tensor in vectors["ct-01"].values()) == layout["parameters"]
    done = {event.twin: event.model for event in first.of(facts.TwinDone)}
    from p2pftl.learning.models import layout_of
    from p2pftl.learning.specs import ModelSpec

    for name, tensors in vectors.items():
        whole = layout_of(ModelSpec(), 2).vector(tensors)
        assert hashlib.sha256(whole.tobytes()).hexdigest()[:16] == done[name]


def test_the_resolved_scenario_runs_the_same(first: Ran, storm: Path) -> None:
    assert load(first.folder / "scenario.yaml", []) == load(storm, [])


def test_the_same_scenario_gives_the_same_digest_and_model_bytes(first: Ran, storm: Path, place: Path) -> None:
    again = here(storm, "--set", "control=false", "--quiet", out=place / "again")
    assert again.code == 0
    assert again.out.splitlines()[-2] == f"digest {first.digest}"
    assert again.models == first.models
    assert again.summary["consensus_distance"] == first.summary["consensus_distance"]
    other = here(storm, "--set", "control=false", "--seed", "4", out=place / "other")
    assert other.digest != first.digest
    assert other.models != first.models


class Links(HTMLParser):
    """Collects whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action", "srcset")]


def test_the_report_needs_no_network(first: Ran) -> None:
    links = Links()
    links.feed(first.page)
    assert links.fetched
    assert all(link.startswith(("data:image/", "#", "twins/ct-0")) for link in links.fetched)
    assert not links.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert not re.search(r"url\((?!['\"]?(data:|#))|@import|https?://", re.sub(r"http://www\.w3\.org/\S+", "", first.page))
    assert "default-src &#x27;none&#x27;" in first.page or "default-src 'none'" in first.page
    assert "synthetic" in first.page


def test_replay_and_report_work_on_the_folder(first: Ran) -> None:
    shown = CliRunner().invoke(app, ["replay", str(first.folder), "--speed", "0"])
    assert shown.exit_code == 0
    assert "round 3/3" in shown.stdout
    before = first.page
    (first.folder / "report.html").unlink()
    assert CliRunner().invoke(app, ["report", str(first.folder)]).exit_code == 0
    assert first.page == before


# ---------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def on_ray(place: Path, storm: Path, temporary: Path) -> Ran:
    """One actor per twin, while somebody else holds the port that the dashboard likes."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8265))
            taken.listen()
        except OSError:
            pass  # somebody does already
        return finished(storm, out=place / "ray", temporary=temporary)


@pytest.mark.ray
def test_ray_gives_the_digest_and_the_model_bytes_of_this_process(first: Ran, on_ray: Ran) -> None:
    assert on_ray.code == 0
    assert on_ray.digest == first.digest
    assert on_ray.models == first.models
    assert on_ray.summary["executor"] == "ray"
    assert on_ray.summary["control"] == first.summary["control"]
    assert "control" in {path.name for path in on_ray.folder.iterdir()}


@pytest.mark.ray
def test_the_dashboard_finds_another_port_when_its_own_is_taken(on_ray: Ran) -> None:
    url = re.search(r"dashboard http://127\.0\.0\.1:(\d+)", on_ray.out)
    assert url is not None
    assert url[1] != "8265"


@pytest.mark.slow
@pytest.mark.ray
def test_packed_twins_give_the_same_bits(first: Ran, storm: Path, place: Path, temporary: Path) -> None:
    packed = finished(storm, "--workers", "2", "--set", "control=false", "--quiet", out=place / "packed", temporary=temporary)
    assert packed.code == 0
    assert packed.out.splitlines()[-2:] == [f"digest {first.digest}", f"report {packed.folder / 'report.html'}"]
    assert packed.models == first.models


# ---------------------------------------------------------------------- every family of policies

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 5,
    "rounds": 2,
    "topology": {"use": "ring", "twins": 3},
    "data": {"use": "phantom", "patients": 12, "slices": 1},
    "fit": {"steps": 1, "batch": 4, "lr": 0.05},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "age-weighted": {"aggregator": "age_weighted"},
    "push-sum": {"aggregator": "push_sum", "partners": {"use": "random", "k": 1}},
    "push-sum one peer": {"aggregator": "push_sum", "partners": "one_peer_exponential", "topology": {"use": "complete", "twins": 4}},
    "epidemic": {"partners": {"use": "epidemic", "s": 1}, "mixing": "uniform"},
    "asynchronous": {"pace": {"use": "asynchronous"}, "aggregator": "age_weighted", "codec": "half"},
    "head": {"transfer": "head"},
    "gradual": {"transfer": {"use": "gradual_unfreezing"}},
    "fedper": {"transfer": "fedper"},
    "fedrep": {"transfer": "fedrep"},
    "fedbn": {"transfer": "fedbn"},
    "fedprox": {"transfer": {"use": "fedprox", "mu": 0.1}, "fit": {"optimizer": "adam", "lr": 1e-3, "epochs": 1}},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_policies_runs_to_its_end(family: str, tmp_path: Path, phantoms: Path) -> None:
    changes = FAMILIES[family]
    ran = here(written(tmp_path, TINY, **{**changes, "data": {**TINY["data"], "cache": str(phantoms)}}), out=tmp_path / "out")
    assert ran.code == 0, ran.out
    assert all(twin["rounds"] == 2 for twin in ran.summary["twins"].values())
    assert ran.summary["frames"]["sent"] > 0


# ---------------------------------------------------------------------- data of other kinds


def dicom_folder(folder: Path, patients: int = 12, slices: int = 2) -> Path:
    """Discs of two sizes in two kernels, `slices` per patient; every name and identifier holds the tests' secret."""
    for patient in range(patients):
        for place in range(slices):
            number = patient * slices + place
            tags = ct_file.elements(
                32, patient=f"{ct_file.SECRET}{patient}", series=f"1.2.3.{patient}", instance=f"1.2.3.{patient}.{place}", z=2.0 * place
            )
            tags[0x0020000D] = ("UI", ct_file.uid(f"1.2.{patient}"))
            tags[0x00181210] = ("SH", ct_file.text("B70f" if patient % 2 else "B31f"))
            noise = draw(number, "slice").integers(0, 40, (32, 32)).astype("<u2")
            noise[8:24, 8 : 16 + 8 * (patient % 2)] += 1000
            tags[ct_file.PIXELS] = ("OW", noise.tobytes())
            ct_file.write(folder / f"{ct_file.SECRET}-{patient}" / f"{ct_file.SECRET}-{place}.dcm", tags)
    return folder


def image_folder(folder: Path, each: int = 12) -> Path:
    from PIL import Image

    for label in ("dark", "light"):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            noise = draw(number, label).integers(0, 80, (40, 40)).astype(np.uint8)
            Image.fromarray(noise + (100 if label == "light" else 0)).save(folder / label / f"{number}.png")
    return folder


def archive(path: Path, train: int = 24, test: int = 8) -> Path:
    labels = {part: np.arange(count) % 2 for part, count in (("train", train), ("val", test), ("test", test))}
    arrays = {f"{part}_labels": label[:, None].astype(np.uint8) for part, label in labels.items()}
    for part, label in labels.items():
        noise = draw(1, part).integers(0, 80, (len(label), 28, 28))
        arrays[f"{part}_images"] = (noise + 120 * label[:, None, None]).astype(np.uint8)
    np.savez(path, **arrays)
    return path


def sources(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "dicom": {"use": "dicom", "path": str(dicom_folder(folder / "ct")), "label": "kernel_group", "size": 32},
        "images": {"use": "images", "path": str(image_folder(folder / "pictures")), "size": 32},
        "npz": {"use": "npz", "path": str(archive(folder / "archive.npz")), "size": 28},
    }


@pytest.mark.parametrize("kind", ["dicom", "images", "npz"])
def test_every_data_source_runs_end_to_end_and_shows_no_picture_unasked(kind: str, tmp_path: Path) -> None:
    data = sources(tmp_path)[kind]
    ran = here(written(tmp_path, TINY, data=data, rounds=2), out=tmp_path / "out")
    assert ran.code == 0, ran.out
    assert ran.summary["synthetic"] is False
    assert "synthetic" not in ran.out
    assert ran.summary["mean"]["accuracy"] is not None
    assert not (tmp_path / "out" / "previews").exists()
    assert "data:image" not in ran.page


@pytest.mark.parametrize(("previews", "shown"), [(True, True), (False, False)])
def test_pictures_of_real_studies_are_shown_only_on_request(previews: bool, shown: bool, tmp_path: Path) -> None:
    data = {"use": "images", "path": str(image_folder(tmp_path / "pictures")), "size": 32}
    ran = here(written(tmp_path, TINY, data=data, rounds=1, previews=previews), out=tmp_path / "out")
    assert ran.code == 0
    assert (tmp_path / "out" / "previews" / "ct-01.png").exists() is shown
    assert ("data:image/png" in ran.page) is shown


def test_pictures_of_synthetic_studies_can_be_left_out(tmp_path: Path, phantoms: Path) -> None:
    scenario = written(tmp_path, TINY, data={**TINY["data"], "cache": str(phantoms)}, rounds=1)
    ran = here(scenario, "--set", "previews=false", out=tmp_path / "out")
    assert ran.code == 0
    assert not (tmp_path / "out" / "previews").exists()


def test_real_ct_slices_of_four_vendors_run(real_data: Path, tmp_path: Path) -> None:
    names = ["ge", "philips", "siemens", "toshiba"]
    data = {
        "use": "dicom", "path": str(real_data / "dicom_ct"), "label": "kernel_group", "block": 2, "size": 64, "test": 0.25,
        "split": {"use": "scanner", "by": "vendor", "twins": dict(zip(names, ("GE", "PHILIPS", "SIEMENS", "TOSHIBA"), strict=True))},
    }  # fmt: skip
    ran = here(written(tmp_path, TINY, data=data, rounds=1, topology={"use": "complete", "names": names}), out=tmp_path / "out")
    assert ran.code == 0, ran.err
    assert not (tmp_path / "out" / "previews").exists()


# ---------------------------------------------------------------------- less than done


def test_a_fit_that_diverges_is_noted_and_the_run_is_not_simply_done(tmp_path: Path, phantoms: Path) -> None:
    fit = {"lr": 100.0, "steps": 12, "batch": 4}
    ran = here(written(tmp_path, TINY, fit=fit, data={**TINY["data"], "cache": str(phantoms)}), out=tmp_path / "out")
    rejected = ran.of(facts.FitRejected)
    assert ran.code == 3
    assert rejected
    assert all(twin["rounds"] == 2 for twin in ran.summary["twins"].values())
    assert ran.summary["degraded"] is True
    assert any(f"a fit of {rejected[0].twin} diverged" in reason for reason in ran.summary["reasons"])
    assert "diverged" in ran.page
    assert "status degraded: a fit of" in ran.out
