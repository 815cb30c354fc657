"""The universal model's cloud: encoders become one, from their values and from images that no twin has (docs/universal.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Interval, Le

from p2pftl.cloud.seams import Coordinator, Memory, Reply, Upload
from p2pftl.draw import number
from p2pftl.errors import DataError
from p2pftl.imaging.cohort import Place, Sample, Shard, Source
from p2pftl.imaging.domains import BOXED, Domains, domain_of, greyed
from p2pftl.imaging.phantom import Phantom
from p2pftl.imaging.scanner import Scanner
from p2pftl.learning.universal.spec import EncoderSpec, Fusion, Masking
from p2pftl.params import Layout, Vector, gather
from p2pftl.policies import Within

if TYPE_CHECKING:  # it brings torch
    from p2pftl.learning.universal.model import Universal

_STEM = "stem.0.weight"
_HIDDEN: Mapping[str, Any] = {"key": False}


def drawn() -> Source:
    """Patients who never lived, with all that a phantom can have."""
    return Phantom(task="lesion_type", patients=32)


@dataclass(frozen=True)
class UniversalFusion:
    """Averages the twins' encoders; the mean then learns, on images of no twin, to say what each of them says (ALGORITHMS.md section 8).

    mode: stop at the mean (`average`), or go on (`distil`). steps, batch, lr: of the student (Adam); masked: weight of its
    masked-image loss, 0 for none; unit, ratio: of that, as in `masked`; images: a data source whose images are used without their labels,
    drawn phantoms if not given. It takes encoders and images; a label, a head or a twin's image is refused.
    """

    mode: Literal["average", "distil"] = "distil"
    steps: Annotated[int, Interval(ge=1, le=100_000)] = 100
    batch: Annotated[int, Interval(ge=1, le=1024)] = 16
    lr: Annotated[float, Gt(0), Le(1)] = 5e-4
    masked: Annotated[float, Interval(ge=0, le=100)] = 0.1
    unit: Annotated[int, Interval(ge=4, le=64)] = 8
    ratio: Annotated[float, Interval(ge=0.1, le=0.9)] = 0.6
    images: Annotated[Source, Within("data", BOXED)] = field(default_factory=drawn)
    seed: int = field(default=0, metadata=_HIDDEN)
    size: Annotated[int, Ge(0)] = field(default=0, metadata=_HIDDEN)
    weights: str | None = field(default=None, metadata=_HIDDEN)
    samples: tuple[Sample, ...] = field(default=(), repr=False, metadata=_HIDDEN)

    def equipped(
        self, seed: int, size: int, weights: str | None, own: Collection[Place], progress: Callable[[int, int], None]
    ) -> Coordinator:
        """Return it with images listed, and drawn where they are phantoms. Raises DataError E306 for an image that a twin has."""
        ready = replace(self, seed=seed, size=size, weights=weights)
        if self.mode == "average":
            return ready
        names = tuple(self.images.domains) if isinstance(self.images, Domains) else ("cloud",)
        drawn_from, scanners = number(seed, "cloud images"), {name: Scanner() for name in names}
        listed = self.images.catalogue(scanners, drawn_from).samples
        whole = {name: Shard(tuple(one for one in listed if len(names) == 1 or domain_of(one) == name), (), ()) for name in names}
        made = tuple(sample for shard in self.images.prepare(whole, scanners, drawn_from, progress).values() for sample in shard.train)
        common = sum(sample.place in own for sample in made)
        if common:
            problem = f"the cloud was given {common} images that are a twin's"
            raise DataError("E306", problem, where="cloud.images", fix="give it other images, or leave `images` out: then it has phantoms")
        return replace(ready, samples=made)

    def answer(self, uploads: Mapping[str, Upload], layout: Layout, memory: Memory) -> Reply:
        """Offer one encoder to all that sent theirs. memory: the last encoder with its decoder, and how often it was fused."""
        from p2pftl.learning.engine import prepare_torch

        prepare_torch()
        from p2pftl.learning.universal.fusion import universal
        from p2pftl.learning.universal.model import Universal

        spec = EncoderSpec(width=layout.shapes[layout.names.index(_STEM)][0])
        model = Universal(spec, 0, self.seed, weights=self.weights)
        names, stage = sorted(uploads), int(memory.get("stage", 0))
        encoders = [_encoder(uploads[name], model) for name in names]
        start: Vector = memory["model"] if memory else model.take()
        fusion = Fusion(self.mode, self.steps, self.batch, self.lr, self.masked)
        masking, images = Masking(self.unit, self.ratio), [self._images()] if self.mode == "distil" else []
        found = universal(model, start, encoders, [1.0] * len(names), images, fusion, masking, self.seed, stage)
        offers = {name: (gather(found[: model.encoder], uploads[name].ranges),) for name in names}
        return Reply(offers, {"model": found, "stage": stage + 1}, figures={"stage": stage + 1.0, "images": float(len(self.samples))})

    def _images(self) -> npt.NDArray[np.float32]:
        """[N, 1, size, size] float32 in [0, 1]. What they are labelled as ends here."""
        grey = greyed(self.images.read(self.samples), self.size)
        return grey.astype(np.float32)[:, None] / np.float32(255)


def _encoder(upload: Upload, model: Universal) -> Vector:
    """What a twin sent, which is an encoder and nothing else."""
    if upload.ranges != ((0, model.encoder),):
        raise ValueError("a twin sent something else than its encoder")
    return upload.part
