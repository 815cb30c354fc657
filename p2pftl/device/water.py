"""The daily water phantom: its true image, its scan, and what is measured in it (SCANNER_TWIN.md section 5).

The analysis finds the phantom by itself and is the same for simulated and for real images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage, special

from p2pftl.device.protocol import Protocol, Reading
from p2pftl.errors import DataError
from p2pftl.imaging.acquisition import TYPICAL, Geometry, acquire, image_noise, photons_in_air, ray_variance, water_mu
from p2pftl.imaging.condition import SOUND, Condition

Pixels = npt.NDArray[np.float64]
WATER_HU = (-150.0, 150.0)
EDGE_BIN = 0.1  # of a pixel: how finely the circular edge is sampled
EDGE_MM = 4.0  # on either side; a wall of acrylic is thicker
PATCH_MM = 31.0
RING_MM = (8.0, 80.0)


@dataclass(frozen=True)
class Place:
    """Where the phantom lies in the image: row and column of its centre, pixels; outer radius, mm."""

    row: float
    column: float
    radius_mm: float


@lru_cache(maxsize=8)
def truth(size: int, pixel_mm: float, diameter_mm: float) -> torch.Tensor:
    """The true image [1, n, n] HU float32: a disc of water in air, limited to the frequencies the pixel grid holds.

    Made from the disc's own transform (jinc), so that its edge is exact at any pixel size and rings until it is blurred.
    """
    down, right = np.fft.fftfreq(size, pixel_mm)[:, None], np.fft.rfftfreq(size, pixel_mm)[None]
    f, radius = np.hypot(down, right), diameter_mm / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        wave = np.where(f > 0, radius * special.j1(2 * math.pi * radius * f) / f, math.pi * radius**2)
    wave = np.where(np.maximum(abs(down), right) < 0.499 / pixel_mm, wave, 0.0)  # a wave at Nyquist has no side to shift to
    middle = (size - 1) / 2 * pixel_mm
    wave = wave * np.exp(-2j * math.pi * (down + right) * middle) / pixel_mm**2
    disc = np.fft.irfft2(wave, s=(size, size))
    return torch.from_numpy(1000 * disc - 1000).float()[None]


def scan(
    protocol: Protocol, generator: np.random.Generator, condition: Condition = SOUND, *, images: int = 1, geometry: Geometry = TYPICAL
) -> npt.NDArray[np.int16]:
    """Return `images` scans of the phantom [B, n, n] HU."""
    true = truth(protocol.size, protocol.pixel_mm, protocol.diameter_mm).expand(images, -1, -1)
    seen = acquire(true, protocol.scanner, protocol.pixel_mm, generator, geometry, condition=condition, draws=np.float32)
    hu: npt.NDArray[np.int16] = seen.hu.numpy()
    return hu


def expected_sd(protocol: Protocol, *, output: float = 1.0, geometry: Geometry = TYPICAL) -> float:
    """Noise at the centre of the phantom by the model, HU."""
    scanner = replace(protocol.scanner, dose=output)
    photons = photons_in_air(scanner, geometry) * math.exp(-water_mu(protocol.kvp) * protocol.diameter_mm)
    variance = ray_variance(torch.tensor(photons, dtype=torch.float64), protocol.kvp)
    return float(image_noise(variance, protocol.kvp, protocol.kernel, geometry))


def analyse(hu: npt.ArrayLike, pixel_mm: float, *, roi_mm2: float = 400.0, edge_mm: float = 70.0) -> Reading:
    """Measure one phantom image [n, n] HU. Raises DataError E338 when there is no round water phantom in it.

    Outer regions lie at `edge_mm`, or at 70 % of the radius where the phantom is smaller than 200 mm.
    """
    image = np.asarray(hu, dtype=np.float64)
    place = find(image, pixel_mm)
    far, radius = min(edge_mm, 0.7 * place.radius_mm), math.sqrt(roi_mm2 / math.pi)
    centre = _region(image, place, pixel_mm, 0, 0, radius)
    edges = [_region(image, place, pixel_mm, far * y, far * x, radius) for y, x in ((-1, 0), (1, 0), (0, 1), (0, -1))]
    mean = float(centre.mean())
    return Reading(
        mean=mean, sd=float(centre.std(ddof=1)), unif=max(abs(float(edge.mean()) - mean) for edge in edges),
        air=_air(image, place, pixel_mm), ring=_ripple(image, place, pixel_mm),
        mtf50=_edge_mtf50(image, place, pixel_mm), nps_f=_noise_frequency(image, place, pixel_mm),
    )  # fmt: skip


def find(image: Pixels, pixel_mm: float) -> Place:
    """Return where the phantom is. Raises DataError E338."""
    if image.ndim != 2 or not np.isfinite(image).all():
        raise _not_water("one finite image is needed")
    labels, count = ndimage.label(ndimage.uniform_filter(image, 5) > -500)
    if not count:
        raise _not_water("nothing denser than air")
    sizes = np.bincount(labels.ravel())[1:]
    rows, columns = np.nonzero(labels == sizes.argmax() + 1)
    area, height, width = len(rows), np.ptp(rows) + 1, np.ptp(columns) + 1
    place = Place(float(rows.mean()), float(columns.mean()), math.sqrt(area / math.pi) * pixel_mm)
    round_enough = abs(height / width - 1) < 0.05 and abs(area / (math.pi / 4 * height * width) - 1) < 0.05
    if not round_enough or place.radius_mm < 60:
        raise _not_water("no round object of at least 120 mm")
    core = _region(image, place, pixel_mm, 0, 0, 0.5 * place.radius_mm)
    if not WATER_HU[0] < core.mean() < WATER_HU[1]:
        raise _not_water(f"its inside is not within {WATER_HU[0]:g}..{WATER_HU[1]:g} HU")
    return place


def _not_water(why: str) -> DataError:
    return DataError("E338", f"not an image of a water phantom: {why}", fix="name the right series, or leave quality assurance off")


def _region(image: Pixels, place: Place, pixel_mm: float, down: float, right: float, radius: float) -> Pixels:
    """Pixels within `radius` mm of a point `down` and `right` mm of the phantom's centre."""
    row, column, reach = place.row + down / pixel_mm, place.column + right / pixel_mm, radius / pixel_mm
    top, left = max(0, math.floor(row - reach)), max(0, math.floor(column - reach))
    part = image[top : math.ceil(row + reach) + 1, left : math.ceil(column + reach) + 1]
    y, x = np.ogrid[: part.shape[0], : part.shape[1]]
    return part[(y + top - row) ** 2 + (x + left - column) ** 2 < reach**2]


