"""Knowledge policies: what a twin learns from models that it heard, on its own studies (ALGORITHMS.md §5). Imports no torch.

An aggregator merges what was heard at the end of a round; a knowledge policy is taught by it in the next round's fit. They go
together: merge and distil, or distil alone (`aggregator: keep_own`).

Some policies (`Extension`) share what is no part of the model: a twin's vector then holds entries of theirs behind the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeGuard, runtime_checkable

from annotated_types import Ge, Gt, Interval

from p2pftl.draw import draw
from p2pftl.learning.moments import shapes
from p2pftl.learning.specs import Backbone, ModelSpec
from p2pftl.learning.transfer import Lesson, Transfer
from p2pftl.params import Layout, Vector, weighted_sum

if TYPE_CHECKING:
    from p2pftl.imaging.cohort import Cohort
    from p2pftl.learning.models import Model
    from p2pftl.learning.specs import Recipe
    from p2pftl.learning.tutoring import Company

PROXY, PROTOTYPES, DISCRIMINANT = "proxy.", "prototypes.", "discriminant."
BEHIND = (PROXY, PROTOTYPES, DISCRIMINANT)
"""What the names of entries begin with that are no part of a twin's model."""


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


@runtime_checkable
class Extension(Protocol):
    """A knowledge policy that keeps entries of its own behind the model's in a twin's vector; its task is the recruiter's to build."""

    def behind(self, spec: ModelSpec, layout: Layout) -> Layout:
        """Return where its entries lie, counted from the end of the model's. spec, layout: of the model."""
        ...

    def lesson(self, lesson: Lesson, layout: Layout) -> Lesson:
        """Return what is trained and shared in a round in which the model's own `lesson` is taught. layout: with the entries behind."""
        ...

    def cost(self, seen: int, held: int) -> int:
        """What a fit that shows `seen` images, of `held` ones, computes, in images of a plain fit."""
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


@dataclass(frozen=True)
class Proxy:
    """ProxyFL: a private model that never leaves its twin learns beside a proxy that travels (Kalra et al. 2023).

    L_private = (1 - share) CE + share KL(p_proxy || p_private), L_proxy = (1 - share) CE + share KL(p_private || p_proxy), the other
    side held fixed, both from the predictions before the step. The paper's rounds are `partners: one_peer_exponential` and
    `aggregator: adopt`: each proxy moves on by 2^(round mod m) places and takes the place of the one it finds. Twins begin with
    one private model and with one proxy, drawn apart. The proxy's optimiser begins anew in every round.
    The paper trains the proxy with DP-SGD. That is not built: there is no privacy guarantee, a proxy tells of the studies what any
    model does.

    backbone: of the proxy, drawn from the seed; null: as the private model, with its weights.
    """

    share: Annotated[float, Interval(ge=0, lt=1)] = 0.5
    backbone: Backbone | None = None

    def effort(self, tutors: int) -> float:
        return 1.0

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        """tutors: the proxy that the twin holds, alone."""
        from p2pftl.learning.tutoring import Mate

        return Mate(pupil, tutors[0].vector, (self.share,) * 2, received=False, shares=(1 - self.share,) * 2)

    def spec(self, private: ModelSpec) -> ModelSpec:
        """Of the proxy, beside a model `private`."""
        return private if self.backbone is None else ModelSpec(self.backbone)

    def behind(self, spec: ModelSpec, layout: Layout) -> Layout:
        if self.backbone is not None:
            from p2pftl.learning.models import layout_of

            layout = layout_of(self.spec(spec), classes_of(layout))
        return replace(layout, names=tuple(PROXY + name for name in layout.names))

    def lesson(self, lesson: Lesson, layout: Layout) -> Lesson:
        """With one architecture the proxy is trained and shared as the transfer policy says of the model; another one as a whole."""
        theirs = [name.removeprefix(PROXY) for name in layout.names if name.startswith(PROXY)]

        def beside(chosen: tuple[str, ...]) -> tuple[str, ...]:
            among = frozenset(chosen) if self.backbone is None else frozenset(theirs)
            return tuple(PROXY + name for name in theirs if name in among)

        phases = tuple(replace(phase, trained=(*phase.trained, *beside(phase.trained))) for phase in lesson.phases)
        return Lesson(phases, beside(lesson.shared))

    def cost(self, seen: int, held: int) -> int:
        """Two networks, counted alike whatever their sizes."""
        return 2 * seen


