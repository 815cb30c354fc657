"""What is wrong with a scanner, in its images: tube output, gain, offset, cupping, rings (SCANNER_TWIN.md section 3).

    seen = (blurred + noise + ring + cupping + 1000) (1 + gain) - 1000 + offset

Rings come from gain errors of detector channels, cupping from beam hardening that is no longer corrected.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from p2pftl.draw import draw
from p2pftl.imaging.condition import INNERMOST_MM, Condition

NEIGHBOURS = 9  # an air calibration removes what is common to this many channels
BODY_HU, BODY_SHARE, BODY_WINDOW = -700.0, 0.3, 31


def degrade(seen: Tensor, true: Tensor, condition: Condition, pixel_mm: float, sample_mm: float) -> Tensor:
    """Return `seen` [B, n, n] HU with rings and cupping inside the body of `true`, then gain and offset everywhere."""
    if condition.ring or condition.cupping:
        side = seen.shape[-1]
        marks = torch.zeros(side, side, dtype=torch.float64)
        if condition.ring:
            marks = marks + condition.ring * rings(side, pixel_mm, sample_mm, condition.pattern, condition.channels)
        if condition.cupping:
            marks = marks + cup(side, pixel_mm, condition.cupping)
        seen = seen + marks.to(seen) * body(true)
    if condition.gain:
        seen = (seen + 1000) * (1 + condition.gain) - 1000
    return seen + condition.offset if condition.offset else seen


@lru_cache(maxsize=16)
def rings(side: int, pixel_mm: float, sample_mm: float, pattern: int, channels: int = 0) -> Tensor:
    """Concentric rings [n, n], 1 HU at 50 mm: white errors of the channels minus their 9-channel mean, falling as 1/sqrt(r)."""
    radius = _radius(side, pixel_mm)
    count = int(side * pixel_mm * 0.75 / sample_mm) + 2
    generator = draw(pattern, "ring")
    errors = torch.from_numpy(generator.standard_normal(count))
    if 0 < channels < count:
        off = torch.from_numpy(generator.permutation(count)[:channels])
        errors = torch.zeros(count, dtype=torch.float64).index_copy(0, off, errors[off])
    common = F.avg_pool1d(errors[None, None], NEIGHBOURS, 1, NEIGHBOURS // 2, count_include_pad=False)[0, 0]
    errors = errors - common
    at = (radius / sample_mm).clamp(max=count - 2)
    low = at.long()
    share = at - low
    return (errors[low] * (1 - share) + errors[low + 1] * share) * (50 / radius.clamp(min=INNERMOST_MM)).sqrt()


def cup(side: int, pixel_mm: float, depth: float) -> Tensor:
    """Cupping [n, n] HU: -depth (1 - (r / 100 mm)^2), r / 100 mm capped at 1.6."""
    return -depth * (1 - (_radius(side, pixel_mm) / 100).clamp(max=1.6) ** 2)


def body(true: Tensor) -> Tensor:
    """Where there is a patient or phantom [B, n, n], 0 or 1: more than 30 % of the surrounding 31 x 31 pixels are above -700 HU."""
    side = true.shape[-1]
    window = min(BODY_WINDOW, side - 1 + side % 2)
    reach = window // 2
    rows = F.avg_pool2d((true > BODY_HU).to(true)[:, None], (1, window), 1, (0, reach))  # one way after the other: a tenth of the time
    share = F.avg_pool2d(rows, (window, 1), 1, (reach, 0))[:, 0]
    return (share > BODY_SHARE).to(true)


def _radius(side: int, pixel_mm: float) -> Tensor:
    line = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * pixel_mm
    return torch.hypot(line[:, None], line[None])