def _distance(shape: tuple[int, ...], place: Place, pixel_mm: float) -> Pixels:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - place.row, x - place.column) * pixel_mm


def _air(image: Pixels, place: Place, pixel_mm: float) -> float:
    """Mean outside the phantom: the corners, 15 mm and more away from it."""
    outside = _distance(image.shape, place, pixel_mm) > place.radius_mm + 15
    return float(image[outside].mean()) if outside.any() else math.nan


def _ripple(image: Pixels, place: Place, pixel_mm: float) -> float:
    """Root mean square of the radial profile minus its 9-bin running mean, each bin scaled by sqrt(r / 50 mm)."""
    r = _distance(image.shape, place, pixel_mm)
    inside = r < min(RING_MM[1], 0.8 * place.radius_mm)
    bins = (r[inside] / pixel_mm).astype(np.int64)
    profile = np.bincount(bins, image[inside]) / np.maximum(np.bincount(bins), 1)
    rough = profile - ndimage.uniform_filter1d(profile, 9, mode="nearest")
    at = (np.arange(len(profile)) + 0.5) * pixel_mm
    kept = at > RING_MM[0]
    return float(np.sqrt(np.mean(rough[kept] ** 2 * at[kept] / 50)))


def _edge_mtf50(image: Pixels, place: Place, pixel_mm: float) -> float:
    """Frequency at half modulation from the phantom's rim: edge spread over all directions, its derivative, its transform."""
    r = _distance(image.shape, place, pixel_mm)
    step = EDGE_BIN * pixel_mm
    near = np.abs(r - place.radius_mm) < EDGE_MM
    bins = ((r[near] - place.radius_mm + EDGE_MM) / step).astype(np.int64)
    count = np.bincount(bins)
    spread = np.bincount(bins, image[near]) / np.maximum(count, 1)
    if (count == 0).any():
        known = np.flatnonzero(count)
        spread = np.interp(np.arange(len(spread)), known, spread[known])
    line = np.diff(spread)
    wave = np.abs(np.fft.rfft(line * np.hanning(len(line)), 4096))
    f = np.fft.rfftfreq(4096, step)
    modulation = wave / wave[0] / np.maximum(np.sinc(f * step), 0.1) ** 2  # binning and differencing
    under = int(np.argmax(modulation < 0.5))
    return float(np.interp(0.5, [modulation[under], modulation[under - 1]], [f[under], f[under - 1]])) if under else math.nan


def _noise_frequency(image: Pixels, place: Place, pixel_mm: float) -> float:
    """Mean frequency of the radial noise power, from overlapping square patches without their planes."""
    side = max(16, round(PATCH_MM / pixel_mm))
    reach = 0.85 * place.radius_mm / pixel_mm
    steps = np.arange(-2.5, 3) * side / 2
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    power = np.zeros((side, side))
    for down in steps:
        for right in steps:
            if math.hypot(abs(down) + side / 2, abs(right) + side / 2) > reach:
                continue
            top, left = round(place.row + down - side / 2), round(place.column + right - side / 2)
            patch = image[top : top + side, left : left + side]
            if patch.shape != power.shape:
                continue
            flat = patch - patch.mean() - y * (patch * y).sum() / (y * y).sum() - x * (patch * x).sum() / (x * x).sum()
            power += np.abs(np.fft.fft2(flat)) ** 2
    line = np.fft.fftfreq(side)
    ring = np.rint(np.hypot(line[:, None], line[None]) * side).astype(np.int64).ravel()
    total, count = np.bincount(ring, power.ravel()), np.bincount(ring)
    radial = (total / count)[: side // 2 + 1]
    if not radial.any():
        return math.nan
    f = np.arange(len(radial)) / (side * pixel_mm)
    return float((f * radial).sum() / radial.sum())
