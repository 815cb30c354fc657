"""A data source of one's own: striped squares, upright or lying. Yours would list files in catalogue() and open them in read()."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p2pftl.draw import draw
from p2pftl.imaging.cohort import Catalogue, Cohort, Sample, Source
from p2pftl.imaging.scanner import Scanner


@dataclass(frozen=True)
class Stripes(Source):
    """Noisy stripes. images: how many, each a patient of its own; size: side, pixels; noise: standard deviation, grey levels."""

    images: int = 120
    size: int = 32
    noise: float = 60.0

    def catalogue(self, scanners: Mapping[str, Scanner], seed: int) -> Catalogue:  # in the driver, no pixels
        samples = tuple(Sample("", i, i % 2, patient=f"p{i:04d}") for i in range(self.images))
        return Catalogue(samples, ("upright", "lying"), synthetic=True, unit="grey")

    def read(self, samples: Sequence[Sample]) -> Cohort:  # in each twin's own process
        waves = 128 + 60 * np.sin(np.mgrid[: self.size, : self.size])
        grey = [waves[1 - s.label] + draw(0, "stripes", s.index).normal(0, self.noise, waves[0].shape) for s in samples]
        return Cohort(np.clip(grey, 0, 255).astype(np.uint8), np.array([s.label for s in samples]), "grey")
