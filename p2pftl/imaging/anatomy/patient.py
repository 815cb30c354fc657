"""One synthetic patient, drawn once; slice() cuts the anatomy where asked."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from p2pftl.draw import draw
from p2pftl.imaging.anatomy.build import Build, drawn_build
from p2pftl.imaging.anatomy.lesions import Lung, Pathology, drawn_lesions, levels
from p2pftl.imaging.anatomy.mediastinum import paint_abdomen, paint_mediastinum
from p2pftl.imaging.anatomy.outlines import cavity, lungs, mediastinum
from p2pftl.imaging.anatomy.shapes import Canvas, Plane, keyed
from p2pftl.imaging.anatomy.texture import GRAIN, PATCHES, RELIEF, Texture
from p2pftl.imaging.anatomy.vessels import grown_trees, section
from p2pftl.imaging.anatomy.wall import Tissue, paint_wall

PARENCHYMA, BRONCHUS_WALL, BRONCHUS, EMPHYSEMA = -872.0, -250.0, -985.0, -975.0
SUBSLICES = 3  # at most, for speed: a 5 mm slice is the mean of three cuts, each standing for 1.7 mm
IMAGINED: tuple[Pathology, ...] = ("ggo", "consolidation", "nodule")

Mask = npt.NDArray[np.bool_]


class Patient:
    """Thorax of one patient; every measure comes from draw(seed, ...), lengths in mm.

    size: pixels of the square slices; x to the image's right (the patient's left), y to the back, z from lung
    apex (0) to base (`build.lung_mm`).
    """

    def __init__(self, seed: int, pathology: Pathology = "normal", size: int = 128) -> None:
        self.seed, self.pathology, self.size = seed, pathology, size
        self.build: Build = drawn_build(seed)
        self.trees = grown_trees(self.build, seed)
        self.lesions = drawn_lesions(self.build, seed, pathology)
        self.grain, self.patches, self.relief = (Texture(recipe, seed) for recipe in (GRAIN, PATCHES, RELIEF))
        self.second_relief = Texture(RELIEF, seed, "second")

    @property
    def fov_mm(self) -> float:
        """Field of view of every slice."""
        return self.build.fov_mm

    @property
    def pixel_mm(self) -> float:
        """Pixel side."""
        return self.fov_mm / self.size

    def levels(self, count: int) -> list[float]:
        """Return `count` levels, mm: through the largest lesion, or for the healthy where one might have been."""
        if self.lesions:
            return levels(self.lesions, count)
        imagined = IMAGINED[int(draw(self.seed, "imagined").integers(len(IMAGINED)))]
        return levels(drawn_lesions(self.build, self.seed, imagined), count)

    def slice(self, z_mm: float, thickness: float) -> tuple[Plane, Mask, Mask]:
        """Return HU [n, n] float32, lung mask and lesion mask of a slice: the mean of up to three thinner cuts."""
        cuts = min(SUBSLICES, max(1, math.ceil(thickness)))
        step = thickness / cuts
        parts = [self._cut(z_mm + (k - (cuts - 1) / 2) * step, step) for k in range(cuts)]
        hu, lung, lesion = np.array(parts, np.float32).mean(axis=0)
        return hu, lung > 0.5, (lesion > 0.5) & (lung > 0.5)

    def _cut(self, z: float, thickness: float) -> tuple[Plane, Plane, Plane]:
        """HU, share of lung and share of lesion of one thin cut."""
        build, u = self.build, z / self.build.lung_mm
        grain, patches, relief, second = (
            t.plane(z, self.size, self.fov_mm) for t in (self.grain, self.patches, self.relief, self.second_relief)
        )
        tissue = Tissue(grain, patches, relief)
        canvas = Canvas(self.size, self.fov_mm, (2.4 * relief, 2.4 * second))
        paint_wall(canvas, build, u, tissue)
        paint_mediastinum(canvas, build, u, tissue)
        inner = cavity(build, canvas.x, canvas.y, u)
        paint_abdomen(canvas, build, u, tissue, inner)
        inside = canvas.cover(lungs(build, canvas.x, canvas.y, u))
        vessels = section(self.trees.vessels, z, thickness, self.size, self.pixel_mm)
        lung = self._lung(canvas, z, thickness, tissue, vessels)
        hu, lesion = lung.hu, np.zeros_like(inside)
        for disease in self.lesions:
            changed, share = disease.applied(lung)
            hu = np.maximum(hu, changed) if disease is not self.lesions[0] else changed
            lesion = np.maximum(lesion, share)
        canvas.lay(inside, hu)
        rooted = (mediastinum(build, canvas.x, canvas.y, u) > -14) & (inner < -6)  # vessel roots inside the hila
        canvas.lay((1 - inside) * vessels * rooted, build.blood_hu)
        return canvas.hu, inside, lesion * inside

    def _lung(self, canvas: Canvas, z: float, thickness: float, tissue: Tissue, vessels: Plane) -> Lung:
        parenchyma = self._parenchyma(canvas, z / self.build.lung_mm, tissue)
        hu = parenchyma + vessels * (min(self.build.blood_hu, 60.0) - parenchyma)
        wide, lumen = (section(self.trees.bronchi, z, thickness, self.size, self.pixel_mm, grow) for grow in (1.45, 1.0))
        hu = hu + 0.7 * np.clip(wide - lumen, 0, 1) * (BRONCHUS_WALL - hu)
        hu = hu + lumen * (BRONCHUS - hu)
        return Lung(canvas.straight_x, canvas.straight_y, z, self.pixel_mm, parenchyma, hu, lumen, tissue.grain)

    def _parenchyma(self, canvas: Canvas, u: float, tissue: Tissue) -> Plane:
        """Aerated lung without vessels: denser towards the back, with fissures and, in some, emphysema."""
        build, s = self.build, self.build.scale
        back = canvas.straight_y / build.chest_depth
        hu = PARENCHYMA + build.inspiration_hu + 26 * back + build.dependent_hu * np.clip(back - 0.5, 0, 1) ** 2 * 4
        hu = hu + 22 * tissue.grain + 10 * tissue.patches
        if build.emphysema:
            upper = keyed(u, (0.2, 0.9), (1, 0.3)) * build.emphysema
            holes = 1 / (1 + np.exp(-6 * (tissue.patches - 1.3 + 0.5 * tissue.grain)))
            hu = hu + upper * holes * (EMPHYSEMA - hu)
        seen = keyed(u, (0.12, 0.18, 0.86, 0.92), (0, 1, 1, 0)) * 85 * min(1.0, 1.3 / self.pixel_mm)
        for side in (-1, 1):  # the oblique fissures
            line = keyed(u, (0.15, 0.9), (42, -62)) * s + 3 * side + 0.16 * np.abs(canvas.straight_x) + 3 * tissue.relief
            near = np.exp(-(((canvas.straight_y - line) / max(0.75 * self.pixel_mm, 0.9)) ** 2))
            hu = hu + seen * near * (canvas.x * side > 34 * s)
        parenchyma: Plane = hu.astype(np.float32)
        return parenchyma
