"""Turns: so many at a time, in whatever process, and a dead holder gives its place back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from p2pftl.swarm.turns import Turns

WORKER = """
import sys, time
from pathlib import Path
from p2pftl.swarm.turns import Turns
folder, turns = Path(sys.argv[1]), Turns(Path(sys.argv[1]), 2)
for k in range(20):
    with turns.turn():
        mine = folder / f"in-{sys.argv[2]}"
        mine.touch()
        time.sleep(0.002)
        print(len(list(folder.glob("in-*"))))
        mine.unlink()
"""
HOLDER = """
import sys, time
from pathlib import Path
from p2pftl.swarm.turns import Turns
with Turns(Path(sys.argv[1]), 1).turn():
    print("mine", flush=True)
    time.sleep(60)
"""


def test_no_more_processes_work_at_a_time_than_there_are_places(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(k)], stdout=subprocess.PIPE, text=True) for k in range(4)]
    said = [int(line) for worker in workers for line in worker.communicate(timeout=60)[0].split()]
    assert len(said) == 80
    assert max(said) <= 2


def test_who_dies_in_its_turn_gives_its_place_back(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        os.kill(holder.pid, signal.SIGKILL)
        with Turns(tmp_path, 1).turn():
            pass


def test_without_places_or_a_folder_of_ours_nobody_waits(tmp_path: Path) -> None:
    for turns in (Turns(tmp_path, 0), Turns(tmp_path / "nowhere", 2)):
        with turns.turn(), turns.turn():
            pass
