"""Where features are kept: so many bytes of memory, and files that have no name."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from p2pftl.learning.specs import FeatureCache

_MEGABYTE = 1_000_000


@dataclass
class Counts:
    """What a shelf did so far.

    hits: matrices found; misses: matrices computed because they were not; dropped: given up, or never kept, for want of room;
    memory, disk: bytes in use now.
    """

    hits: int = 0
    misses: int = 0
    dropped: int = 0
    memory: int = 0
    disk: int = 0


class Shelf:
    """Matrices by key within a budget of memory; who was not used for longest goes first.

    Where the settings spill it goes to a file, as does a matrix larger than the whole budget. A file lies in `folder` (the
    system's folder for temporary files if None) without a name, so that nothing made of patients' images outlives the process.
    A matrix that neither memory nor disk has room for is not kept.
    """

    def __init__(self, settings: FeatureCache, folder: Path | None) -> None:
        self.counts = Counts()
        self._budget = round(settings.memory * _MEGABYTE) if settings.cache else 0
        self._spills = settings.cache and settings.spill
        self._folder = folder
        self._memory: OrderedDict[Hashable, Tensor] = OrderedDict()  # least recently used first
        self._disk: dict[Hashable, Tensor] = {}

    @property
    def closed(self) -> bool:
        """Whether nothing will ever be kept."""
        return self._budget == 0 and not self._spills

    def get(self, key: Hashable) -> Tensor | None:
        """Return the matrix put under `key`, None if it is gone."""
        if key in self._memory:
            self._memory.move_to_end(key)
        found = self._memory.get(key, self._disk.get(key))
        self.counts.hits += found is not None
        return found

    def put(self, key: Hashable, parts: Iterator[Tensor], rows: int, row_bytes: int) -> Tensor | None:
        """Keep the matrix [rows, ...] whose rows `parts` yield; return it, or None (`parts` unread) if there is no room at all."""
        self.counts.misses += 1
        size = rows * row_bytes
        if size <= self._budget:
            self._make_room(size)
            matrix = self._memory[key] = _together(parts, rows)
            self.counts.memory += matrix.nbytes
            return matrix
        written = self._write(key, parts, rows) if self._spills else None
        self.counts.dropped += written is None
        return written

    def drop(self, key: Hashable) -> None:
        """Forget `key`, if it is there."""
        if key in self._memory:
            self.counts.memory -= self._memory.pop(key).nbytes
        if key in self._disk:
            self.counts.disk -= self._disk.pop(key).nbytes

    def _make_room(self, size: int) -> None:
        while self.counts.memory + size > self._budget:
            key, matrix = self._memory.popitem(last=False)
            self.counts.memory -= matrix.nbytes
            if not self._spills or self._write(key, iter((matrix,)), len(matrix)) is None:
                self.counts.dropped += 1

    def _write(self, key: Hashable, parts: Iterator[Tensor], rows: int) -> Tensor | None:
        """Keep a matrix in a file; None if the disk is full."""
        try:
            matrix = self._disk[key] = _on_disk(parts, rows, self._folder)
        except OSError:
            return None
        self.counts.disk += matrix.nbytes
        return matrix


def _together(parts: Iterator[Tensor], rows: int) -> Tensor:
    """One matrix in memory; never holds more than itself and one part."""
    first = next(parts)
    matrix = first.new_empty((rows, *first.shape[1:]))
    matrix[: len(first)] = first
    at = len(first)
    for part in parts:
        matrix[at : at + len(part)] = part
        at += len(part)
    return matrix


def _on_disk(parts: Iterator[Tensor], rows: int, folder: Path | None) -> Tensor:
    """One matrix mapped from a nameless file. Raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            dtype = part.dtype
            _append(file, part)
        file.flush()
        # "c": a file that is only read makes an array torch warns of.
        return torch.from_numpy(np.memmap(file, np.uint8, "c")).view(dtype).view(rows, -1)


def _append(file: IO[bytes], part: Tensor) -> None:
    # Written, not mapped, because a full disk then is an error here and not a signal that ends the process.
    file.write(part.cpu().contiguous().view(torch.uint8).numpy().data)
