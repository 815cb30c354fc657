"""The stages of a universal model, one after the other: what twins, gossip and cloud do in a run, as a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from p2pftl.imaging.cohort import Cohort
from p2pftl.learning.specs import Recipe
from p2pftl.learning.task import Scene
from p2pftl.learning.transfer import FedPer, Full
from p2pftl.learning.universal.fusion import Images, universal
from p2pftl.learning.universal.heads import PrivateHead
from p2pftl.learning.universal.masked import MaskedImages
from p2pftl.learning.universal.model import Universal, with_encoder
from p2pftl.learning.universal.probe import Domain
from p2pftl.learning.universal.spec import EncoderSpec, Fusion, Masking
from p2pftl.params import Vector

PRETRAINING = Recipe(optimizer="adam", lr=2e-3, steps=200)
TUNING = Recipe(optimizer="adam", lr=1e-3, epochs=4)


@dataclass(frozen=True)
class Course:
    """How a universal model is learnt. pretraining, tuning: one twin's fit of masked images, and of its task in every stage;
    stages: how often the twins' encoders are fused."""

    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    masking: Masking = field(default_factory=Masking)
    fusion: Fusion = field(default_factory=Fusion)
    pretraining: Recipe = PRETRAINING
    tuning: Recipe = TUNING
    stages: int = 2


@dataclass(frozen=True)
class Learning:
    """What came of a course. pretrained, final: whole vectors of the model with a decoder; local: domain -> the encoder that its twin
    learnt alone, in as many epochs; stages: the universal encoder after each stage."""

    pretrained: Vector = field(repr=False)
    final: Vector = field(repr=False)
    local: Mapping[str, Vector] = field(repr=False)
    stages: Sequence[Vector] = field(repr=False)


def pretrain(model: Universal, images: Mapping[str, Cohort], course: Course, seed: int) -> Vector:
    """One encoder with its decoder from all images together, masked; no label is looked at.

    images: by domain, all of one size. The upper bound of what twins reach who pre-train under gossip.
    """
    together = np.concatenate([one.images() for one in images.values()])
    grey = np.rint(together[:, 0] * 255).astype(np.uint8)
    cohort = Cohort(grey, np.zeros(len(grey), np.int64), "grey")
    task = MaskedImages("together", model, model.take(), {"train": cohort}, course.pretraining, Full(), seed, course.masking)
    return task.fit(task.start, 0, Scene(), None).vector


def learn(
    decoder: Universal, head: Universal, pretrained: Vector, domains: Mapping[str, Domain], unlabelled: Sequence[Images], course: Course,
    seed: int,
) -> Learning:  # fmt: skip
    """All stages: each twin tunes the encoder with its private head, then the encoders alone are fused.

    decoder, head: scratch space of one encoder with either end; unlabelled: sets of images [n, 1, H, W] that the fusion may see.
    """
    first = head.take()
    now, found = pretrained, []
    mine = dict.fromkeys(domains, with_encoder(first, pretrained[: head.encoder]))  # with each twin's own head, which stays
    alone = dict(mine)
    for stage in range(course.stages):
        for name, domain in domains.items():
            task = _task(name, head, first, domain, course, seed)
            mine[name] = task.fit(with_encoder(mine[name], now[: head.encoder]), stage, Scene(), None).vector
            alone[name] = mine[name] if stage == 0 else task.fit(alone[name], stage, Scene(), None).vector
        encoders = [mine[name][: head.encoder] for name in domains]
        now = universal(decoder, now, encoders, [1.0] * len(encoders), unlabelled, course.fusion, course.masking, seed, stage)
        found.append(now[: head.encoder])
    return Learning(pretrained, now, {name: vector[: head.encoder] for name, vector in alone.items()}, found)


def _task(name: str, model: Universal, start: Vector, domain: Domain, course: Course, seed: int) -> PrivateHead:
    cohorts = {"train": domain.train, "validation": domain.train, "test": domain.test}
    return PrivateHead(name, model, start, cohorts, course.tuning, FedPer(), seed, domain.classes)
