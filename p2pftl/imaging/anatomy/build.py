"""Who the patient is: sex, age, size and the measures that everything else scales with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from p2pftl.draw import draw


@dataclass(frozen=True)
class Build:
    """One synthetic patient's measures, drawn once.

    scale: body size relative to the average; aspect: depth of the chest relative to its width; fat_mm, muscle_mm:
    thickness under the skin; heart: its relative size; inspiration_hu: shift of lung density; blood_hu: 38-50
    without contrast agent, 150-280 with; lung_mm: apex to base; rib_phase: where ribs and vertebrae start;
    emphysema, dependent_hu: normal variants, share 0..1 and density of dependent lung.
    """

    sex: Literal["F", "M"]
    age: int
    scale: float
    aspect: float
    fat_mm: float
    muscle_mm: float
    heart: float
    inspiration_hu: float
    blood_hu: float
    lung_mm: float
    rib_phase: float
    emphysema: float
    dependent_hu: float

    @property
    def chest_width(self) -> float:
        """Half width of the chest cavity at its widest, mm."""
        return 130 * self.scale

    @property
    def chest_depth(self) -> float:
        """Half depth of the chest cavity, mm."""
        return 92 * self.scale * self.aspect

    @property
    def body_width(self) -> float:
        """Half width of the body, mm."""
        return self.chest_width + self.muscle_mm + 10 + 0.9 * self.fat_mm

    @property
    def body_depth(self) -> float:
        """Half depth of the body, mm."""
        return self.chest_depth + 0.6 * self.muscle_mm + 17 + 0.8 * self.fat_mm

    @property
    def spine_y(self) -> float:
        """Centre of the vertebral bodies, mm behind the middle."""
        return 58 * self.scale * self.aspect

    @property
    def fov_mm(self) -> float:
        """Field of view that a radiographer would choose: the body and a margin, in steps of 10 mm."""
        return math.ceil(2 * max(self.body_width, self.body_depth + 20) / 10 + 1) * 10.0


def drawn_build(seed: int) -> Build:
    """Draw a patient's measures."""
    generator = draw(seed, "build")
    sex: Literal["F", "M"] = "F" if generator.random() < 0.5 else "M"
    age = int(min(max(generator.normal(58, 15), 18), 92))
    size = (0.95 if sex == "F" else 1.03) * generator.normal(1, 0.035)
    contrast = generator.random() < 0.2
    smoker = generator.random() < 0.2 and age > 40
    return Build(
        sex=sex,
        age=age,
        scale=float(min(max(size, 0.85), 1.15)),
        fat_mm=float(min(max(generator.gamma(3.2, 5.0), 6), 38)),
        muscle_mm=float(min(max(generator.normal(15, 3), 9), 24)),
        aspect=float(min(max(generator.normal(1, 0.05), 0.88), 1.12)),
        heart=float(min(max(generator.normal(1, 0.07), 0.85), 1.2)),
        inspiration_hu=float(generator.normal(0, 18)),
        blood_hu=float(generator.uniform(150, 280) if contrast else generator.uniform(38, 50)),
        lung_mm=float(generator.uniform(230, 280)),
        rib_phase=float(generator.random()),
        emphysema=float(generator.uniform(0.2, 1.0)) if smoker else 0.0,
        dependent_hu=float(generator.uniform(20, 90)),
    )
