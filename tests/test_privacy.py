"""No identifier of a study leaves its twin (TRUST.md section 7): canaries go into every file, and none may come out anywhere."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pftl import events as facts
from p2pftl.draw import draw
from tests.imaging import ct_file
from tests.runs import STORM, Ran, Watched, alone, here, written

PATIENTS, SLICES = 14, 1
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ"
TEXTS = {  # element: VR; each value holds a canary of its own
    0x00020016: "AE", 0x00080050: "SH", 0x00080080: "LO", 0x00080081: "ST", 0x00080090: "PN", 0x00081010: "SH", 0x00081030: "LO",
    0x0008103E: "LO", 0x00081040: "LO", 0x00081050: "PN", 0x00081070: "PN", 0x00081090: "LO", 0x00100010: "PN", 0x00100020: "LO",
    0x00101001: "PN", 0x00101040: "LO", 0x00102160: "SH", 0x001021B0: "LT", 0x00104000: "LT", 0x00181000: "LO", 0x00181030: "LO",
    0x00200010: "SH", 0x00204000: "LT", 0x00321060: "LO", 0x00400275: "LO", 0x00090010: "LO", 0x00091001: "LO",
}  # fmt: skip
TWIN = "NAMEDBYAUSER"  # a name that the user chose: it does come out, which shows that the search would find a leak


def canary(*names: object) -> str:
    """Twelve letters of its own for each use."""
    return "".join(ALPHABET[i] for i in draw(11, *map(str, names)).integers(0, len(ALPHABET), 12))


def digits(*names: object) -> str:
    """Twelve digits, for UIDs."""
    return "1" + "".join(str(i) for i in draw(12, *map(str, names)).integers(0, 10, 11))


def hospital(folder: Path) -> tuple[Path, Path, list[str]]:
    """Write CT series and a table of labels below `folder`; return (studies, table, every canary)."""
    studies, used, lines = folder / "studies", [], ["file,label,patient"]
    for patient in range(PATIENTS):
        ward, person = canary("folder", patient), canary("patient", patient)
        for place in range(SLICES):
            name = f"{canary('file', patient, place)}.dcm"
            path = studies / ward / name
            used += [*_slice(path, patient, place), ward, person, name[:12]]
            lines.append(f"{ward}/{name},{'ab'[patient % 2]},{person}")
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return studies, table, sorted(set(used))


def _slice(path: Path, patient: int, place: int) -> list[str]:
    uids = {tag: digits(tag, patient, place if tag == 0x00080018 else "") for tag in (0x00080018, 0x0020000D, 0x0020000E, 0x00200052)}
    texts = {tag: canary(tag, patient, place) for tag in TEXTS if tag >> 16 != 2}
    tags = ct_file.elements(32, z=2.0 * place)
    tags |= {tag: (TEXTS[tag], ct_file.text(value)) for tag, value in texts.items()}
    tags |= {tag: ("UI", ct_file.uid(f"1.2.{value}")) for tag, value in uids.items()}
    tags[0x00080070] = ("LO", ct_file.text(f"SIEMENS {ct_file.SECRET}"))
    stored = draw(patient, "slice", str(place)).integers(0, 40, (32, 32)).astype("<u2")
    stored[8:24, 8 : 16 + 8 * (patient % 2)] += 1000
    tags[ct_file.PIXELS] = ("OW", stored.tobytes())
    preamble = canary("preamble", patient, place)
    ct_file.write(path, tags)
    path.write_bytes(preamble.encode().ljust(128, b"\0") + path.read_bytes()[128:])
    return [*uids.values(), *texts.values(), preamble, ct_file.SECRET]


def cut_short(studies: Path) -> None:
    """Break the last file: half of its pixels are missing."""
    victim = sorted(studies.rglob("*.dcm"))[-1]
    victim.write_bytes(victim.read_bytes()[:-1000])


def scenario(folder: Path, studies: Path, table: Path, **changes: Any) -> Path:
    data = {"use": "dicom", "path": str(studies), "manifest": str(table), "size": 32, "broken": "skip"}
    base = {
        "name": "ward", "seed": 2, "rounds": 2, "topology": {"use": "complete", "names": [TWIN, "ct-02"]}, "fit": STORM["fit"],
        "incidents": [
            {"kind": "crash", "twin": TWIN, "at": 0.3, "revive_after": 0.2}, {"kind": "hu_step", "twin": "ct-02", "day": 1, "hu": 9},
        ],
        "device": {"day_s": 0.2, "history": 21}, "arrivals": {"rate": 40_000},
    }  # fmt: skip
    return written(folder, base, **{**changes, "data": data | changes.get("data", {})})


# ---------------------------------------------------------------------- the search


def forms(word: str) -> Iterator[tuple[str, bytes]]:
    """How a leak could be written."""
    raw = word.encode()
    for name, text in (("raw", word), ("lower", word.lower()), ("reversed", word[::-1])):
        yield name, text.encode()
    yield "utf-16", word.encode("utf-16-le")
    yield "hex", raw.hex().encode()
    yield "HEX", raw.hex().upper().encode()
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + raw + bytes(3))
        yield f"base64+{shift}", coded[(4 * shift + 2) // 3 : (4 * (shift + len(raw))) // 3]
    for kind in ("sha256", "md5"):
        yield kind, hashlib.new(kind, raw).hexdigest().encode()
        yield f"{kind} bytes", hashlib.new(kind, raw).digest()


def needles(words: list[str]) -> list[tuple[str, str, bytes]]:
    return [(word, form, found) for word in words for form, found in forms(word)]


def leaks(content: dict[str, bytes], words: list[str]) -> list[str]:
    """Where which word stands in which form; names of files count as content."""
    whole = b"\0".join([*content.values(), *(name.encode() for name in content)])
    found = [(word, form, raw) for word, form, raw in needles(words) if raw in whole]
    return [
        f"{word} as {form} in {name}" for word, form, raw in found for name, text in content.items() if raw in text or raw in name.encode()
    ]


def everything(*folders: Path) -> dict[str, bytes]:
    """Every regular file below `folders`."""
    content = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            try:
                if path.is_file() and not path.is_symlink():
                    content[str(path.relative_to(folder))] = path.read_bytes()
            except OSError:  # gone meanwhile
                continue
    return content


# ---------------------------------------------------------------------- what must hold


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Studies with canaries; one file is broken."""
    studies, table, words = hospital(tmp_path_factory.mktemp("ward"))
    cut_short(studies)
    return studies, table, words


