from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from p2pftl.device.ingest import Intake
from p2pftl.device.log import load
from p2pftl.device.show import SUFFIX
from p2pftl.device.watch import Totals, Watch, totals, watch
from p2pftl.errors import DataError, UsageError
from tests.device.ct_headers import drop, event, image, report, save
from tests.imaging.ct_file import SECRET, encode

NOW = 1_709_300_000.0
ROOT = Path(__file__).parents[2]
unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


class Desk:
    """A watched folder that is looked at by hand; every look is a second later."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.out, self.tick = tmp_path / "in", tmp_path / "out", 0.0
        self.folder.mkdir(exist_ok=True)
        self.open()

    def open(self) -> None:
        self.intake = Intake(self.out)
        self.watch = Watch(self.folder, self.intake)

    def look(self, times: int = 1) -> int:
        taken = 0
        for _ in range(times):
            self.tick += 1
            taken += self.watch.poll(NOW + self.tick, self.tick)
            self.intake.settle(NOW + self.tick)
            self.intake.commit()
        return taken

    @property
    def found(self) -> Totals:
        return totals(self.intake)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_file_is_taken_when_two_looks_found_it_the_same(desk: Desk) -> None:
    drop(desk.folder, "a.dcm", image())
    assert desk.look() == 0
    assert desk.watch.waiting == 1
    assert desk.look() == 1
    assert desk.look(5) == 0
    assert desk.found.images == 1


def test_a_growing_file_is_left_alone_until_it_stands(desk: Desk) -> None:
    whole = encode(image())
    for share in range(1, 6):
        (desk.folder / "a.dcm").write_bytes(whole[: len(whole) * share // 5])
        assert desk.look() == 0
    assert desk.look() == 1
    assert desk.found.refused == {}


def test_a_file_that_stalled_half_way_is_refused_and_counted_right_when_it_is_whole(desk: Desk) -> None:
    drop(desk.folder, "a.dcm", image(), -50)
    desk.look(5)
    assert desk.found.refused == {"E312": 1}
    drop(desk.folder, "a.dcm", image())
    desk.look(3)
    assert (desk.found.images, desk.found.refused) == (1, {})


def test_unfinished_hidden_and_linked_names_are_left_alone(desk: Desk, tmp_path: Path) -> None:
    for number, name in enumerate((".a.dcm", "b.dcm.part", "c.tmp", "d.filepart", "DICOMDIR", ".hidden/e.dcm")):
        drop(desk.folder, name, image(number))
    outside = drop(tmp_path / "outside", "f.dcm", image(9))
    (desk.folder / "link.dcm").symlink_to(outside)
    (desk.folder / "linked").symlink_to(outside.parent)
    (desk.folder / "loop").symlink_to(desk.folder)
    os.mkfifo(desk.folder / "pipe.dcm")
    assert desk.look(4) == 0
    (desk.folder / "b.dcm.part").rename(desk.folder / "b.dcm")
    assert desk.look(2) == 1


def test_subfolders_are_followed_as_they_come_and_go(desk: Desk) -> None:
    for number in range(4):
        drop(desk.folder / "a" / str(number), "x.dcm", image(number))
        desk.look(4)
    assert desk.found.images == 4
    shutil.rmtree(desk.folder / "a")
    desk.look(4)
    drop(desk.folder / "a" / "7", "x.dcm", image(7))
    desk.look(4)
    assert desk.found.images == 5


def test_a_renamed_file_is_no_news_and_a_copy_counts_as_again(desk: Desk) -> None:
    drop(desk.folder, "a.dcm", image())
    drop(desk.folder, "broken.dcm", image(), 300)
    desk.look(3)
    (desk.folder / "a.dcm").rename(desk.folder / "b.dcm")
    (desk.folder / "broken.dcm").rename(desk.folder / "broken too.dcm")
    assert desk.look(4) == 0
    shutil.copy(desk.folder / "b.dcm", desk.folder / "c.dcm")
    assert desk.look(4) == 1
    assert (desk.found.images, desk.found.again, desk.found.refused) == (1, 1, {"E311": 1})


def test_a_file_replaced_by_another_image_counts_as_that_image(desk: Desk) -> None:
    for number in range(5):
        new = drop(desk.folder, "new.part", image(number))
        new.replace(desk.folder / "a.dcm")
        desk.look(3)
    assert desk.found.images == 5


def test_touching_a_file_changes_no_count(desk: Desk) -> None:
    path = drop(desk.folder, "a.dcm", image())
    desk.look(3)
    path.write_bytes(path.read_bytes())
    os.utime(path, (0, 0))
    desk.look(4)
    assert (desk.found.images, desk.found.again) == (1, 0)


def test_a_file_in_a_folder_that_looks_unchanged_is_found_by_the_sweep(desk: Desk) -> None:
    drop(desk.folder, "a.dcm", image(1))
    desk.look(10)
    about = desk.folder.stat()
    drop(desk.folder, "b.dcm", image(2))
    os.utime(desk.folder, ns=(about.st_atime_ns, about.st_mtime_ns))  # a disk with a coarse clock
    assert desk.look(40) == 1


def test_a_folder_that_rests_is_not_listed_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        drop(desk.folder / str(number), "x.dcm", image(number))
    desk.look(31)  # a sweep has just been
    listed = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), real(path))[1])
    desk.look(10)
    assert listed == []


def test_file_times_in_the_future_or_the_past_make_no_difference(desk: Desk) -> None:
    for number, year in enumerate((-30, -1, 1, 30)):
        path = drop(desk.folder, f"{number}.dcm", image(number))
        os.utime(path, (time.time() + year * 3e7,) * 2)
    assert desk.look(2) == 4


def test_a_restart_counts_nothing_twice_and_goes_on(desk: Desk) -> None:
    for number in range(4):
        drop(desk.folder, f"{number}.dcm", image(number))
    drop(desk.folder, "broken.dcm", image(8), -1)
    desk.look(3)
    before = desk.found
    desk.intake.__exit__(None, None, None)
    desk.open()
    desk.watch.poll(NOW, 0.0)
    assert desk.look(4) == 0
    assert desk.found == before
    drop(desk.folder, "9.dcm", image(9))
    desk.look(3)
    assert desk.found.images == 5


def test_more_files_than_are_waited_for_at_once_all_come(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pftl.device.watch.MOST_PENDING", 7)
    for number in range(30):
        drop(desk.folder, f"{number:02}.dcm", image(number))
    most = 0
    for _ in range(40):
        desk.look()
        most = max(most, desk.watch.waiting)
    assert most == 7
    assert desk.found.images == 30


@unprivileged
def test_a_file_without_permission_is_named_by_code_and_taken_when_it_may_be(desk: Desk) -> None:
    path = drop(desk.folder, "a.dcm", image())
    path.chmod(0)
    desk.look(4)
    assert desk.found.refused == {"E307": 1}
    path.chmod(0o600)
    desk.look(4)
    assert (desk.found.images, desk.found.refused) == (1, {})


@unprivileged
def test_a_folder_without_permission_is_counted_once(desk: Desk) -> None:
    drop(desk.folder / "shut", "a.dcm", image())
    (desk.folder / "shut").chmod(0)
    desk.look(5)
    assert desk.found.refused == {"E307": 1}
    (desk.folder / "shut").chmod(0o700)
    desk.look(4)
    assert desk.found.images == 1


def test_a_disk_that_fails_while_a_file_is_read_is_a_code(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(desk.folder, "a.dcm", image())

    def failing(path: Path, *_: object) -> object:
        raise OSError(5, f"I/O error on {SECRET}", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        desk.look(3)
    assert desk.found.refused == {"E307": 1}


def test_the_watched_folder_may_vanish_and_come_back(desk: Desk) -> None:
    drop(desk.folder, "a.dcm", image(1))
    desk.look(3)
    shutil.rmtree(desk.folder)
    assert desk.look(3) == 0
    drop(desk.folder, "b.dcm", image(2))
    desk.look(3)
    assert desk.found.images == 2


def test_a_folder_that_is_not_there_or_not_one_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nowhere", "file"):
        with pytest.raises(DataError, match="E301"):
            watch(tmp_path / name, tmp_path / "out", once=True)
    (tmp_path / "in").mkdir()
    for out in ("in", "in/twins"):
        with pytest.raises(UsageError, match="E602"):
            watch(tmp_path / "in", tmp_path / out, once=True)


# ---------------------------------------------------------------------- the loop


def test_once_takes_everything_that_is_there_and_tells_it(tmp_path: Path) -> None:
    for number in range(5):
        drop(tmp_path / "in", f"{SECRET}{number}.dcm", image(number, z=2.0 * number))
    save(report([event()], study=2), tmp_path / "in")
    drop(tmp_path / "in", f"{SECRET}.dcm", image(), 300)
    (tmp_path / "in" / f"{SECRET}.txt").write_text(SECRET)
    said: list[str] = []
    found = watch(tmp_path / "in", tmp_path / "out", every=0.01, once=True, say=said.append)
    assert (found.images, found.reports, found.refused, found.other) == (5, 1, {"E311": 1}, 1)
    assert found.twins == {"siemens-1": 5}
    assert load(tmp_path / "out" / f"siemens-1{SUFFIX}").state.get("tube.exposures") == 2
    assert "refused: E311 1" in said
    assert not any(SECRET in line or str(tmp_path) in line for line in said)


def test_the_loop_ends_when_it_is_told_to(tmp_path: Path) -> None:
    drop(tmp_path / "in", "a.dcm", image())
    stop = threading.Event()
    said: list[str] = []
    thread = threading.Thread(
        target=watch, args=(tmp_path / "in", tmp_path / "out"), kwargs={"every": 0.01, "stop": stop, "say": said.append}
    )
    thread.start()
    while not said:
        time.sleep(0.01)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    with Intake(tmp_path / "out"):
        """The twins are free again."""


WATCHING = """
import sys
from pathlib import Path
from p2pftl.device.show import SUFFIX
from p2pftl.device.watch import watch
print("ready", flush=True)
watch(Path(sys.argv[1]), Path(sys.argv[2]), every=0.01, calm=0.0, wait=0.0)
"""


def watching(tmp_path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WATCHING, str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_the_totals(tmp_path: Path, number: int) -> None:
    drop(tmp_path / "in", "a.dcm", image())
    process = watching(tmp_path)
    while not (tmp_path / "out" / f"siemens-1{SUFFIX}").exists():
        time.sleep(0.01)
    process.send_signal(number)
    said, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""
    assert said.splitlines()[-2:] == ["1 images (0 of phantoms), 0 dose reports, 0 came again", "siemens-1: 1 images"]


def test_killed_at_any_moment_it_counts_each_file_once(tmp_path: Path) -> None:
    for number in range(300):
        drop(
            tmp_path / "in", f"{number}.dcm", image(number % 280, series=number % 280 % 3, z=float(number), hour=f"10{number % 280 % 3}500")
        )
    for moment in (0.05, 0.15, 0.3):
        process = watching(tmp_path)
        time.sleep(moment)
        process.kill()
        process.communicate()
    found = watch(tmp_path / "in", tmp_path / "out", every=0.01, once=True, say=lambda line: None)
    assert (found.images, found.again) == (280, 20)
    assert load(tmp_path / "out" / f"siemens-1{SUFFIX}").state.get("sync.images") == 280


# ---------------------------------------------------------------------- the promise of issue 4


DROPPING = """
import os, sys, time
from pathlib import Path
from tests.device.ct_headers import drop, image
from tests.imaging.ct_file import SECRET, encode, text, text
folder = Path(sys.argv[1])
MR = {0x00080060: ("CS", text("MR"))}
KV = {0x00180060: ("DS", text(SECRET))}
for n in range(1000):
    kind, where, name = n % 20, folder / f"{SECRET}{n % 7}" / str(n % 3), f"{SECRET}-{n}.dcm"
    tags = image(n, series=n % 5, serial=str(n % 4), z=float(n), hour=f"10{n % 5}000")
    if kind == 0: drop(where, name, tags, 0)
    elif kind == 1: drop(where, name, tags, 400)
    elif kind == 2: drop(where, name, tags, -60)
    elif kind == 3: drop(where, name, {**tags, **MR})
    elif kind == 4: drop(where, name, {**tags, **KV})
    elif kind == 5:
        copy = image(n + 1, series=(n + 1) % 5, serial=str((n + 1) % 4), z=float(n + 1), hour=f"10{(n + 1) % 5}000")
        drop(where, name, copy)
    elif kind == 7: drop(where, name + ".part", tags).rename(where / name)
    elif kind == 8:
        whole = encode(tags)
        where.mkdir(parents=True, exist_ok=True)
        with (where / name).open("wb") as file:
            for part in (whole[:500], whole[500:]):
                file.write(part); file.flush(); time.sleep(0.002)
    else: drop(where, name, tags)
"""


def test_a_thousand_files_dropped_by_another_process_are_each_counted_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    desk = Desk(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", DROPPING, str(desk.folder)], cwd=ROOT)
    meanwhile = 0
    while (running := other.poll() is None) or desk.look() or desk.watch.waiting:
        meanwhile += desk.look() if running else 0
        time.sleep(0.02)
    assert other.returncode == 0
    assert meanwhile > 0
    found = desk.found
    assert found.refused == {"E310": 50, "E311": 50, "E312": 50, "E319": 50, "E350": 50}
    assert (found.images, found.again) == (700, 50)  # kind 5 is a copy of the image of kind 6
    assert sum(found.twins.values()) == 700
    assert len(found.twins) == 4
    desk.intake.__exit__(None, None, None)
    for path in desk.out.glob(f"*{SUFFIX}"):
        assert load(path).state.get("sync.images") == found.twins[path.name.removesuffix(SUFFIX)]
    written = b"".join(path.read_bytes() for path in desk.out.iterdir()) + "".join((*capfd.readouterr(), *found.lines())).encode()
    assert SECRET.encode() not in written
    assert str(desk.folder).encode() not in written
