"""What a CT scanner does to the true anatomy: blur, noise of the right size and colour, calibration error.

Image-domain model (shared/design/SCANNER_TWIN.md section 3; constants from XCIST/gecatsim 1.6.6 spectra: tungsten 7 deg,
3 mm Al, 3 mm Lumex). Valid for 70..140 kVp and at least 30 detected photons per ray; scatter, bowtie, helical
interpolation, metal, tube current modulation and iterative reconstruction are not modelled.
Kernel `lung` has no measured curve of its own and uses that of `bone`.
Units: mm, HU, kV, mA s per rotation; frequencies in 1/mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2pftl.errors import ScenarioError
from p2pftl.imaging.artefacts import degrade
from p2pftl.imaging.condition import SOUND, Condition, check_condition
from p2pftl.imaging.scanner import Scanner

TUBE_KV = (70, 80, 90, 100, 110, 120, 130, 140)
PHOTONS = (2.97e7, 4.49e7, 6.20e7, 8.035e7, 9.95e7, 1.192e8, 1.413e8, 1.636e8)  # detected per cm2 and mA s at 1 m
MEAN_KEV = (45.6, 49.4, 52.8, 55.9, 58.9, 61.7, 64.4, 66.9)
WATER_MU = (0.02336, 0.02223, 0.02143, 0.02080, 0.02028, 0.01984, 0.01946, 0.01913)  # 1/mm, effective over 20 cm
APODISATION = {  # at 0, 1/4, 1/2, 3/4 and 1 of the detector's Nyquist frequency
    "soft": (1.0, 0.815, 0.4564, 0.1636, 0.0),
    "standard": (1.0, 0.9338, 0.7441, 0.4425, 0.0531),
    "bone": (1.0, 1.0485, 1.17, 1.2202, 0.9201),
    "lung": (1.0, 1.0485, 1.17, 1.2202, 0.9201),
    "ramlak": (1.0, 1.0, 1.0, 1.0, 1.0),
}
SWANK = 1.32  # variance factor of the detector; the one fitted constant (least squares over 8 XCIST runs)
ELECTRONIC_KEV = 3500 / 17  # electronic noise: 3500 e at 17 e per keV
STARVED = 30.0  # fewer detected photons per ray than this and the model no longer holds
RAY_ANGLES, RAY_GRID = 32, 48
AIR, BRIGHTEST = -1024, 3071  # what 12 bits hold

Spectrum = npt.NDArray[np.float64]
Images = Tensor | npt.NDArray[Any]
Draws = type[np.float64] | type[np.float32]


@dataclass(frozen=True)
class Geometry:
    """Source to isocentre and to detector, mm; square detector cell, mm; its active share; views per rotation."""

    sid_mm: float = 540.0
    sdd_mm: float = 950.0
    cell_mm: float = 1.0
    fill: float = 0.81
    views: int = 1000

    @property
    def sample_mm(self) -> float:
        """Channel pitch (and row height) at the isocentre."""
        return self.cell_mm * self.sid_mm / self.sdd_mm

    @property
    def nyquist(self) -> float:
        """Highest frequency the detector samples, 1/mm."""
        return 0.5 / self.sample_mm


TYPICAL = Geometry()


@dataclass(frozen=True)
class Acquired:
    """What the scanner delivers: `hu` [B, n, n] int16; `out_of_model` [B] bool, True where photons starved."""

    hu: Tensor
    out_of_model: Tensor


def acquire(
    hu: Images, scanner: Scanner, pixel_mm: float, generator: np.random.Generator, geometry: Geometry = TYPICAL,
    *, condition: Condition = SOUND, sectors: int = 1, draws: Draws = np.float64,
) -> Acquired:  # fmt: skip
    """Scan the true anatomy `hu` [B, n, n]: blur by the MTF, add noise, artefacts and the calibration error, clamp, round.

    sectors: angular sectors of the noise, 1 for isotropic; 6 makes it directional as in a patient, from 256 pixels up
    (at 128 the pixel grid has folded direction away). draws: float32 is twice as fast and gives other noise.
    Raises ScenarioError E118 for a setting outside the model's range.
    """
    check_condition(condition)
    true = torch.as_tensor(hu)
    true = true if true.is_floating_point() else true.float()
    exposed = scanner if condition.output == 1 else replace(scanner, dose=scanner.dose * condition.output)
    side = true.shape[-1]
    sigma, starved = noise_sigma(true, exposed, pixel_mm, geometry, sectors=sectors)
    grain = noise(true.shape, scanner.kernel, pixel_mm, generator, geometry, sectors=sectors, draws=draws).to(true)
    blurred = torch.fft.irfft2(torch.fft.rfft2(true) * _mtf(side, pixel_mm, scanner.kernel, geometry).to(true), s=(side, side))
    noisy = blurred + sigma * grain if sectors == 1 else blurred + (sigma * grain).sum(1)
    seen = (noisy if condition.sound else degrade(noisy, true, condition, pixel_mm, geometry.sample_mm)) + scanner.hu_offset
    return Acquired(seen.clamp(AIR, BRIGHTEST).round().to(torch.int16), starved)


def added_noise(
    hu: Images, scanner: Scanner, factor: float, pixel_mm: float, generator: np.random.Generator, geometry: Geometry = TYPICAL
) -> Tensor:
    """Return the noise to add, HU [B, n, n] float32, when the dose of images already acquired falls to `factor` of what it was.

    Standard deviation sqrt(1/factor - 1) sigma(x), coloured by the kernel: variances add up to that of the lower dose
    where quantum noise rules. Raises ScenarioError E118 unless 0 < factor <= 1 (a higher dose cannot be had after the fact).
    """
    if not 0 < factor <= 1:
        raise ScenarioError("E118", f"dose factor {factor:g} is not in (0, 1]", fix="noise can be added to acquired images, not removed")
    seen = torch.as_tensor(hu).float()
    sigma, _ = noise_sigma(seen, scanner, pixel_mm, geometry)
    return math.sqrt(1 / factor - 1) * sigma * noise(seen.shape, scanner.kernel, pixel_mm, generator, geometry).float()


def noise_sigma(hu: Images, scanner: Scanner, pixel_mm: float, geometry: Geometry = TYPICAL, *, sectors: int = 1) -> tuple[Tensor, Tensor]:
    """Return the local noise, standard deviation in HU [B, n, n], and [B] bool: did any ray get fewer than 30 photons?

    Variance of each ray, F/N + (sigma_e/E)^2/N^2, averaged over the rays through a pixel: unfiltered mean
    backprojection over 32 angles on a 48 x 48 grid. Starved rays count as 30 photons. With several sectors
    [B, sectors, n, n]: what the rays of each direction alone would give. Raises ScenarioError E118.
    """
    check(scanner)
    images = torch.as_tensor(hu)
    images = images if images.is_floating_point() else images.float()
    batch, side = images.shape[0], images.shape[-1]
    mu = water_mu(scanner.kvp)
    attenuation = mu * (images.clamp(min=-1000) / 1000 + 1)
    coarse = F.interpolate(attenuation[:, None], size=(RAY_GRID, RAY_GRID), mode="area")
    along, across = _rays(images.dtype)
    stack = coarse.transpose(0, 1).expand(RAY_ANGLES, batch, RAY_GRID, RAY_GRID)
    paths = F.grid_sample(stack, along, align_corners=False).sum(2) * (side * pixel_mm / RAY_GRID)
    photons = photons_in_air(scanner, geometry) * torch.exp(-paths)
    starved = (photons < STARVED).any(2).any(0)
    variance = ray_variance(photons.clamp(min=STARVED), scanner.kvp)[:, :, None].expand(-1, -1, 1, -1)
    back = F.grid_sample(variance, across, align_corners=False, padding_mode="border")
    if sectors == 1:
        local = F.interpolate(back.mean(0)[:, None], size=(side, side), mode="bilinear")[:, 0]
    else:
        local = F.interpolate(torch.einsum("ka,abij->bkij", _ray_shares(sectors).to(back), back), size=(side, side), mode="bilinear")
    return image_noise(local, scanner.kvp, scanner.kernel, geometry), starved


def noise(
    shape: torch.Size | tuple[int, ...], kernel: str, pixel_mm: float, generator: np.random.Generator, geometry: Geometry = TYPICAL,
    *, sectors: int = 1, draws: Draws = np.float64,
) -> Tensor:  # fmt: skip
    """Return noise of unit variance with the kernel's power spectrum, [B, n, n]; for several sectors their parts [B, sectors, n, n]."""
    white = torch.from_numpy(generator.standard_normal(tuple(shape), dtype=draws))
    side = shape[-1]
    colour = _noise_colour(side, pixel_mm, kernel, geometry).to(white)
    waves = torch.fft.rfft2(white) * colour
    if sectors > 1:
        waves = waves[:, None] * _wave_shares(side, sectors).to(white)
    coloured: Tensor = torch.fft.irfft2(waves, s=(side, side))
    return coloured


