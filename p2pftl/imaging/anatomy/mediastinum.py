"""What lies between and under the lungs: great vessels, airways, oesophagus, heart, liver, spleen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2pftl.imaging.anatomy.build import Build
from p2pftl.imaging.anatomy.outlines import heart, liver, spleen
from p2pftl.imaging.anatomy.shapes import Canvas, Plane, blend, ellipse, keyed
from p2pftl.imaging.anatomy.wall import Tissue

EPICARDIAL_FAT, MYOCARDIUM, LIVER, SPLEEN, WALL, LUMEN = -92.0, 50.0, 57.0, 47.0, 10.0, -988.0


@dataclass(frozen=True)
class Tube:
    """An organ cut across at every level: rows of (u, x, y, half width, half depth) in mm of the average patient.

    Between rows it is interpolated, outside them it is absent. angle: its turn, radians; from_spine: y is counted
    from the vertebral bodies instead of the middle of the chest.
    """

    rows: tuple[tuple[float, float, float, float, float], ...]
    angle: float = 0.0
    from_spine: bool = False

    def cut(self, build: Build, u: float) -> tuple[float, float, float, float] | None:
        """Return centre and half axes in this patient at level `u`, mm, or None where it is absent."""
        levels = [row[0] for row in self.rows]
        if not levels[0] <= u <= levels[-1]:
            return None
        x, y, a, b = (keyed(u, levels, [row[i] for row in self.rows]) * build.scale for i in (1, 2, 3, 4))
        return x, y + (build.spine_y if self.from_spine else 0), a, b


AORTIC_ROOT = Tube(
    ((0.28, -6, -28, 4, 4), (0.32, -5, -30, 16, 16), (0.55, -2, -30, 16.5, 16.5), (0.64, 4, -28, 15, 15), (0.67, 6, -27, 4, 4))
)
SUPERIOR_CAVA = Tube(
    ((0.0, -30, -18, 8, 8), (0.24, -23, -20, 9, 10), (0.45, -24, -16, 9.5, 8.5), (0.62, -24, -12, 9.5, 9), (0.64, -24, -12, 4, 4))
)
PULMONARY_TRUNK = Tube(((0.42, 20, -30, 6, 6), (0.46, 20, -27, 15, 15), (0.58, 16, -34, 15, 14), (0.62, 14, -38, 6, 6)))
GREAT_VESSELS = (
    Tube(
        ((0.32, 24, -22, 4, 4), (0.35, 24, -22, 12.3, 12.3), (0.8, 21, -23, 12, 12), (1.1, 12, -25, 11, 11)), from_spine=True
    ),  # descending aorta
    AORTIC_ROOT,
    Tube(((0.0, -14, -12, 6, 6), (0.26, -8, -8, 7, 6.5), (0.30, -4, -8, 6, 6))),  # brachiocephalic trunk
    Tube(((0.0, 15, -6, 4.5, 4.5), (0.28, 9, -3, 5, 5))),  # left carotid
    Tube(((0.0, 27, 10, 5, 5), (0.28, 21, 6, 5.5, 5.5))),  # left subclavian
    SUPERIOR_CAVA,
    Tube(
        ((0.18, 24, -28, 6, 5), (0.21, 14, -28, 17, 6), (0.27, -4, -27, 16, 6), (0.29, -14, -26, 6, 5)), 0.25
    ),  # left brachiocephalic vein
    Tube(((0.34, -9, -21, 3, 3), (0.40, -9, -21, 4, 4), (1.1, -7, -19, 3.4, 3.4)), from_spine=True),  # azygos vein
    PULMONARY_TRUNK,
    Tube(((0.40, 32, -4, 5, 6), (0.43, 31, -4, 13, 17), (0.50, 30, 0, 12, 14), (0.53, 30, 2, 4, 5)), -0.4),  # left pulmonary artery
    Tube(
        ((0.44, -10, -5, 12, 3), (0.47, -14, -4, 30, 8.5), (0.53, -16, -3, 28, 8), (0.56, -20, -2, 10, 3)), -0.12
    ),  # right pulmonary artery
    Tube(((0.84, -22, 2, 8, 6), (0.88, -24, 4, 13, 10), (1.1, -24, 8, 13, 11))),  # inferior vena cava
)
OESOPHAGUS = Tube(((0.0, 5, -30, 7, 5), (0.5, 8, -24, 7.5, 5.5), (1.0, 16, -32, 9, 7)), from_spine=True)
ARCH = (
    Tube(((0.255, 10, -6, 12, 5), (0.285, 10, -6, 34, 14), (0.33, 10, -6, 34, 13), (0.36, 10, -6, 12, 4)), 0.75),
    Tube(((0.26, 24, 22, 5, 6), (0.29, 24, 22, 13, 16), (0.38, 24, 26, 13, 15), (0.41, 24, 30, 12, 12))),
)
CHAMBERS = (
    Tube(((0.50, 8, 4, 12, 5), (0.54, 8, 4, 27, 14), (0.66, 10, 6, 27, 14), (0.72, 12, 8, 10, 5)), 0.1),  # left atrium
    Tube(((0.54, -20, -16, 8, 10), (0.60, -21, -15, 17, 22), (0.82, -21, -13, 17, 23), (0.90, -20, -8, 8, 10)), 0.2),  # right atrium
    Tube(((0.58, 4, -46, 12, 6), (0.66, 6, -45, 28, 13), (0.90, 10, -46, 32, 14), (0.98, 14, -46, 14, 6)), 0.32),  # right ventricle
    Tube(((0.62, 30, -16, 10, 6), (0.70, 36, -17, 28, 15), (0.88, 42, -22, 28, 15), (0.96, 46, -28, 10, 6)), 0.62),  # left ventricle
)
GROOVES = (
    Tube(((0.56, -16, -44, 7, 5), (0.95, -14, -44, 8, 6)), 0.5),  # right coronary
    Tube(((0.58, 40, 2, 6, 4), (0.9, 42, 4, 7, 4)), 0.5),  # left circumflex
    Tube(((0.56, 34, -50, 7, 3), (0.95, 44, -58, 8, 4)), 0.5),  # between the ventricles
)
TRACHEA = Tube(((-0.1, -1, 14, 9.3, 8.4), (0.40, -1, 14, 9.3, 8.4), (0.425, -1, 14.5, 13, 7.6)))
MAIN_BRONCHI = (
    Tube(((0.425, -9, 15, 7.7, 6.8), (0.50, -24, 13, 7.5, 6.6), (0.53, -29, 12, 7, 6), (0.60, -31, 12, 5, 5)), -0.2),
    Tube(((0.425, 9, 15, 7.5, 6.6), (0.50, 22, 16, 7, 6), (0.55, 31, 14, 6.4, 5.4), (0.60, 34, 14, 4.6, 4.6)), 0.2),
)


def paint_mediastinum(canvas: Canvas, build: Build, u: float, tissue: Tissue) -> None:
    """Paint vessels, oesophagus, heart and airways into the fat between the lungs."""
    blood = build.blood_hu + 5 * tissue.grain
    _paint_strands(canvas, tissue)
    for vessel in GREAT_VESSELS:
        _paint_tube(canvas, build, u, vessel, blood)
    _paint_tube(canvas, build, u, OESOPHAGUS, 34 + 5 * tissue.grain)
    _paint_arch(canvas, build, u, blood)
    _paint_heart(canvas, build, u, tissue, blood)
    for airway in (TRACHEA, *MAIN_BRONCHI):
        cut = airway.cut(build, u)
        if cut:
            x, y, a, b = cut
            canvas.ellipse(x, y, a + 1.5, b + 1.5, WALL, airway.angle)
    for airway in (TRACHEA, *MAIN_BRONCHI):
        _paint_tube(canvas, build, u, airway, LUMEN)


def paint_abdomen(canvas: Canvas, build: Build, u: float, tissue: Tissue, inner: Plane) -> None:
    """Paint liver and spleen under the domes, inside the cavity `inner`."""
    enhanced = 40 if build.blood_hu > 100 else 0
    for organ, hu in ((liver, LIVER + enhanced), (spleen, SPLEEN + enhanced)):
        canvas.paint(np.maximum(organ(build, canvas.x, canvas.y, u) + 1.5, inner + 2), hu + 5 * tissue.grain)


def _paint_tube(canvas: Canvas, build: Build, u: float, tube: Tube, hu: float | Plane) -> None:
    cut = tube.cut(build, u)
    if cut:
        canvas.ellipse(*cut, hu, tube.angle)


def _paint_strands(canvas: Canvas, tissue: Tissue) -> None:
    """Small nodes and connective tissue in the mediastinal fat, where the fine texture is high."""
    inside = np.abs(canvas.hu + 95) < 45
    canvas.lay(np.clip(tissue.grain - 1.1, 0, 0.7) * inside, 25.0)


def _paint_arch(canvas: Canvas, build: Build, u: float, blood: Plane) -> None:
    cuts = [(tube.cut(build, u), tube.angle) for tube in ARCH]
    parts = [ellipse(canvas.x, canvas.y, *cut, angle) for cut, angle in cuts if cut]
    if parts:
        canvas.paint(parts[0] if len(parts) == 1 else blend(parts[0], parts[1], 5), blood)


def _paint_heart(canvas: Canvas, build: Build, u: float, tissue: Tissue, blood: Plane) -> None:
    if u < 0.45:
        return
    outline = heart(build, canvas.x, canvas.y, u)
    canvas.paint(outline + 1.2, EPICARDIAL_FAT + 6 * tissue.grain)
    grooved = outline + 4.5
    for groove in GROOVES:
        cut = groove.cut(build, u)
        if cut:
            grooved = np.maximum(grooved, -ellipse(canvas.x, canvas.y, *cut, groove.angle))
    canvas.paint(grooved, MYOCARDIUM + 5 * tissue.grain + (50 if build.blood_hu > 100 else 0))
    swell = 1.5 * tissue.relief
    for chamber in CHAMBERS:
        cut = chamber.cut(build, u)
        if cut:
            shape = ellipse(canvas.x, canvas.y, *cut, chamber.angle) + swell
            canvas.paint(np.maximum(shape, outline + 8), blood)
    if u < 0.67:  # the roots of the great vessels pass through the base of the heart
        for vessel in (AORTIC_ROOT, SUPERIOR_CAVA, PULMONARY_TRUNK):
            _paint_tube(canvas, build, u, vessel, blood)