@dataclass(frozen=True)
class Prototypes:
    """FedProto: twins share, per class, where its images lie among the embeddings, and pull their own towards it (Tan et al. 2022).

    A twin sends the sum of its embeddings and the number of its images per class; merged by W_ij they give the mean embedding C^c of
    class c over N[i], weighted by W_ij and counts: the count-weighted mean where the W_ij are equal (`mixing: uniform`). Loss:
    + weight mean squared error between embedding and C^c, 0 for a class without one. The embedding is what the last layer takes in.
    The own sums are made anew after each fit, of the own training images as they are, none moved. A twin that had nothing to fit
    to, or whose fit diverged, passes on what it heard.

    least: a class with fewer images at a twin is not told of it; beside: the model is merged too, as the transfer policy says; false:
    prototypes alone travel, as published, and models stay private.
    """

    weight: Annotated[float, Interval(ge=0, le=1000)] = 1.0
    least: Annotated[int, Ge(1)] = 3
    beside: bool = False

    def effort(self, tutors: int) -> float:
        return 1.0

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        """tutors: one, whose vector is what the twin holds of all (see p2pftl.learning.prototypes.of)."""
        from p2pftl.learning.prototypes import Pulled

        return Pulled(pupil.model, pupil.own, tutors[0].vector, self.weight)

    def behind(self, spec: ModelSpec, layout: Layout) -> Layout:
        classes, width = _last_weight(layout)[:2]
        head = layout.depth - 1
        names = (f"{PROTOTYPES}sum", f"{PROTOTYPES}count")
        return Layout(names, ((classes, width), (classes,)), ("weight", "weight"), (head, head), layout.channels_last)

    def lesson(self, lesson: Lesson, layout: Layout) -> Lesson:
        told = tuple(name for name in layout.names if name.startswith(PROTOTYPES))
        return replace(lesson, shared=(*lesson.shared, *told) if self.beside else told)

    def cost(self, seen: int, held: int) -> int:
        """A forward pass over its own images is a third of what a fit does with them."""
        return seen + -(-held // 3)


@dataclass(frozen=True)
class Discriminant:
    """A head in closed form from what all twins tell of their embeddings: no twin's head leans towards the classes it has plenty of.

    A twin sends, beside its model, per class the sum of its embeddings and the number of its images, and the sum of their outer
    products over all classes. These add up over twins, so what a twin holds after a few merges gives nearly the linear discriminant
    of everybody's images (see p2pftl.learning.moments), as if they lay in one place. That is the head a twin is scored with; it
    trains with an ordinary one, by gradient, so that the embeddings keep getting better. After Fed3R (Fani et al. 2024: ridge
    regression on fixed features) and FedCGS (Guan et al. 2025: class statistics, once); ours: in every round, without a server.

    shrink: of the covariance towards a multiple of the identity; renew: share of what a twin holds that its own images replace after
    each fit, the rest is what came from others, also through others: smaller reaches further and forgets more slowly;
    least: a class with fewer images at a twin is not told of it.
    """

    beside = True  # the model is merged as well
    shrink: Annotated[float, Interval(gt=0, le=1)] = 0.1
    renew: Annotated[float, Interval(gt=0, le=1)] = 0.5
    least: Annotated[int, Ge(1)] = 3

    def effort(self, tutors: int) -> float:
        return 1.0

    def company(self, pupil: Pupil, tutors: Sequence[Tutor]) -> Company:
        """Nobody: nothing is learnt towards what was heard."""
        from p2pftl.learning.tutoring import Alone

        return Alone(pupil.own)

    def behind(self, spec: ModelSpec, layout: Layout) -> Layout:
        classes, width = _last_weight(layout)[:2]
        head = layout.depth - 1
        names = tuple(DISCRIMINANT + name for name in ("sum", "product", "count"))
        return Layout(names, shapes(classes, width), ("weight",) * 3, (head,) * 3, layout.channels_last)

    def lesson(self, lesson: Lesson, layout: Layout) -> Lesson:
        told = tuple(name for name in layout.names if name.startswith(DISCRIMINANT))
        return replace(lesson, shared=(*lesson.shared, *told))

    def cost(self, seen: int, held: int) -> int:
        """A forward pass over its own images is a third of what a fit does with them."""
        return seen + -(-held // 3)


def extends(knowledge: Any) -> TypeGuard[Extension]:
    """Whether a knowledge policy, or None, keeps entries behind the model's."""
    return isinstance(knowledge, Extension)


def extended(layout: Layout, spec: ModelSpec, knowledge: Any) -> Layout:
    """Where a twin's tensors lie: the model's, `layout`, and what the knowledge policy keeps behind them."""
    if not extends(knowledge):
        return layout
    more = knowledge.behind(spec, layout)
    return Layout(
        layout.names + more.names, layout.shapes + more.shapes, layout.kinds + more.kinds, layout.groups + more.groups, layout.channels_last
    )


def of_model(layout: Layout) -> Layout:
    """The part of an extended layout that is the model's."""
    size = sum(not name.startswith(BEHIND) for name in layout.names)
    return Layout(layout.names[:size], layout.shapes[:size], layout.kinds[:size], layout.groups[:size], layout.channels_last)


@dataclass(frozen=True)
class Carried(Transfer):
    """What a transfer policy and an extension say together of an extended layout."""

    transfer: Transfer
    extension: Extension

    def plan(self, round: int, layout: Layout) -> Lesson:
        return self.extension.lesson(self.transfer.plan(round, of_model(layout)), layout)


def carried(transfer: Transfer, knowledge: Any) -> Transfer:
    """What is trained and travels under both policies; `transfer` itself where nothing stands behind the model."""
    return Carried(transfer, knowledge) if extends(knowledge) else transfer


def classes_of(layout: Layout) -> int:
    """Number of classes that a model of this layout tells apart."""
    return _last_weight(layout)[0]


def _last_weight(layout: Layout) -> tuple[int, ...]:
    """Shape of the last weight: [classes, width], or with a pixel's [1, 1] behind."""
    return [shape for shape in layout.shapes if len(shape) > 1][-1]