def photons_in_air(scanner: Scanner, geometry: Geometry = TYPICAL) -> float:
    """Detected photons per ray and view without a patient; a slice thicker than a detector row averages rows."""
    flux = float(np.interp(scanner.kvp, TUBE_KV, PHOTONS)) / 100 / (geometry.sdd_mm / 1000) ** 2
    area = geometry.cell_mm**2 * geometry.fill
    return flux * area * scanner.mas * scanner.dose / geometry.views * scanner.slice_mm / geometry.sample_mm


def water_mu(kvp: float) -> float:
    """Effective attenuation of water, 1/mm."""
    return float(np.interp(kvp, TUBE_KV, WATER_MU))


def ray_variance(photons: Tensor, kvp: float) -> Tensor:
    """Variance of one post-log ray that `photons` reach: quantum plus electronic noise."""
    electronic = ELECTRONIC_KEV / float(np.interp(kvp, TUBE_KV, MEAN_KEV))
    return SWANK / photons + (electronic / photons) ** 2


def image_noise(variance: Tensor, kvp: float, kernel: str, geometry: Geometry = TYPICAL) -> Tensor:
    """Standard deviation in HU after filtered backprojection of rays with `variance`."""
    gain = math.pi**2 / geometry.views * geometry.sample_mm * kernel_integral(kernel, geometry)
    return torch.sqrt(variance * (gain * (1000 / water_mu(kvp)) ** 2))


