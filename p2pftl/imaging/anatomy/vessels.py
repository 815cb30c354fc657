"""Vessel and airway trees of the lungs, grown into the lung they supply, and their sections.

Recursive median bisection of points strewn through the lung (after Tawhai et al., J Appl Physiol 2004): each branch
heads for the centre of its points, which are then halved across their widest direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p2pftl.draw import draw
from p2pftl.imaging.anatomy.build import Build
from p2pftl.imaging.anatomy.outlines import lungs
from p2pftl.imaging.anatomy.shapes import Plane

Points = npt.NDArray[Any]

LEVELS, SEEDS = 11, 2048
REACH = (0.34, 0.34, 0.42, 0.42, 0.42, 0.44, 0.46, 0.5, 0.6, 0.75, 0.95)  # share of the way to the centre, per level
THINNEST = 0.45  # mm
BRONCHIAL_LEVELS = 6
STAMPS = (1, 2, 3, 5, 8, 13)  # half widths in pixels of the patches discs are drawn in


@dataclass(frozen=True)
class Beads:
    """A tree as overlapping balls, sorted by z: centre [N, 3] and radius [N], mm."""

    centre: Plane
    radius: Plane


@dataclass(frozen=True)
class Branches:
    """start, end [B, 3], mm; radius [B], mm; level [B], 0 at the hilum."""

    start: Points
    end: Points
    radius: Points
    level: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Trees:
    """All pulmonary vessels, and the bronchi that accompany the arteries."""

    vessels: Beads
    bronchi: Beads


def grown_trees(build: Build, seed: int) -> Trees:
    """Grow an artery and a vein tree in each lung, and bronchi beside the arteries."""
    vessels, bronchi = [], []
    for side, lung in ((-1, "right"), (1, "left")):
        seeds = _strewn(build, side, seed, lung)
        s, z = build.scale, build.lung_mm
        arteries = _grown(seeds, (side * 26 * s, 8 * s, 0.46 * z), 7.4 * s, draw(seed, "artery", lung))
        veins = _grown(seeds, (side * 22 * s, 0.0, 0.56 * z), 6.4 * s, draw(seed, "vein", lung))
        string, level = _strung(arteries, draw(seed, "bends", "artery", lung))
        vessels += [string, _strung(veins, draw(seed, "bends", "vein", lung))[0]]
        bronchi.append(_beside(string[level < BRONCHIAL_LEVELS], side))
    return Trees(_sorted(np.concatenate(vessels)), _sorted(np.concatenate(bronchi)))


def section(beads: Beads, z: float, thickness: float, n: int, pixel: float, grow: float = 1.0) -> Plane:
    """Return how much of each pixel of a slice the beads fill, [n, n] in 0..1; `grow` widens them."""
    half = thickness / 2
    widest = float(beads.radius.max()) * grow + half
    first, last = np.searchsorted(beads.centre[:, 2], (z - widest, z + widest))
    centre, radius = beads.centre[first:last], beads.radius[first:last] * grow
    off = np.maximum(np.abs(centre[:, 2] - z) - half, 0)
    chord = radius**2 - off**2
    row, column = centre[:, 1] / pixel + (n / 2 - 0.5), centre[:, 0] / pixel + (n / 2 - 0.5)
    seen = (chord > 0.04) & (row > 0) & (row < n - 1) & (column > 0) & (column < n - 1)
    size = np.sqrt(chord[seen])
    share = np.minimum(1, 2 * size / thickness) ** 0.5 * np.minimum(1, 2 * size / pixel)  # thinner than slice or pixel
    return _stamped(row[seen], column[seen], size / pixel, share, n)


def _stamped(row: Plane, column: Plane, radius: Plane, share: Plane, n: int) -> Plane:
    margin = STAMPS[-1]
    width = n + 2 * margin
    image = np.zeros(width * width, np.float32)
    narrower = -1.0
    for reach in STAMPS:
        chosen = (radius > narrower) & (radius <= (reach - 0.5 if reach < STAMPS[-1] else np.inf))
        narrower = reach - 0.5
        if not chosen.any():
            continue
        y, x, r = row[chosen, None, None], column[chosen, None, None], radius[chosen, None, None]
        step = np.arange(-reach, reach + 1)
        rows, columns = np.rint(y).astype(int) + step[:, None], np.rint(x).astype(int) + step
        cover = np.clip(r + 0.5 - np.hypot(rows - y, columns - x), 0, 1) * share[chosen, None, None]
        np.maximum.at(image, ((rows + margin) * width + columns + margin).ravel(), cover.ravel().astype(np.float32))
    return image.reshape(width, width)[margin:-margin, margin:-margin]


def _strewn(build: Build, side: int, seed: int, lung: str) -> Points:
    """Points spread evenly through one lung, [SEEDS, 3] mm, at least 2 mm under the pleura."""
    generator = draw(seed, "seeds", lung)
    found: list[Points] = []
    while sum(map(len, found)) < SEEDS:
        u = generator.uniform(0.02, 1.0, 2 * SEEDS)
        x = generator.uniform(4, build.chest_width, u.size) * side
        y = generator.uniform(-build.chest_depth, build.chest_depth, u.size)
        inside = lungs(build, x.astype(np.float32), y.astype(np.float32), u) < -2
        found.append(np.stack([x, y, u * build.lung_mm], 1)[inside])
    return np.concatenate(found)[:SEEDS]


def _grown(seeds: Points, root: tuple[float, float, float], radius: float, generator: np.random.Generator) -> Branches:
    groups, start = seeds[None], np.array([root])
    grown: list[Branches] = []
    for level in range(LEVELS):
        centre = groups.mean(1)
        way = centre - start
        length = np.linalg.norm(way, axis=1, keepdims=True)
        end = start + REACH[level] * way + generator.normal(0, 0.06, way.shape) * length
        thick = radius * 2 ** (-level / 2.9) * np.exp(generator.normal(0, 0.1, len(way)))
        grown.append(Branches(start, end, np.maximum(thick, THINNEST), np.full(len(way), level)))
        groups, start = _halved(groups, centre, end - start), np.repeat(end, 2, 0)
    return Branches(*(np.concatenate([getattr(part, name) for part in grown]) for name in ("start", "end", "radius", "level")))


def _halved(groups: Points, centre: Points, heading: Points) -> Points:
    """Split every group [G, N, 3] into two of N/2 across its widest direction at right angles to the branch."""
    heading = heading / (np.linalg.norm(heading, axis=1, keepdims=True) + 1e-9)
    about = groups - centre[:, None]
    about = about - (about @ heading[:, :, None]) * heading[:, None]
    spread = about.transpose(0, 2, 1) @ about
    for _ in range(3):  # squaring brings out the largest eigenvector
        spread = spread / (np.trace(spread, axis1=1, axis2=2)[:, None, None] + 1e-9)
        spread = spread @ spread
    column = np.argmax(np.diagonal(spread, axis1=1, axis2=2), 1)
    widest = np.take_along_axis(spread, column[:, None, None], 2)
    order = np.argsort((about @ widest)[:, :, 0], 1)
    many, size, _ = groups.shape
    return np.take_along_axis(groups, order[:, :, None], 1).reshape(2 * many, size // 2, 3)


def _strung(tree: Branches, generator: np.random.Generator, step: float = 0.8) -> tuple[Points, npt.NDArray[np.int64]]:
    """Beads every `step` mm along slightly bent branches: (x, y, z, radius) [N, 4] and their level [N]."""
    length = np.linalg.norm(tree.end - tree.start, axis=1)
    count = np.maximum(2, (length / step).astype(int) + 1)
    branch = np.repeat(np.arange(len(count)), count)
    along = ((np.arange(len(branch)) - np.repeat(np.cumsum(count) - count, count)) / (count[branch] - 1))[:, None]
    bend = generator.normal(0, 0.045, tree.start.shape) * length[:, None]
    place = tree.start[branch] + (tree.end - tree.start)[branch] * along + bend[branch] * (4 * along * (1 - along))
    radius = tree.radius[branch, None] * (1 - 0.18 * along)
    return np.concatenate([place, radius], 1), tree.level[branch]


def _beside(string: Points, side: int) -> Points:
    """Shift an artery's beads to where its bronchus runs, a little narrower."""
    radius = string[:, 3]
    shifted: Points = string + np.stack([-0.2 * side * radius, 1.7 * radius, 0 * radius, 0 * radius], 1)
    shifted[:, 3] = np.maximum(0.62 * radius, 0.5)
    return shifted


def _sorted(string: Points) -> Beads:
    ordered = string[np.argsort(string[:, 2])].astype(np.float32)
    return Beads(ordered[:, :3], ordered[:, 3])
