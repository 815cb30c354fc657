"""Adapters: narrow residual layers between the layer groups of a network, so that little has to be trained and sent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Adapter(nn.Module):
    """h + U relu(D h) at every pixel: D from `channels` to `width`, U back (Houlsby et al. 2019; 1x1: Rebuffi et al. 2018).

    While U is 0 it gives out what it takes in, to the bit.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 1, bias=False)
        self.up = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return features [B, channels, H, W] of the same shape."""
        return features + self.up(torch.relu(self.down(features)))  # type: ignore[no-any-return]


def adapted(network: nn.Module, groups: tuple[tuple[str, ...], ...], width: int) -> tuple[tuple[str, ...], ...]:
    """Put an adapter in front of every layer group but the first and the head; return `groups` with their prefixes.

    groups: module prefixes per layer group, input first. The adapter of group k is called adapter<k> and stands right before that
    group's first module in `network`, so that entries stay in the order of the groups. A torchvision network's own forward pass
    may go past it; `Anatomy.parts` does not.
    """
    first, *body, head = groups
    grown = [first]
    for depth, prefixes in enumerate(body, 1):
        channels = _channels_into(network.get_submodule(prefix) for prefix in prefixes)
        grown.append((_put_before(network, prefixes[0], f"adapter{depth}", Adapter(channels, width)), *prefixes))
    return (*grown, head)


def _channels_into(modules: Iterable[nn.Module]) -> int:
    """Channels of what goes into the first of these modules; normalisation and pooling in front of a layer do not change them."""
    return next(_inputs(layer) for module in modules for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))


def _inputs(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features


def _put_before(network: nn.Module, path: str, name: str, module: nn.Module) -> str:
    """Register `module` as `name` beside the module at `path`, just before it; return where it is now."""
    above, _, child = path.rpartition(".")
    parent = network.get_submodule(above)
    beside = list(parent.named_children())
    later = beside[[known for known, _ in beside].index(child) :]
    for known, _ in later:
        delattr(parent, known)
    for known, moved in ((name, module), *later):
        parent.add_module(known, moved)
    return f"{above}.{name}" if above else name
