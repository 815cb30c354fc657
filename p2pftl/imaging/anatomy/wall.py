"""The chest wall: table, skin, fat, muscles, ribs, spine, sternum and scapulae, painted from outside in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pftl.imaging.anatomy.build import Build
from p2pftl.imaging.anatomy.outlines import cavity, sternum_y
from p2pftl.imaging.anatomy.shapes import Canvas, Plane, blend, ellipse, keyed, superellipse

TABLE, SKIN, FAT, MUSCLE, INTERCOSTAL, CARTILAGE = -350.0, -20.0, -105.0, 54.0, 8.0, 100.0
VERTEBRAE_PER_LUNG = 9.5
RIBS_IN_A_SLICE = 7


@dataclass(frozen=True)
class Tissue:
    """Random texture of one slice, [n, n] each: fine grain, patches of centimetres, slow relief."""

    grain: Plane
    patches: Plane
    relief: Plane


def paint_wall(canvas: Canvas, build: Build, u: float, tissue: Tissue) -> None:
    """Paint everything around the lungs except the mediastinum."""
    inner = cavity(build, canvas.x, canvas.y, u)
    _paint_table(canvas, build)
    skin = _skin(canvas, build, u)
    canvas.paint(skin, FAT + 9 * tissue.grain)
    canvas.paint(np.maximum(skin, -(skin + 2.2)), SKIN)
    _paint_muscles(canvas, build, u, tissue, inner, skin)
    canvas.paint(inner - 8.5, INTERCOSTAL + 8 * tissue.grain)
    canvas.paint(np.maximum(inner - 2.5, -(inner - 0.2)), -40.0)
    canvas.paint(inner, FAT + 10 + 9 * tissue.grain)
    marrow = (1 - 0.45 * min(max((build.age - 45) / 45, 0), 1)) * 200 + 45 * tissue.grain
    _paint_ribs(canvas, build, u, marrow)
    _paint_vertebra(canvas, build, u, marrow, tissue)
    _paint_sternum(canvas, build, u, marrow)
    _paint_scapulae(canvas, build, u, marrow, tissue)


def _paint_table(canvas: Canvas, build: Build) -> None:
    x, y = canvas.straight_x, canvas.straight_y
    cradle = np.abs(ellipse(x, y, 0, build.body_depth + 15 - 400, 430, 406)) - 2.2
    cradle = np.maximum(cradle, np.abs(x) - 205)
    canvas.paint(np.where(y > 20, cradle, 99), TABLE)


def _skin(canvas: Canvas, build: Build, u: float) -> Plane:
    """Outline of the body, with breasts and shoulders."""
    x, y, s = canvas.x, canvas.y, build.scale
    body = superellipse(x, y, 0, 11, build.body_width * keyed(u, (0, 0.1, 0.3, 1), (0.86, 0.95, 1, 1)), build.body_depth, 2.35)
    if build.sex == "F":
        full = keyed(u, (0.3, 0.55, 0.75, 0.95), (0, 1, 1, 0))
        for side in (-1, 1):
            breast = ellipse(x, y, side * 78 * s, -0.8 * build.body_depth, 62 * s, (8 + 0.7 * build.fat_mm) * full + 14, side * 0.35)
            body = blend(body, breast, 18)
    if u < 0.2:
        for side in (-1, 1):
            shoulder = ellipse(x, y, side * 0.82 * build.body_width, 6, 62, 58) + keyed(u, (0.1, 0.2), (0, 40))
            body = blend(body, shoulder, 20)
    return body


def _paint_muscles(canvas: Canvas, build: Build, u: float, tissue: Tissue, inner: Plane, skin: Plane) -> None:
    x, y, s = canvas.x, canvas.y, build.scale
    depth = np.clip(canvas.straight_y / build.chest_depth, -0.5, 1)
    thickness = 10 + build.muscle_mm * (0.7 + 0.5 * depth) + 6 * np.abs(canvas.straight_x) / build.chest_width
    muscle = inner - thickness
    for side in (-1, 1):
        muscle = blend(muscle, ellipse(x, y, side * 30 * s, build.spine_y + 40 * s, 32 * s, 20 * s), 8)  # erector spinae
        if u < 0.5:
            pectoral = ellipse(x, y, side * 72 * s, sternum_y(build, u) + 2 * s, 58 * s, keyed(u, (0.3, 0.5), (13, 3)), side * 0.3)
            muscle = blend(muscle, pectoral, 6)
    muscle = np.maximum(muscle, skin + min(6.0, build.fat_mm))
    layers = np.minimum(np.abs(inner - 14 - 2.5 * tissue.relief), np.abs(inner - 24 - 4 * tissue.relief))
    fat = np.exp(-((layers / max(1.1, 0.6 * canvas.pixel)) ** 2)) * np.clip(0.6 + 0.8 * tissue.patches, 0, 1)  # between the layers
    canvas.paint(muscle, MUSCLE + 7 * tissue.grain - 75 * fat - 16 * np.clip(tissue.grain - 1.0, 0, 1.5))


def _paint_bone(canvas: Canvas, where: tuple[slice, slice], outline: Plane, cortex: float, marrow: float | Plane, shell: float) -> None:
    """Paint a bone inside one window: a shell of cortex, `shell` mm thick, around marrow."""
    canvas.paint_within(where, outline, cortex)
    canvas.paint_within(where, outline + shell, marrow[where] if isinstance(marrow, np.ndarray) else marrow)


def _paint_ribs(canvas: Canvas, build: Build, u: float, marrow: Plane) -> None:
    """Oblique cuts of a tilted stack of ribs: going down, each one wanders from the spine round to the sternum."""
    count = u * VERTEBRAE_PER_LUNG + build.rib_phase
    s, turn = build.scale, 0.06
    for side in (-1, 1):
        passed = count + 0.13 * side
        index = np.arange(RIBS_IN_A_SLICE)
        way = (index + passed % 1.0) / RIBS_IN_A_SLICE
        angles = np.radians(104 - 196 * way)
        spots = [_on_cavity(build, side, angles + bend, u) for bend in (-turn, 0.0, turn)]
        for j, share in enumerate(way):
            (cx, cy), along = spots[1][j], spots[2][j] - spots[0][j]
            if abs(cx) < (25 if cy > 0 else 30) * s:
                continue
            rib = math.floor(passed) - j  # its number: the same at every level
            half = (15 + 7 * math.sin(math.pi * share)) * s * (0.85 + 0.3 * ((rib * 37 + 11) % 10) / 10)
            where = canvas.window(cx, cy, half + 9)
            tilt = math.atan2(along[1], along[0])
            outline = ellipse(canvas.x[where], canvas.y[where], float(cx), float(cy), half, 4.4 * s, tilt)
            if cy < -0.62 * build.chest_depth:
                _paint_bone(canvas, where, outline, CARTILAGE + 20, CARTILAGE, 1.7)
            else:
                _paint_bone(canvas, where, outline, 690, marrow, 1.7)


def _on_cavity(build: Build, side: int, angles: npt.NDArray[np.float64], u: float) -> Plane:
    """Points [N, 2] just outside the cavity in the given directions (0 = lateral, towards the back positive)."""
    radius = np.linspace(30, 230, 201, dtype=np.float32)
    across, down = side * np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    outside = cavity(build, across[:, None] * radius, down[:, None] * radius, u) > 0
    reach = radius[np.argmax(outside, 1)] + 5
    return np.stack([across * reach, down * reach], 1)


def _paint_vertebra(canvas: Canvas, build: Build, u: float, marrow: Plane, tissue: Tissue) -> None:
    s, y0 = build.scale, build.spine_y
    phase = (u * VERTEBRAE_PER_LUNG + build.rib_phase) % 1.0
    process = keyed(phase, (0, 0.08, 0.5, 0.62, 0.92, 1), (1, 1, 1, 0, 0, 1))  # transverse processes come and go
    disc = keyed(phase, (0.66, 0.74, 0.86, 0.94), (0, 1, 1, 0))
    where = canvas.window(0, y0 + 26 * s, 58 * s)
    x, y = canvas.x[where], canvas.y[where]
    arch = np.abs(ellipse(x, y, 0, y0 + 25 * s, 15.5 * s, 13.5 * s)) - 3.6 * s
    rear = np.minimum(np.maximum(arch, -(y - (y0 + 12 * s))), ellipse(x, y, 0, y0 + 46 * s, 3.6 * s, 10 * s))
    if process > 0.1:
        for side in (-1, 1):
            rear = np.minimum(rear, ellipse(x, y, side * 27 * s, y0 + 24 * s, 15 * s * process, 4.6 * s * process, side * 0.45))
            rear = np.minimum(rear, ellipse(x, y, side * 27 * s, y0 + 10 * s, 11 * s * process, 5 * s * process, side * 0.5))
    _paint_bone(canvas, where, rear, 640, 60 + marrow, 1.7)
    body = blend(ellipse(x, y, 0, y0, 18.5 * s, 15.5 * s), ellipse(x, y, 0, y0 - 3, 16 * s, 14 * s), 3)
    _paint_bone(canvas, where, body, 560 - 440 * disc, marrow + disc * (85 - marrow), 1.4)
    canvas.ellipse(0, y0 + 25 * s, 10.5 * s, 9 * s, 22 + 3 * tissue.grain)  # spinal canal
    canvas.ellipse(0, y0 + 25 * s, 6 * s, 5 * s, 38)  # cord


def _paint_sternum(canvas: Canvas, build: Build, u: float, marrow: Plane) -> None:
    s, front = build.scale, sternum_y(build, u)
    if u > 0.06:
        width = keyed(u, (0.06, 0.25, 0.4, 0.85, 1), (30, 24, 17, 15, 6)) * s
        where = canvas.window(0, front - 5, 36 * s)
        _paint_bone(canvas, where, ellipse(canvas.x[where], canvas.y[where], 0, front - 5, width, 6.2 * s), 480, marrow - 30, 1.6)
    if u < 0.12:
        for side in (-1, 1):  # clavicles
            cx, cy, size = side * (52 + 200 * (0.06 - u)) * s, front - 6, keyed(u, (0, 0.09, 0.12), (1, 1, 0.2))
            where = canvas.window(cx, cy, 44 * s)
            outline = ellipse(canvas.x[where], canvas.y[where], cx, cy, 30 * s * size, 6 * s * size, -side * 0.5)
            _paint_bone(canvas, where, outline, 650, marrow, 1.8)


def _paint_scapulae(canvas: Canvas, build: Build, u: float, marrow: Plane, tissue: Tissue) -> None:
    size = keyed(u, (0, 0.2, 0.5, 0.64), (1, 1, 0.75, 0.1))
    if size <= 0.15:
        return
    s = build.scale
    for side in (-1, 1):
        cx, cy, tilt = side * 0.83 * (build.chest_width + 8), 0.80 * build.chest_depth + 10, -side * 0.78
        where = canvas.window(cx, cy, 60 * s)
        x, y = canvas.x[where], canvas.y[where]
        grain = tissue.grain[where]
        for cover in (
            ellipse(x, y, cx - side * 7, cy - 7, 40 * s * size, 8 * s * size, tilt),
            ellipse(x, y, cx + side * 7, cy + 7, 38 * s * size, 9 * s * size, tilt),
        ):
            canvas.paint_within(where, cover, MUSCLE + 6 * grain)  # subscapularis in front, infraspinatus behind
        blade = ellipse(x, y, cx, cy, 44 * s * size, 3.4 * s, tilt)
        if u < 0.3:  # the spine of the scapula
            blade = np.minimum(blade, ellipse(x, y, cx + side * 14, cy + 9, 17 * s * keyed(u, (0.2, 0.3), (1, 0.15)), 3 * s, side * 0.6))
        _paint_bone(canvas, where, blade, 620, 20 + marrow, 1.6)
        if u < 0.16:  # head of the humerus
            spot = canvas.window(side * (0.98 * build.chest_width + 28), -2, 30 * s)
            head = ellipse(canvas.x[spot], canvas.y[spot], side * (0.98 * build.chest_width + 28), -2, 21 * s, 20 * s)
            _paint_bone(canvas, spot, head + keyed(u, (0.1, 0.16), (0, 20)), 520, marrow, 2)
