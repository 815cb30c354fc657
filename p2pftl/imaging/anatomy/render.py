"""Draw patients in processes of their own, because anatomy is numpy and one core is not enough.

Each process runs this module, imports numpy and scipy only, and answers orders (a JSON line) with pictures (a JSON
line, then float32 pixels). One thread each and always in such a process: the same order gives the same bytes,
whoever asks for whatever else.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from p2pftl.errors import UsageError

if TYPE_CHECKING:
    from p2pftl.imaging.anatomy.lesions import Pathology
    from p2pftl.imaging.anatomy.shapes import Plane

AHEAD = 2  # orders a process holds, so that it never waits for the next


@dataclass(frozen=True)
class Order:
    """`slices` axial cuts of `thickness` mm, `size` pixels wide, of one patient."""

    seed: int
    pathology: Pathology
    size: int
    slices: int
    thickness: float


@dataclass(frozen=True)
class Pictures:
    """What an order asked for: hu [k, n, n] float32 without any noise; levels in mm below the lung apex."""

    hu: Plane
    levels: tuple[float, ...]
    pixel_mm: float
    sex: str
    age: int


def rendered(orders: Sequence[Order]) -> Iterator[Pictures]:
    """Yield the pictures of each order, in order. Raises UsageError E610 when a process is killed (memory)."""
    crew = [_started() for _ in range(min(os.cpu_count() or 1, len(orders)))]
    try:
        for turn in range(min(AHEAD * len(crew), len(orders))):
            _ask(crew[turn % len(crew)], orders[turn])
        for turn in range(len(orders)):
            artist = crew[turn % len(crew)]
            yield _answer(artist, orders[turn])
            if turn + AHEAD * len(crew) < len(orders):
                _ask(artist, orders[turn + AHEAD * len(crew)])
    finally:
        for artist in crew:
            artist.kill()
            artist.communicate()


def drawn(order: Order) -> Pictures:
    """Draw one order in this process."""
    from p2pftl.imaging.anatomy.patient import Patient  # here: it brings scipy, which who only places orders need not wait for

    patient = Patient(order.seed, order.pathology, order.size)
    levels = patient.levels(order.slices)
    hu = np.stack([patient.slice(z, order.thickness)[0] for z in levels])
    return Pictures(hu, tuple(levels), patient.pixel_mm, patient.build.sex, patient.build.age)


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """Answer orders until there are no more."""
    for line in orders:
        done = drawn(Order(**json.loads(line)))
        note = {"levels": done.levels, "pixel_mm": done.pixel_mm, "sex": done.sex, "age": done.age}
        answers.write(json.dumps(note).encode() + b"\n" + done.hu.astype("<f4").tobytes())
        answers.flush()


def _started() -> subprocess.Popen[bytes]:
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    where = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "p2pftl.imaging.anatomy.render"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | single | where,
        start_new_session=True,  # Ctrl-C reaches only the parent, which ends us
    )


def _ask(artist: subprocess.Popen[bytes], order: Order) -> None:
    assert artist.stdin
    try:
        artist.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        artist.stdin.flush()
    except BrokenPipeError:
        raise _gone(artist) from None


def _answer(artist: subprocess.Popen[bytes], order: Order) -> Pictures:
    assert artist.stdout
    line = artist.stdout.readline()
    need = order.slices * order.size**2 * 4
    pixels = artist.stdout.read(need) if line else b""
    if len(pixels) < need:
        raise _gone(artist)
    hu = np.frombuffer(pixels, "<f4").reshape(order.slices, order.size, order.size)
    note = json.loads(line)
    return Pictures(hu, tuple(note["levels"]), note["pixel_mm"], note["sex"], note["age"])


def _gone(artist: subprocess.Popen[bytes]) -> UsageError:
    artist.kill()
    return UsageError("E610", f"a process that draws the phantom ended with {artist.wait()}", fix="free some memory and run again")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever ordered is gone
        serve(sys.stdin.buffer, sys.stdout.buffer)
