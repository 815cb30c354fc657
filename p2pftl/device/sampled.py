"""A day's phantom without its pixels: what the analysis would have measured, drawn from its sampling distribution.

Twenty scanners over two years make 15,000 phantoms; in pixels they cost 20 ms each, drawn like this 0.1 ms. The scatter of each
figure was measured on 100 scanned phantoms of the reference protocol (200 mm water, 512 pixels over 250 mm); a test compares.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from p2pftl.device.protocol import Protocol, Reading
from p2pftl.device.water import expected_sd
from p2pftl.imaging.acquisition import TYPICAL, mtf50, nps_mean
from p2pftl.imaging.artefacts import rings
from p2pftl.imaging.condition import SOUND, Condition

MEAN_SCATTER = {"soft": 0.020, "standard": 0.020, "lung": 0.012, "bone": 0.012}  # sd of a region's mean, as a share of the noise
SD_SCATTER = {"soft": 0.037, "standard": 0.030, "lung": 0.023, "bone": 0.023}  # of the region's sd, as a share of it
RIPPLE = {"soft": 0.047, "standard": 0.047, "lung": 0.047, "bone": 0.048}  # ring index of a scanner without rings, share of the noise
RIPPLE_SCATTER, AIR_SCATTER, MTF_SCATTER, NPS_SCATTER = 0.08, 0.005, 0.0006, 0.002
RIPPLE_OF_RING = 0.76  # what the 9-bin running mean leaves of a ring's amplitude
EDGE_MTF = {"soft": 1.055, "standard": 1.014, "lung": 0.973, "bone": 0.973}  # edge method over the model's curve
SOFT_BIAS = {"soft": (-0.39, -0.73)}  # HU at the centre and at 70 mm: a soft kernel draws the air outside inward


def sample(protocol: Protocol, generator: np.random.Generator, condition: Condition = SOUND) -> Reading:
    """Return what one phantom would measure under `condition`."""
    kernel, sigma = protocol.kernel, expected_sd(protocol, output=condition.output)
    unit_mean, unit_sd, unit_edges = _ringing(protocol, condition.pattern, condition.channels) if condition.ring else (0.0, 0.0, (0.0,) * 4)
    gain = 1 + condition.gain
    places = [condition.ring * unit_mean, *(condition.ring * edge for edge in unit_edges)]
    depth = [-condition.cupping * (1 - (r / 100) ** 2) for r in (0.0, *(protocol.edge_mm,) * 4)]
    scatter = generator.standard_normal(5) * sigma * MEAN_SCATTER[kernel]
    middle, edge = SOFT_BIAS.get(kernel, (0.0, 0.0))
    regions = (np.array(places) + depth + scatter + [middle, *(edge,) * 4]) * gain + 1000 * condition.gain + condition.offset
    sd = math.hypot(sigma, condition.ring * unit_sd) * gain
    floor = RIPPLE[kernel] * sigma * gain * (1 + RIPPLE_SCATTER * generator.standard_normal())
    extra = generator.standard_normal(4)
    return Reading(
        mean=float(regions[0]),
        sd=float(sd * (1 + SD_SCATTER[kernel] * extra[0])),
        unif=float(np.abs(regions[1:] - regions[0]).max()),
        air=float(-1000 + condition.offset + AIR_SCATTER * extra[1]),
        ring=float(math.hypot(floor, RIPPLE_OF_RING * condition.ring * gain)),
        mtf50=float(mtf50(kernel) * EDGE_MTF[kernel] + MTF_SCATTER * extra[2]),
        nps_f=float(nps_mean(kernel) + NPS_SCATTER * extra[3]),
    )


@lru_cache(maxsize=256)
def _ringing(protocol: Protocol, pattern: int, channels: int) -> tuple[float, float, tuple[float, ...]]:
    """Mean and sd at the centre, and means of the four outer regions, of rings of 1 HU."""
    marks = rings(protocol.size, protocol.pixel_mm, TYPICAL.sample_mm, pattern, channels).numpy()
    line = (np.arange(protocol.size) - (protocol.size - 1) / 2) * protocol.pixel_mm
    reach, far = protocol.roi_mm2 / math.pi, protocol.edge_mm
    places = ((-far, 0.0), (far, 0.0), (0.0, far), (0.0, -far))
    means = [float(marks[(line[:, None] - y) ** 2 + (line[None] - x) ** 2 < reach].mean()) for y, x in places]
    centre = marks[line[:, None] ** 2 + line[None] ** 2 < reach]
    return float(centre.mean()), float(centre.std()), tuple(means)
