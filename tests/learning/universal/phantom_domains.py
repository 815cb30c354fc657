"""Eight domains of phantoms: four questions, two scanners each, and not one patient in two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from p2pftl.draw import draw, number
from p2pftl.imaging.acquisition import acquire
from p2pftl.imaging.anatomy.render import Order, rendered
from p2pftl.imaging.cohort import Cohort
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.universal.probe import Domain

if TYPE_CHECKING:
    from p2pftl.imaging.anatomy.lesions import Pathology

SHARP = Scanner(vendor="GE", kernel="bone", dose=0.5)
SOFT = Scanner(vendor="PHILIPS", kernel="soft", kvp=100.0)
QUESTIONS: dict[str, tuple[Pathology, ...]] = {
    "nodules": ("normal", "nodule"),
    "ground glass": ("normal", "ggo"),
    "opacities": ("ggo", "consolidation"),
    "lesions": ("normal", "ggo", "consolidation", "nodule"),
}
SLICES = 2


def phantom_domains(train: int, test: int, seed: int = 5) -> dict[str, Domain]:
    """Domains of so many patients each, every class as often as any other; 64 pixels wide, two slices per patient."""
    return {
        f"{question} {scanner.kernel}": Domain(
            _cohort(question, scanner, "train", train, seed), _cohort(question, scanner, "test", test, seed), len(QUESTIONS[question])
        )
        for question in QUESTIONS
        for scanner in (SHARP, SOFT)
    }


def _cohort(question: str, scanner: Scanner, part: str, patients: int, seed: int) -> Cohort:
    kinds = QUESTIONS[question]
    key = (question, scanner.kernel, part)
    orders = [Order(number(seed, *key, at), kinds[at % len(kinds)], 128, SLICES, scanner.slice_mm) for at in range(patients)]
    pixels = [
        acquire(pictures.hu.astype(np.float64), scanner, pictures.pixel_mm, draw(order.seed, "acquisition")).hu.numpy()
        for order, pictures in zip(orders, rendered(orders), strict=True)
    ]
    labels = np.repeat(np.arange(patients) % len(kinds), SLICES)
    whole = np.concatenate(pixels).reshape(-1, 64, 2, 64, 2).mean((2, 4))  # a quarter of the pixels, a quarter of the time
    return Cohort(np.rint(whole).astype(np.int16), labels.astype(np.int64), "HU")