@lru_cache(maxsize=64)
def kernel_integral(kernel: str, geometry: Geometry = TYPICAL) -> float:
    """Noise a kernel lets through: 2 * integral of f^2 A(f)^2 sinc(f d)^4 up to Nyquist, 1/mm3."""
    f = np.linspace(0, geometry.nyquist, 2001)
    passed = f**2 * apodisation(kernel, f, geometry) ** 2 * np.sinc(f * geometry.sample_mm) ** 4
    return 2 * float(np.trapezoid(passed, f))


def apodisation(kernel: str, frequency: Spectrum, geometry: Geometry = TYPICAL) -> Spectrum:
    """The kernel's factor on the ramp filter at `frequency`, 1/mm: quadratic spline through five points, 0 beyond Nyquist."""
    at, factor = _curve(kernel)
    return np.interp(np.abs(frequency) / geometry.nyquist, at, factor, right=0.0)


def mtf(kernel: str, frequency: Spectrum, geometry: Geometry = TYPICAL) -> Spectrum:
    """Modulation transfer at `frequency`, 1/mm: kernel times detector aperture. Optimistic: no focal spot."""
    aperture: Spectrum = np.sinc(np.minimum(frequency * geometry.sample_mm, 1)) ** 2
    return apodisation(kernel, frequency, geometry) * aperture


def nps(kernel: str, frequency: Spectrum, geometry: Geometry = TYPICAL) -> Spectrum:
    """Noise power at `frequency`, 1/mm, in arbitrary units, before the pixel grid folds it; 0 at 0."""
    power: Spectrum = frequency * apodisation(kernel, frequency, geometry) ** 2 * np.sinc(frequency * geometry.sample_mm) ** 4
    return power


@lru_cache(maxsize=64)
def mtf50(kernel: str, geometry: Geometry = TYPICAL) -> float:
    """Frequency, 1/mm, at which half the modulation is left."""
    f = np.linspace(0, geometry.nyquist, 8193)
    return float(f[np.argmax(mtf(kernel, f, geometry) < 0.5)])


@lru_cache(maxsize=64)
def nps_mean(kernel: str, geometry: Geometry = TYPICAL) -> float:
    """Mean frequency of the noise, 1/mm: of the radial average, not weighted by the circumference."""
    f = np.linspace(0, geometry.nyquist, 8193)
    power = nps(kernel, f, geometry)
    return float((f * power).sum() / power.sum())


def check(scanner: Scanner) -> None:
    """Raise ScenarioError E118 when a setting lies outside what the model was fitted to."""
    if not TUBE_KV[0] <= scanner.kvp <= TUBE_KV[-1]:
        raise ScenarioError("E118", f"kvp = {scanner.kvp:g}: outside the spectra's range", fix=f"allowed: {TUBE_KV[0]}..{TUBE_KV[-1]}")
    for name in ("mas", "dose", "slice_mm"):
        value = getattr(scanner, name)
        if not (math.isfinite(value) and value > 0):
            raise ScenarioError("E118", f"{name} = {value:g}", fix="allowed: a finite number above 0")
    if not math.isfinite(scanner.hu_offset):
        raise ScenarioError("E118", f"hu_offset = {scanner.hu_offset:g}", fix="allowed: a finite number")
    if scanner.kernel not in APODISATION:
        raise ScenarioError("E118", f"kernel = {scanner.kernel}", fix="allowed: " + ", ".join(APODISATION))


