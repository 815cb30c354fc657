"""Where the lungs are: outlines of chest cavity, mediastinum, heart and diaphragm as signed distances in mm.

`u` is the level from lung apex (0) to base (1): one float for a slice, or an array with a level per point, so that
vessel trees and lesions are placed in the very same shapes that are painted.
"""

from __future__ import annotations

import numpy as np

from p2pftl.imaging.anatomy.build import Build
from p2pftl.imaging.anatomy.shapes import Level, Plane, blend, ellipse, keyed, superellipse

CAVITY_LEVELS = (0.0, 0.06, 0.2, 0.45, 0.75, 1.0)
CAVITY_WIDTH = (0.42, 0.60, 0.83, 0.97, 1.0, 0.98)
CAVITY_DEPTH = (0.55, 0.68, 0.85, 0.97, 1.0, 1.02)
FAR = 300.0  # mm: further than anything in the picture


def cavity(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Inner surface of the ribs: a rounded box with two paravertebral gutters."""
    s, taper = build.scale, keyed(u, CAVITY_LEVELS, CAVITY_WIDTH)
    depth = build.chest_depth * keyed(u, CAVITY_LEVELS, CAVITY_DEPTH)
    chest = superellipse(x, y, 0, 2 * s, build.chest_width * taper, depth, 2.3)
    for side in (-1, 1):
        gutter = ellipse(x, y, side * 62 * s * taper, 50 * s * taper * build.aspect, 60 * s * taper, 57 * s * taper * build.aspect)
        chest = blend(chest, gutter, 14)
    return chest


def sternum_y(build: Build, u: Level) -> Level:
    """Level of the inner surface of the sternum."""
    return 4 * build.scale - build.chest_depth * keyed(u, CAVITY_LEVELS, CAVITY_DEPTH)


def heart(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Pericardium: left ventricle towards the left, right atrium bulging to the right; nothing above the valves."""
    s = build.scale * build.heart
    size = keyed(u, (0.46, 0.52, 0.6, 0.75, 0.95, 1.0), (0.45, 0.70, 0.88, 1.0, 0.97, 0.92))
    cx, cy = keyed(u, (0.48, 0.7, 1), (5, 18, 27)) * s, keyed(u, (0.48, 0.7, 1), (-24, -28, -36)) * s
    left = ellipse(x, y, cx, cy, keyed(u, (0.48, 0.7, 1), (46, 58, 60)) * s * size, 36 * s * size, 0.62)
    right = ellipse(x, y, keyed(u, (0.48, 0.8, 1), (-14, -19, -16)) * s, -18 * s, 24 * s * size, 33 * s * size, 0.25)
    shape: Plane = blend(left, right, 12 * s) + keyed(u, (0.43, 0.47), (FAR, 0))
    return shape


def mediastinum(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Everything between the lungs: spine, great vessels, hila, heart."""
    s, spine = build.scale, build.spine_y
    shape = ellipse(x, y, 0, spine + 8, 23 * s, 30 * s)
    shape = blend(shape, ellipse(x, y, 2 * s, 8 * s, keyed(u, (0, 0.2, 0.35, 0.6, 1), (36, 36, 33, 23, 17)) * s, 52 * s), 12 * s)
    front = keyed(u, (0, 0.15, 0.3, 0.45, 0.6, 1), (40, 26, 14, 8, 7, 11)) * s
    shape = blend(shape, ellipse(x, y, -3 * s, -62 * s, front, 42 * s), 10 * s)
    arch = keyed(u, (0.22, 0.27, 0.36, 0.41), (0.3, 1, 1, 0.3)) * s
    shape = blend(shape, ellipse(x, y, 22 * s, 14 * s, 24 * arch, 30 * arch, -0.5), 10 * s)
    shape = blend(shape, ellipse(x, y, 25 * s, spine - 22 * s, 16 * s, 16 * s), 8 * s)
    hilum = keyed(u, (0.34, 0.43, 0.56, 0.72), (0.05, 1, 1, 0.05)) * s
    shape = blend(shape, ellipse(x, y, -36 * s, 6 * s, 20 * hilum, 17 * hilum), 16 * s)
    shape = blend(shape, ellipse(x, y, 38 * s, 8 * s, 18 * hilum, 16 * hilum), 16 * s)
    return blend(shape, heart(build, x, y, u), 7 * s)


def liver(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Right hemidiaphragm and the liver under it: a dome that rises in the front and leaves the rear recess free."""
    s, below = build.scale, keyed(u, (0.71, 1.0), (0.0, 0.29))
    size = 100 * s * (below / 0.3) ** 0.5 + 0.5
    shape = ellipse(x, y, -60 * s, (-2 - 30 * below) * s, 0.74 * size, 0.84 * size, -0.25)
    dome: Plane = shape + keyed(u, (0.705, 0.715), (FAR, 0))
    return dome


def spleen(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Left hemidiaphragm, lower than the right, over spleen and stomach."""
    s, below = build.scale, keyed(u, (0.84, 1.0), (0.0, 0.16))
    size = 92 * s * (below / 0.3) ** 0.5 + 0.5
    dome: Plane = ellipse(x, y, 66 * s, -8 * s, 0.66 * size, 0.8 * size) + keyed(u, (0.835, 0.845), (FAR, 0))
    return dome


def lungs(build: Build, x: Plane, y: Plane, u: Level) -> Plane:
    """Both lungs: the cavity less a pleura of 2 mm, the mediastinum and the domes of the diaphragm."""
    inside = np.maximum(cavity(build, x, y, u) + 2, -mediastinum(build, x, y, u))
    return np.maximum(inside, -np.minimum(liver(build, x, y, u), spleen(build, x, y, u)))
