"""Calibration seen in patients, where no phantom is scanned: air, subcutaneous fat, descending aorta. They warn, never more.

Patients differ by far more than a phantom does: fat -100 +- 10 HU, unenhanced blood 45 +- 10 HU; contrast medium forbids the aorta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Gt
from scipy import ndimage

BODY_HU, LUNG_HU = -400.0, -500.0
FAT_HU = (-160.0, -50.0)
AORTA_MM, AORTA_HU = (14.0, 36.0), (0.0, 100.0)
LEAST = 200  # pixels


@dataclass(frozen=True)
class Normal:
    """What patients usually show, HU, and how far a mean over patients may be from it."""

    air: float = -1000.0
    air_off: Annotated[float, Gt(0)] = 10.0
    fat: float = -100.0
    fat_off: Annotated[float, Gt(0)] = 15.0
    aorta: float = 45.0
    aorta_off: Annotated[float, Gt(0)] = 25.0


@dataclass(frozen=True)
class Surrogates:
    """HU of one slice; None where it cannot be found."""

    air: float | None
    fat: float | None
    aorta: float | None


def measure(hu: npt.ArrayLike, pixel_mm: float) -> Surrogates:
    """Measure one axial slice of the trunk [n, n] HU, patient supine. Nothing found is None, never a guess."""
    image = np.asarray(hu, dtype=np.float64)
    body = _body(image)
    if body is None:
        return Surrogates(None, None, None)
    return Surrogates(_air(image, body, pixel_mm), _fat(image, body, pixel_mm), _aorta(image, body, pixel_mm))


def judge(found: list[Surrogates], normal: Normal = Normal()) -> tuple[Literal["pass", "warn"], tuple[str, ...]]:
    """Return "warn" with its reasons when the median over slices is off, else "pass"."""
    reasons = []
    for name in ("air", "fat", "aorta"):
        values = [value for item in found if (value := getattr(item, name)) is not None]
        if values:
            middle, usual, off = float(np.median(values)), getattr(normal, name), getattr(normal, f"{name}_off")
            if not abs(middle - usual) <= off:
                reasons.append(f"{name} of patients {middle:.0f} HU, usual {usual:g} +- {off:g}")
    return ("warn" if reasons else "pass"), tuple(reasons)


def median(found: list[Surrogates], name: str) -> float | None:
    """The middle value of one surrogate over slices, None when it was never found."""
    values = [value for item in found if (value := getattr(item, name)) is not None]
    return float(np.median(values)) if values else None


def _body(image: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_] | None:
    """The largest dense object with its holes filled; None where it is smaller than a tenth of the image."""
    labels, count = ndimage.label(ndimage.binary_opening(image > BODY_HU, iterations=2))
    if not count:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax() + 1)
    return filled if filled.mean() > 0.1 else None


def _air(image: npt.NDArray[np.float64], body: npt.NDArray[np.bool_], pixel_mm: float) -> float | None:
    """Median of what is 10 mm and more outside the body and as empty as air; padding of one value is no air."""
    outside = image[~ndimage.binary_dilation(body, iterations=max(1, round(10 / pixel_mm)))]
    empty = outside[(outside < -900) & (outside > -1100)]
    return float(np.median(empty)) if len(empty) >= LEAST and np.ptp(empty) > 0 else None


def _fat(image: npt.NDArray[np.float64], body: npt.NDArray[np.bool_], pixel_mm: float) -> float | None:
    """Mode of the fat peak in the outer 3 mm to 25 mm of the body: centroid of its histogram above half of its height."""
    depth = ndimage.distance_transform_edt(body) * pixel_mm
    smooth = ndimage.uniform_filter(image, 3)
    rim = smooth[(depth > 3) & (depth < 25)]
    rim = rim[(rim > FAT_HU[0]) & (rim < FAT_HU[1])]
    if len(rim) < LEAST:
        return None
    count, edges = np.histogram(rim, bins=22, range=FAT_HU)
    if count.argmax() in (0, len(count) - 1):
        return None  # the tail of another tissue
    high = count >= count.max() / 2
    middle = (edges[:-1] + edges[1:]) / 2
    return float((middle[high] * count[high]).sum() / count[high].sum())


def _aorta(image: npt.NDArray[np.float64], body: npt.NDArray[np.bool_], pixel_mm: float) -> float | None:
    """Mean of the roundest blood-like disc left of and in front of the spine (image right, behind the middle); None if there is none."""
    rows, columns = np.nonzero(body)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    smooth = ndimage.median_filter(image, 5)
    soft = (smooth > AORTA_HU[0]) & (smooth < AORTA_HU[1]) & body
    height, width = bottom - top, right - left
    window = np.zeros_like(body)
    window[top + height // 2 : top + int(0.85 * height), left + width // 2 - width // 20 : left + int(0.72 * width)] = True
    reach = ndimage.distance_transform_edt(soft & window) * pixel_mm
    labels, count = ndimage.label(ndimage.binary_opening(soft & window, iterations=max(1, round(4 / pixel_mm))))
    best: tuple[float, float] | None = None
    for number in range(1, count + 1):
        part = labels == number
        mm = 2 * float(reach[part].max())
        area = float(part.sum()) * pixel_mm**2
        fill = _roundness(area, mm)
        inner = image[part & (reach > 3)]
        if AORTA_MM[0] <= mm <= AORTA_MM[1] and fill < 1.6 and len(inner) >= 30 and (best is None or fill < best[0]):
            best = (fill, float(np.median(inner)))
    return best[1] if best else None


def _roundness(area: float, diameter: float) -> float:
    """Area over that of the largest disc inside: 1 for a disc."""
    return area / (np.pi / 4 * diameter**2) if diameter > 0 else np.inf
