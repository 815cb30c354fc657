"""What only torch can tell of a network before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from p2pftl.learning.detection.spec import DetectorSpec
from p2pftl.learning.specs import Backbone, Compute, ModelSpec, Precision
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec
from p2pftl.params import Layout

Network = ModelSpec | DetectorSpec | UniversalSpec | MaskedSpec


@dataclass(frozen=True)
class Outline:
    """layout: where the network's tensors lie; precision: of the processes of one run, which must agree on it."""

    layout: Layout
    precision: Precision


@lru_cache
def outline(network: Network, classes: int, compute: Compute, backbone: Backbone) -> Outline:
    """Build `network` far enough to tell. Imports torch, a second of a core. Raises ScenarioError E127."""
    from p2pftl.learning.arithmetic import precision

    return Outline(_layout(network, classes), "fp32" if isinstance(network, DetectorSpec) else precision(compute, backbone))


def _layout(network: Network, classes: int) -> Layout:
    if isinstance(network, UniversalSpec | MaskedSpec):
        from p2pftl.learning.universal import model as universal

        return universal.layout_of(network.encoder, classes if isinstance(network, UniversalSpec) else 0)
    if isinstance(network, DetectorSpec):
        from p2pftl.learning.detection.model import Detector

        return Detector(network, classes, 0).layout
    from p2pftl.learning.models import Model, layout_of

    return layout_of(network, classes) if network.weights is None else Model(network, classes, 0).layout  # the weights must fit
