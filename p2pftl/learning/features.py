"""What frozen layers make of images: always computed in the same way, so that it can be kept instead of computed again.

The numbers that a network gives one image depend on how many images are in its batch (other kernels are chosen), not on
which they are nor on their places. So frozen layers only ever see batches of one size, and a kept feature is equal, bit
for bit, to the one that would be computed now: keeping them changes how long a run takes and nothing else.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.models import Model
from p2pftl.learning.shelf import Counts, Shelf
from p2pftl.learning.specs import FeatureCache
from p2pftl.params import Ranges, Vector

Rows = npt.NDArray[np.int64] | slice
Images = npt.NDArray[np.float32]

BLOCK = 16
"""Images that frozen layers see at once in a fit; the last block is filled up with black ones."""


@dataclass(frozen=True)
class Look:
    """Which images are looked at, through how many frozen layer groups.

    depth: groups 0..depth-1 are frozen; read: images of some rows of the cohort where they are not `cohort.images`, and view: what
    tells those from any others; shared: twins at different depths look at this cohort.
    """

    cohort: Cohort
    depth: int
    read: Callable[[Rows], Images] | None = None
    view: Hashable = None
    shared: bool = False

    def images(self, rows: Rows) -> Images:
        """Return [B, 1, H, W] float32 in [0, 1]."""
        return self.cohort.images(rows) if self.read is None else self.read(rows)


class Features:
    """The features of one process's cohorts under the frozen layers of its model, kept while there is room.

    They stay valid for the same cohort object, view, depth and frozen values (statistics included), and go when their cohort goes.
    A cohort's features at another depth take the place of its old ones, unless it is shared.
    """

    def __init__(self, model: Model, settings: FeatureCache, folder: Path | None = None) -> None:
        """Keep as much as `settings` say; what has no room in memory goes to `folder` if it spills (see Shelf)."""
        self.model = model
        self._shelf = Shelf(settings, folder)
        self._known: dict[Hashable, _Known] = {}
        self._frozen: dict[int, tuple[list[Vector], bytes]] = {}  # depth -> the frozen values met last, and their hash
        self._ranges: dict[int, Ranges] = {}
        self._sizes: dict[Hashable, int] = {}

    @property
    def counts(self) -> Counts:
        return self._shelf.counts

    def rows(self, look: Look, vector: Vector) -> Callable[[npt.NDArray[np.int64]], Tensor]:
        """Return what gives the features of any rows of the cohort, for a fit.

        The model holds `vector` (in its frozen part at least), with the frozen layers in evaluation mode.
        """
        forms, matrix = self._kept(look, vector, BLOCK, filled_up=True)
        if matrix is None:
            return lambda rows: self.now(look.images(rows), look.depth)
        form, whole = forms[BLOCK], matrix
        return lambda rows: form.features(whole.index_select(0, torch.from_numpy(rows)))

    def blocks(self, look: Look, vector: Vector, block: int) -> Iterator[Tensor]:
        """Yield the features of the whole cohort in its order, `block` images at a time and the rest as it is, for a score."""
        forms, matrix = self._kept(look, vector, block, filled_up=False)
        for part in _cut(len(look.cohort), block):
            if matrix is None:
                form, rows = _see(self.model, look.images(part), look.depth)
            else:
                form, rows = forms[part.stop - part.start], matrix[part]
            yield form.features(rows)

    def now(self, images: Images, depth: int) -> Tensor:
        """Features of images [B, 1, H, W], computed and not kept."""
        seen = [_see(self.model, images[part], depth, BLOCK) for part in _cut(len(images), BLOCK)]
        return seen[0][0].features(torch.cat([rows for _, rows in seen]))

    # ------------------------------------------------------------------ what is kept

    def _kept(self, look: Look, vector: Vector, block: int, *, filled_up: bool) -> tuple[dict[int, _Form], Tensor | None]:
        """The features of a cohort, kept from before or computed now; None if there is no room for them."""
        if self._shelf.closed:
            return {}, None
        key = (id(look.cohort), look.view, block, filled_up, look.depth if look.shared else None)
        frozen = self._hash(vector, look.depth)
        known = self._known.get(key)
        if known is not None and known.describes(look, frozen):
            matrix = self._shelf.get(key)
            if matrix is not None:
                return known.forms, matrix
        self._forget(key)
        forms: dict[int, _Form] = {}
        parts = self._computed(look, block if filled_up else 0, _cut(len(look.cohort), block), forms)
        matrix = self._shelf.put(key, parts, len(look.cohort), self._row_bytes(look))
        if matrix is not None:
            self._known[key] = _Known(weakref.ref(look.cohort, self._when_gone(key)), look.depth, frozen, forms)
        return forms, matrix

    def _computed(self, look: Look, fill_to: int, parts: list[slice], forms: dict[int, _Form]) -> Iterator[Tensor]:
        """Yield the features of the cohort part by part as matrices, and note their forms by the size of the batch."""
        for part in parts:
            form, rows = _see(self.model, look.images(part), look.depth, fill_to)
            forms[fill_to or len(rows)] = form
            yield rows

    def _hash(self, vector: Vector, depth: int) -> bytes:
        """Hash of the frozen values; while they stay as they are, comparing them is much quicker than hashing them."""
        layout = self.model.layout
        if depth not in self._ranges:
            self._ranges[depth] = layout.ranges(layout.of_groups(0, depth - 1))
        frozen = [vector[start:stop] for start, stop in self._ranges[depth]]
        known = self._frozen.get(depth)
        if known is None or not all(map(_same_bytes, known[0], frozen)):
            whole = hashlib.sha256()
            for piece in frozen:
                whole.update(piece.data)
            known = self._frozen[depth] = ([piece.copy() for piece in frozen], whole.digest())
        return known[1]

    def _row_bytes(self, look: Look) -> int:
        """Bytes of one image's features: the network is asked once, with a black image."""
        size = look.cohort.pixels.shape[1:]
        if (look.depth, size) not in self._sizes:
            self._sizes[look.depth, size] = _see(self.model, np.zeros((1, 1, *size), np.float32), look.depth)[1].nbytes
        return self._sizes[look.depth, size]

    def _forget(self, key: Hashable) -> None:
        self._known.pop(key, None)
        self._shelf.drop(key)

    def _when_gone(self, key: Hashable) -> Callable[[weakref.ref[Cohort]], None]:
        """Return what forgets `key`; it does not keep this object alive."""
        me = weakref.ref(self)

        def forget(_: weakref.ref[Cohort]) -> None:
            features = me()
            if features is not None:
                features._forget(key)

        return forget


