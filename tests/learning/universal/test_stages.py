"""All stages of a universal model, small and at length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from p2pftl.learning.models import prepare_torch
from p2pftl.learning.specs import Recipe
from p2pftl.learning.universal.model import Universal
from p2pftl.learning.universal.probe import Domain, compared, leave_one_out, probe
from p2pftl.learning.universal.spec import EncoderSpec, Fusion
from p2pftl.learning.universal.stages import Course, Learning, learn, pretrain
from tests.learning.universal.phantom_domains import phantom_domains
from tests.learning.universal.shapes import domain, mislabelled

prepare_torch()
SMALL = Course(
    EncoderSpec(width=8), fusion=Fusion(steps=6, batch=8), stages=2,
    pretraining=Recipe(optimizer="adam", lr=2e-3, batch=8, steps=10), tuning=Recipe(optimizer="adam", lr=1e-3, batch=8, epochs=1),
)  # fmt: skip
DOMAINS = {"two": domain(2, 1), "three": domain(3, 2), "four": domain(4, 3)}


def learnt(domains: dict[str, Domain], course: Course = SMALL, seed: int = 1) -> Learning:
    decoder, head = Universal(course.encoder, 0, seed), Universal(course.encoder, 4, seed)
    first = pretrain(decoder, {name: one.train for name, one in domains.items()}, course, seed)
    return learn(decoder, head, first, domains, [one.train.images() for one in domains.values()], course, seed)


def test_the_same_course_gives_the_same_encoders_and_another_seed_others() -> None:
    one, again, other = learnt(DOMAINS), learnt(DOMAINS), learnt(DOMAINS, seed=2)
    assert [stage.tobytes() for stage in one.stages] == [stage.tobytes() for stage in again.stages]
    assert one.final.tobytes() != other.final.tobytes()
    assert len(one.stages) == 2
    assert np.array_equal(one.final[: len(one.stages[-1])], one.stages[-1])


def test_pre_training_looks_at_no_label() -> None:
    course, found = replace(SMALL, stages=1), []
    for label in (lambda cohort: cohort, mislabelled):
        model = Universal(course.encoder, 0, 1)
        found.append(pretrain(model, {name: label(one.train) for name, one in DOMAINS.items()}, course, 1).tobytes())
    assert found[0] == found[1]


def test_a_twin_alone_is_where_the_universal_model_of_one_twin_is_but_for_the_student() -> None:
    found = learnt({"two": DOMAINS["two"]}, replace(SMALL, fusion=Fusion(mode="average")))
    assert np.array_equal(found.local["two"], found.stages[-1])


def test_the_domain_that_is_judged_is_left_out_of_every_stage() -> None:
    course, seen = replace(SMALL, stages=1), []

    def without(rest: object) -> np.ndarray:  # type: ignore[type-arg]
        assert isinstance(rest, dict)
        seen.append(set(rest))
        return learnt(rest, course).stages[-1]

    found = leave_one_out(DOMAINS, without)
    assert seen == [set(DOMAINS) - {name} for name in DOMAINS]
    assert found["two"].tobytes() == learnt({name: DOMAINS[name] for name in ("three", "four")}, course).stages[-1].tobytes()


@pytest.mark.slow
def test_on_eight_phantom_domains_knowledge_accumulates_and_the_fused_encoder_beats_the_masked_one() -> None:
    """docs/universal.md holds the figures of this course; balanced accuracies of 40 patients a domain."""
    tuning = Recipe(optimizer="adam", lr=2e-3, batch=16, epochs=10, flip=True, shift=2)
    pretraining = Recipe(optimizer="adam", lr=2e-3, batch=16, steps=150, flip=True)
    course = Course(EncoderSpec(width=16), fusion=Fusion(steps=48), pretraining=pretraining, tuning=tuning, stages=4)
    domains = phantom_domains(40, 40, seed=23)
    found = learnt(domains, course, seed=2)
    model = Universal(course.encoder, 0, 2)
    encoders = [vector[: model.encoder] for vector in (found.pretrained, *found.stages)]
    first, *_, last = [{name: probe(model, encoder, one) for name, one in domains.items()} for encoder in encoders]
    gained = compared(last, first)
    assert gained.difference > 0.05
    assert gained.p < 0.05
