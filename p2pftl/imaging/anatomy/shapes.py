"""Plane geometry of organs: signed distances in mm (negative inside) and the canvas they are painted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Level = Any  # a float for one slice, or an array with one level per point

AIR = -1000.0


def keyed(u: Level, at: Sequence[float], values: Sequence[float]) -> Level:
    """Interpolate a measure of the anatomy between key levels; a float for a float, else an array."""
    found = np.interp(u, at, values)
    return found.astype(np.float32) if isinstance(u, np.ndarray) else float(found)


def ellipse(x: Plane, y: Plane, cx: Level, cy: Level, a: Level, b: Level, angle: float = 0.0) -> Plane:
    """First-order distance to an ellipse with half axes `a` (along x before turning by `angle`, radians) and `b`."""
    dx, dy = x - cx, y - cy
    if angle:
        cos, sin = math.cos(angle), math.sin(angle)
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    u, v = dx / a, dy / b
    radius = np.sqrt(u * u + v * v) + np.float32(1e-6)
    slope = np.sqrt((u / a) ** 2 + (v / b) ** 2) + np.float32(1e-9)
    distance: Plane = radius * (radius - 1) / slope
    return distance


def superellipse(x: Plane, y: Plane, cx: Level, cy: Level, a: Level, b: Level, power: float) -> Plane:
    """Distance (scaled by the shorter half axis) to a rounded box."""
    radius = (np.abs((x - cx) / a) ** power + np.abs((y - cy) / b) ** power) ** (1 / power)
    distance: Plane = (radius - 1) * np.minimum(a, b).astype(np.float32)
    return distance


def blend(first: Plane, second: Plane, over: Level) -> Plane:
    """Union of two shapes whose seam is rounded over `over` mm."""
    mix = np.clip(0.5 + 0.5 * (second - first) / over, 0, 1).astype(np.float32)
    union: Plane = second + (first - second) * mix - over * mix * (1 - mix)
    return union


@lru_cache(maxsize=16)
def axis(n: int, fov_mm: float) -> Plane:
    """Centres of `n` pixels across `fov_mm`, 0 in the middle."""
    centres: Plane = (((np.arange(n) + 0.5) / n - 0.5) * fov_mm).astype(np.float32)
    centres.setflags(write=False)
    return centres


class Canvas:
    """A square axial image in HU on which tissues are painted back to front.

    x, y: pixel centres in mm, [n, n] (image right = patient's left, down = posterior), both bent a little
    by `warp` so that no outline is a perfect ellipse; hu: the picture so far.
    """

    def __init__(self, n: int, fov_mm: float, warp: tuple[Plane, Plane]) -> None:
        line = axis(n, fov_mm)
        self.n, self.pixel = n, fov_mm / n
        self.straight_x, self.straight_y = np.broadcast_to(line[None], (n, n)), np.broadcast_to(line[:, None], (n, n))
        self.x: Plane = self.straight_x + warp[0]
        self.y: Plane = self.straight_y + warp[1]
        self.hu: Plane = np.full((n, n), AIR, np.float32)

    def cover(self, distance: Plane) -> Plane:
        """Share of each pixel that lies inside, 0..1."""
        share: Plane = np.clip(0.5 - distance / self.pixel, 0, 1)
        return share

    def paint(self, distance: Plane, hu: float | Plane) -> None:
        """Paint everything inside `distance` [n, n]."""
        self.lay(self.cover(distance), hu)

    def lay(self, share: Plane, hu: float | Plane) -> None:
        """Replace `share` of what is there by `hu`."""
        self.hu += share * (hu - self.hu)

    def window(self, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within `reach` mm of a point, so that small organs cost little."""
        low_x, high_x = (int(np.clip(round(v / self.pixel + self.n / 2), 0, self.n)) for v in (cx - reach, cx + reach))
        low_y, high_y = (int(np.clip(round(v / self.pixel + self.n / 2), 0, self.n)) for v in (cy - reach, cy + reach))
        return slice(low_y, high_y), slice(low_x, high_x)

    def paint_within(self, where: tuple[slice, slice], distance: Plane, hu: float | Plane) -> None:
        """Paint inside one window; `distance` and `hu` are already cut to it."""
        part = self.hu[where]
        part += self.cover(distance) * (hu - part)

    def ellipse(self, cx: float, cy: float, a: float, b: float, hu: float | Plane, angle: float = 0.0) -> None:
        """Paint an ellipse; `hu` is a number or a whole plane."""
        where = self.window(cx, cy, max(a, b) + 6 + self.pixel)
        if self.x[where].size:
            value = hu[where] if isinstance(hu, np.ndarray) else hu
            self.paint_within(where, ellipse(self.x[where], self.y[where], cx, cy, a, b, angle), value)
