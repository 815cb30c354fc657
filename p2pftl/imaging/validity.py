"""Where the acquisition model does not hold: named, so that nobody reads more out of an image than is in it."""

from __future__ import annotations

import torch

from p2pftl.imaging.acquisition import TYPICAL, Geometry, Images, noise_sigma
from p2pftl.imaging.scanner import Scanner

METAL_HU, METAL_SHARE = 2500.0, 1e-4
CONTRAST_HU, CONTRAST_SHARE, FITTED_KV = 300.0, 1e-3, 120.0
BODY_HU, CUT_SHARE = -300.0, 0.02

MEANING = {
    "starved": "a ray got fewer than 30 photons: real noise is lower and the mean falls",
    "cut": "the body reaches the edge of the image: rays miss what lies outside",
    "metal": "metal: streaks are not modelled",
    "contrast": "bone or iodine at another tube voltage than 120 kV: their HU would change, here they do not",
    "thin": "slices thinner than a detector row",
    "coarse": "the pixel grid does not hold the kernel's frequencies: it folds them",
}


def flags(hu: Images, scanner: Scanner, pixel_mm: float, geometry: Geometry = TYPICAL) -> list[frozenset[str]]:
    """Return for each image of `hu` [B, n, n], the true anatomy, which keys of MEANING apply. Raises ScenarioError E118."""
    images = torch.as_tensor(hu).float()
    _, starved = noise_sigma(images, scanner, pixel_mm, geometry)
    rim = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    found = {
        "starved": starved,
        "cut": (rim > BODY_HU).float().mean(1) > CUT_SHARE,
        "metal": (images > METAL_HU).float().mean((1, 2)) > METAL_SHARE,
        "contrast": ((images > CONTRAST_HU).float().mean((1, 2)) > CONTRAST_SHARE) & (scanner.kvp != FITTED_KV),
        "thin": torch.full_like(starved, scanner.slice_mm < geometry.sample_mm),
        "coarse": torch.full_like(starved, 0.5 / pixel_mm < geometry.nyquist / 2),
    }
    return [frozenset(name for name, true in found.items() if bool(true[row])) for row in range(len(images))]