@lru_cache(maxsize=8)
def _curve(kernel: str) -> tuple[Spectrum, Spectrum]:
    from scipy.interpolate import make_interp_spline  # here: 0.3 s for every process, and few of them simulate a scanner

    spline = make_interp_spline((0, 0.25, 0.5, 0.75, 1), APODISATION[kernel], k=2)
    at = np.linspace(0, 1, 4097)
    return at, np.clip(spline(at), 0, None)


@lru_cache(maxsize=128)
def _noise_colour(side: int, pixel_mm: float, kernel: str, geometry: Geometry) -> Tensor:
    """Square root of the NPS on the half plane of rfft2, scaled to unit variance: f A^2 sinc^4, folded by the pixel grid."""
    down, right = np.fft.fftfreq(side, pixel_mm), np.fft.rfftfreq(side, pixel_mm)
    f = np.linspace(0, geometry.nyquist, 4097)
    radial = nps(kernel, f, geometry)
    power = np.zeros((side, side // 2 + 1))
    for row in range(-3, 4):
        for column in range(-3, 4):
            power += np.interp(np.hypot(down[:, None] + row / pixel_mm, right[None] + column / pixel_mm), f, radial, right=0.0)
    power[0, 0] = 0
    twice = np.full(side // 2 + 1, 2.0)  # rfft2 keeps one of each mirrored pair
    twice[0] = 1.0
    if side % 2 == 0:
        twice[-1] = 1.0
    return torch.from_numpy(np.sqrt(power / ((power * twice).sum() / side**2)))


@lru_cache(maxsize=128)
def _mtf(side: int, pixel_mm: float, kernel: str, geometry: Geometry) -> Tensor:
    """The modulation transfer on the half plane of rfft2."""
    f = np.hypot(np.fft.fftfreq(side, pixel_mm)[:, None], np.fft.rfftfreq(side, pixel_mm)[None])
    return torch.from_numpy(mtf(kernel, f, geometry))


@lru_cache(maxsize=4)
def _rays(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where grid_sample looks, [angle, m, m, 2] in [-1, 1]: along parallel rays to project, across them to smear back."""
    angle = torch.arange(RAY_ANGLES, dtype=dtype)[:, None, None] * (math.pi / RAY_ANGLES)
    line = (torch.arange(RAY_GRID, dtype=dtype) - (RAY_GRID - 1) / 2) / (RAY_GRID / 2)
    s, t = line[None, None, :], line[None, :, None]
    along = torch.stack([s * angle.cos() - t * angle.sin(), s * angle.sin() + t * angle.cos()], -1)
    detector = s * angle.cos() + t * angle.sin()
    return along, torch.stack([detector, torch.zeros_like(detector)], -1)


@lru_cache(maxsize=32)
def _wave_shares(side: int, sectors: int) -> Tensor:
    """How much of each wave's amplitude belongs to each angular sector [sectors, n, n // 2 + 1]; they sum to 1.

    One white field feeds all sectors, so amplitudes add up and not powers.
    """
    angle = np.arctan2(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) % math.pi
    share = _near(angle[None], sectors)
    return torch.from_numpy(share / share.sum(0, keepdims=True))


@lru_cache(maxsize=8)
def _ray_shares(sectors: int) -> Tensor:
    """Weights [sectors, angles] of the rays whose noise makes the waves of a sector: those of detectors along the wave."""
    share = _near((np.arange(RAY_ANGLES) * math.pi / RAY_ANGLES)[None], sectors)
    return torch.from_numpy(share / share.sum(1, keepdims=True))


def _near(angle: Spectrum, sectors: int) -> Spectrum:
    """Triangular closeness of `angle` to the middle of each sector; neighbouring sectors overlap."""
    middle = (np.arange(sectors) + 0.5) * math.pi / sectors
    apart = (angle - middle.reshape(-1, *[1] * (angle.ndim - 1)) + math.pi / 2) % math.pi - math.pi / 2
    return np.clip(1 - np.abs(apart) / (math.pi / sectors), 0, None)
