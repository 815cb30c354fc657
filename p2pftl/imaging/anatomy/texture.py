"""Random fields of the patient's space: continuous in x, y and z, in mm, the same at every image size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from p2pftl.draw import draw
from p2pftl.imaging.anatomy.shapes import Plane, axis


@dataclass(frozen=True)
class Recipe:
    """Power spectrum f^-fall (in 3-D) between two wavelengths, on a periodic cube of `side` voxels of `voxel` mm."""

    name: str
    side: int
    voxel: float
    fall: float
    shortest: float
    longest: float


GRAIN = Recipe("grain", 128, 1.5, 2.6, 3.0, 90.0)  # lung parenchyma, fat lobules, muscle fibres
RELIEF = Recipe("relief", 64, 4.0, 5.0, 32.0, 250.0)  # unevenness of outlines
PATCHES = Recipe("patches", 64, 4.0, 4.2, 8.0, 130.0)  # shape and density of opacities, emphysema
SEPTA = Recipe("septa", 128, 1.5, 1.4, 4.5, 13.0)  # interlobular network, where it crosses zero


class Texture:
    """One patient's view of a recipe: the common cube, shifted and flipped by the patient's own draws."""

    def __init__(self, recipe: Recipe, seed: int, *name: str | int) -> None:
        self.recipe = recipe
        generator = draw(seed, "texture", recipe.name, *name)
        self.shift = generator.uniform(0, recipe.side * recipe.voxel, 3)
        self.sign = generator.choice([-1.0, 1.0], 3)

    def plane(self, z: float, n: int, fov_mm: float) -> Plane:
        """Return the field at level `z` mm, [n, n], averaged over each pixel; about zero mean, unit variance per point."""
        cube = _cube(self.recipe)
        at = self._place(z, 2)
        low = int(np.floor(at))
        share = np.float32(at - low)
        layer = (1 - share) * cube[low % len(cube)] + share * cube[(low + 1) % len(cube)]
        down, right = (_resampling(self.recipe, n, fov_mm, float(self.shift[i]), float(self.sign[i])) for i in (0, 1))
        seen: Plane = down @ layer @ right.T
        return seen

    def at(self, x: Plane, y: Plane, z: float | Plane) -> Plane:
        """Return the field at points, mm."""
        points = np.stack(np.broadcast_arrays(self._place(z, 2), self._place(y, 0), self._place(x, 1)))
        found: Plane = ndimage.map_coordinates(_cube(self.recipe), points, order=1, mode="grid-wrap")
        return found

    def _place(self, mm: float | Plane, side: int) -> npt.NDArray[np.float64]:
        placed: npt.NDArray[np.float64] = (np.asarray(mm, float) * self.sign[side] + self.shift[side]) / self.recipe.voxel
        return placed


@lru_cache(maxsize=8)
def _cube(recipe: Recipe) -> Plane:
    side, voxel = recipe.side, recipe.voxel
    across, half = fft.fftfreq(side, voxel) ** 2, fft.rfftfreq(side, voxel) ** 2
    squared = across[:, None, None] + across[None, :, None] + half
    keep = (squared >= recipe.longest**-2) & (squared <= recipe.shortest**-2)
    amplitude = np.where(keep, np.where(keep, squared, 1.0) ** (-recipe.fall / 4), 0).astype(np.float32)
    white = draw(0, "texture", recipe.name).standard_normal((side,) * 3, np.float32)
    cube: Plane = fft.irfftn(fft.rfftn(white) * amplitude, s=(side,) * 3)
    cube = (cube - cube.mean()) / cube.std()
    cube.setflags(write=False)
    return cube


@lru_cache(maxsize=64)
def _resampling(recipe: Recipe, n: int, fov_mm: float, shift: float, sign: float) -> Plane:
    """Matrix [n, side]: pixel i is the mean of a few samples across its width, each interpolated on the periodic axis."""
    taps = max(1, round(fov_mm / n / recipe.voxel * 2))
    offsets = ((np.arange(taps) + 0.5) / taps - 0.5) * (fov_mm / n)
    at = ((axis(n, fov_mm)[:, None] + offsets) * sign + shift) / recipe.voxel
    low = np.floor(at).astype(int)
    share = at - low
    matrix = np.zeros((n, recipe.side), np.float32)
    rows = np.repeat(np.arange(n), taps).reshape(n, taps)
    np.add.at(matrix, (rows, low % recipe.side), (1 - share) / taps)
    np.add.at(matrix, (rows, (low + 1) % recipe.side), share / taps)
    return matrix