@dataclass(frozen=True)
class _Form:
    """How one image's features lie in memory: shape and strides without the batch, in elements; where they belong."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: torch.device

    def features(self, rows: Tensor) -> Tensor:
        """Read a contiguous matrix, one image a row, as features that cannot be told from the network's own."""
        return rows.to(self.device).as_strided((len(rows), *self.shape), (rows.shape[1], *self.strides))


@dataclass(frozen=True)
class _Known:
    """What kept features are valid for. forms: by the size of the batch that the network saw."""

    cohort: weakref.ref[Cohort]
    depth: int
    frozen: bytes
    forms: dict[int, _Form]

    def describes(self, look: Look, frozen: bytes) -> bool:
        return (self.depth, self.frozen) == (look.depth, frozen) and self.cohort() is look.cohort


def _see(model: Model, images: Images, depth: int, fill_to: int = 0) -> tuple[_Form, Tensor]:
    """Run images through the frozen layers at once, filled up to `fill_to`; return form and matrix [B, bytes as they lie]."""
    count = len(images)
    if count < fill_to:
        images = np.concatenate((images, np.zeros((fill_to - count, *images.shape[1:]), np.float32)))
    with torch.no_grad():
        features = model.lower(torch.from_numpy(images), depth)
    order = sorted(range(1, features.dim()), key=features.stride, reverse=True)
    if not features.permute(0, *order).is_contiguous():  # never seen: a view into something larger
        features, order = features.contiguous(), list(range(1, features.dim()))
    form = _Form(tuple(features.shape[1:]), tuple(features.stride()[1:]), features.device)
    return form, features.permute(0, *order).reshape(len(features), -1)[:count]


def _same_bytes(one: Vector, other: Vector) -> bool:
    return np.array_equal(one.view(np.int32), other.view(np.int32))


def _cut(n: int, block: int) -> list[slice]:
    return [slice(at, min(at + block, n)) for at in range(0, n, block)]
