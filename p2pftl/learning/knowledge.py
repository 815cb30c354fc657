"""Knowledge policies: what a twin learns from models that it heard, on its own studies (ALGORITHMS.md §5). Imports no torch.

An aggregator merges what was heard at the end of a round; a knowledge policy is taught by it in the next round's fit. They go
together: merge and distil, or distil alone (`aggregator: keep_own`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from annotated_types import Gt, Interval

from p2pftl.draw import draw
from p2pftl.params import Vector, weighted_sum

if TYPE_CHECKING:
    from p2pftl.imaging.cohort import Cohort
    from p2pftl.learning.models import Model
    from p2pftl.learning.specs import Recipe
    from p2pftl.learning.tutoring import Company


@dataclass(frozen=True)
class Tutor:
    """A neighbour's model, heard since the last fit.

    name: the neighbour; vector: the whole model, the receiver's own values where the neighbour sent none; weight: W_ij of the mixing
    policy; samples: the neighbour's training samples.
    """

    name: str
    vector: Vector
    weight: float
    samples: int


@dataclass(frozen=True)
class Pupil:
    """Who is about to learn. model: scratch, holds nothing yet; mate: a second one of the same kind; own: the vector it has;
    key: seed, twin, round."""

    model: Model
    mate: Model
    own: Vector
    cohort: Cohort
    recipe: Recipe
    key: tuple[int, str, int]


class Knowledge(Protocol):
    """How to learn from tutors (entry point `p2pftl.knowledge`)."""

    def effort(self, tutors: int) -> float:
        """What a fit with so many tutors computes, relative to one without: a step is a third forward, two thirds backward."""
        ...

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        """Return those who take part in the fit; to be closed after it. tutors: at least one, in order of name."""
        ...


@dataclass(frozen=True)
class Mutual:
    """Def-KT: train the received model beside the own one, each also towards the other's probabilities (Li, Li, Varshney 2021).

    L_received = CE + kl_weight KL(p_own || p_received), L_own = CE + kl_weight KL(p_received || p_own), the other side held fixed,
    both from the predictions before the step. keep: which of the two is the twin's model afterwards (the paper: the received one).
    Of several tutors one is drawn; the paper's rounds of disjoint pairs are `partners: pairs`.
    """

    kl_weight: Annotated[float, Interval(ge=0, le=100)] = 1.0
    keep: Literal["received", "own"] = "received"

    def effort(self, tutors: int) -> float:
        return 2.0 if tutors else 1.0

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        from p2pftl.learning.tutoring import Mate

        seed, twin, round = pupil.key
        tutor = tutors[int(draw(seed, "tutor", twin, round).integers(len(tutors)))]
        return Mate(pupil, tutor.vector, (self.kl_weight, self.kl_weight), received=self.keep == "received")


@dataclass(frozen=True)
class Distil:
    """Learn towards what the tutors say of one's own images: + weight T^2 KL(tutors || own) + features (1 - cosine of embeddings).

    teachers: probabilities(T) of the tutors' mean logits (FedDF, Lin et al. 2020), or the mean of the losses towards each; weighted
    by mixing. features: pulls the embedding, what the last layer takes in, towards the tutors' own (all have one architecture).
    """

    weight: Annotated[float, Interval(ge=0, le=100)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0
    teachers: Literal["logits", "losses"] = "logits"
    features: Annotated[float, Interval(ge=0, le=100)] = 0.0

    def effort(self, tutors: int) -> float:
        return 1.0 + tutors / 3

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        from p2pftl.learning.tutoring import Tutors

        return Tutors(pupil, tutors, self.weight, self.temperature, self.features, together=self.teachers == "logits")


@dataclass(frozen=True)
class Similar:
    """KD-PDFL: before the fit, average with the tutors by how alike they speak of one's own images (Jeong, Kountouris 2023).

    D_ij: mean over logits of the 1-D Wasserstein distance between model j's and the own ones; weights exp(-D_ij / T) over own
    (D = 0) and tutors, normalised; T: the median of the tutors' D_ij. The paper's map from distance to weight is not public: ours.
    """

    def effort(self, tutors: int) -> float:
        return 1.0 + (tutors + 1) / 3 if tutors else 1.0

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        from p2pftl.learning.tutoring import Alone, likeness

        vectors = [pupil.own, *(tutor.vector for tutor in tutors)]
        return Alone(weighted_sum(vectors, likeness(pupil.model, vectors, pupil.cohort)))