def test_the_search_finds_every_form_of_a_planted_leak() -> None:
    word = canary("planted")
    for form, raw in forms(word):
        assert any(f"as {form} in log" in leak for leak in leaks({"log": b"\x00a " + raw + b" z"}, [word])), form
    for shift in range(3):
        assert leaks({"log": base64.b64encode(b"x" * (30 + shift) + word.encode() + b"and more")}, [word])
    assert leaks({f"logs/{word}.txt": b""}, [word])
    assert not leaks({"log": b"nothing " * 1000}, [word])


def test_the_canaries_do_stand_in_the_files(ward: tuple[Path, Path, list[str]]) -> None:
    studies, table, words = ward
    content = everything(studies) | {"labels.csv": table.read_bytes()}
    found = {leak.split(" ", 1)[0] for leak in leaks(content, words)}
    assert found == set(words)
    assert len(words) > 400


def test_nothing_of_a_patient_comes_out_of_a_local_run(ward: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    studies, table, words = ward
    ran = here(scenario(tmp_path, studies, table), out=tmp_path / "out")
    assert ran.code == 0, ran.err
    check_clean(everything(ran.folder) | {"screen": (ran.out + ran.err).encode()}, words)


def test_a_broken_file_is_refused_without_naming_it(ward: tuple[Path, Path, list[str]], tmp_path: Path) -> None:
    studies, table, words = ward
    ended = alone("run", scenario(tmp_path, studies, table, data={"broken": "refuse"}), "--executor", "local", "--out", tmp_path / "out")
    assert ended.returncode == 2
    assert "E31" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert leaks({"screen": (ended.stdout + ended.stderr).encode()}, words) == []
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def killed(ward: tuple[Path, Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, dict[str, bytes]]:
    """A run on Ray in which one actor is killed for real, and what lay in Ray's folder and the saved states meanwhile."""
    studies, table, _ = ward
    folder, temporary = tmp_path_factory.mktemp("killed"), Path(f"/tmp/k{os.getpid()}")
    temporary.mkdir()
    file = scenario(folder, studies, table, rounds=60)
    with Watched(file, out=folder / "out", temporary=temporary) as run:
        run.until("round 2/60")
        os.kill(next(pid for pid, _ in run.seen if _is_actor(pid)), signal.SIGKILL)
        run.until("as incarnation 3|process died[^$]*as incarnation 2")
        meanwhile = everything(temporary) | everything(folder / "out" / "state")
        code = run.ended(120)
        assert run.living() == []
    assert list(temporary.iterdir()) == []
    temporary.rmdir()
    return Ran(code, run.said, "", folder / "out"), meanwhile


def _is_actor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::CrewActor")
    except OSError:
        return False


@pytest.mark.ray
def test_nothing_of_a_patient_comes_out_of_a_run_on_ray_that_goes_wrong(
    ward: tuple[Path, Path, list[str]], killed: tuple[Ran, dict[str, bytes]]
) -> None:
    ran, meanwhile = killed
    assert any(name.endswith("raylet.out") for name in meanwhile)
    assert any(name.endswith(".state") for name in meanwhile)
    check_clean(everything(ran.folder) | meanwhile | {"screen": ran.out.encode()}, ward[2])


@pytest.mark.ray
def test_a_killed_actor_is_revived_and_the_run_says_what_it_lost(killed: tuple[Ran, dict[str, bytes]]) -> None:
    ran, _ = killed
    assert ran.code == 3, ran.out
    lost = [event for event in ran.of(facts.Crashed) if not event.scripted]
    assert len(lost) == 1
    twin = ran.summary["twins"][lost[0].twin]
    assert (twin["incarnation"], twin["rounds"]) == (3 if lost[0].twin == TWIN else 2, 60)
    assert any(f"{lost[0].twin} died" in reason for reason in ran.summary["reasons"])
    assert "something real, not scripted, was lost" in ran.page
    assert re.search(rf"status degraded: .*{lost[0].twin} died: its process is gone", ran.out), "frames may have been lost with it"
    assert np.isfinite(ran.summary["mean"]["accuracy"])


def check_clean(content: dict[str, bytes], words: list[str]) -> None:
    """No canary anywhere, while the name that a user gave a twin is found wherever one would look."""
    assert leaks(content, words) == []
    told = " ".join(leaks(content, [TWIN]))
    for place in ("events.msgpack", "summary.json", "report.html", "screen", f"models/{TWIN}.safetensors"):
        assert f"{TWIN} as raw in {place}" in told
