"""Pretrained weights: from a safetensors file, or from torchvision by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from p2pftl.errors import ScenarioError, nearest
from p2pftl.learning.engine import torchvision_models
from p2pftl.learning.specs import ModelSpec
from p2pftl.learning.universal.spec import MaskedSpec, UniversalSpec

_SHOWN = 3  # keys named per complaint


def pretrained(
    spec: ModelSpec | UniversalSpec | MaskedSpec, body: Mapping[str, tuple[int, ...]], head: frozenset[str]
) -> dict[str, Tensor]:
    """Return float32 values for every tensor of `body` (name -> shape), read from where `spec.weights` points.

    The source's own head and adapters (names in `head`, whatever their shape) is left out. Raises ScenarioError E127 when the
    source is missing, unreadable, not finite, or not of this backbone.
    """
    assert spec.weights is not None
    where = f"model.weights = {spec.weights}"
    if isinstance(spec, ModelSpec) and not spec.weights.endswith(".safetensors"):
        found = _from_torchvision(spec, where)
    else:
        found = _from_file(Path(spec.weights), where)
    kept = {name: tensor for name, tensor in found.items() if name not in head and not name.endswith(".num_batches_tracked")}
    _compare(kept, body, spec.backbone, where)
    values = {name: tensor.to(torch.float32) for name, tensor in kept.items()}
    broken = [name for name, tensor in values.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ScenarioError("E127", f"not finite: {_some(broken)}", where=where, fix="take an intact file")
    return values


def _from_file(path: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
        fix = nearest(path.name, beside) if beside else "give the path of a .safetensors file"
        raise ScenarioError("E127", "no such file", where=where, fix=fix)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError):
        raise ScenarioError("E127", "not a readable safetensors file", where=where, fix="save it again with safetensors") from None


def _from_torchvision(spec: ModelSpec, where: str) -> dict[str, Tensor]:
    file_hint = "give the path of a .safetensors file, or null"
    if spec.backbone == "compact":
        raise ScenarioError("E127", "torchvision has no weights for the backbone compact", where=where, fix=file_hint)
    members = torchvision_models().get_model_weights(spec.backbone).__members__
    if spec.weights not in members:
        fix = f"{nearest(str(spec.weights), members)}; or {file_hint}"
        raise ScenarioError("E127", f"neither a .safetensors file nor torchvision weights of {spec.backbone}", where=where, fix=fix)
    try:
        state: dict[str, Tensor] = members[spec.weights].get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError):
        raise ScenarioError("E127", "could not be downloaded whole", where=where, fix=file_hint) from None
    return state


def _compare(found: Mapping[str, Tensor], body: Mapping[str, tuple[int, ...]], backbone: str, where: str) -> None:
    complaints = []
    if missing := [name for name in body if name not in found]:
        complaints.append(f"missing {_some(missing)}")
    if extra := [name for name in found if name not in body]:
        complaints.append(f"extra {_some(extra)}")
    shapes = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in body.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if shapes:
        complaints.append(f"wrong shape {_some(shapes)}")
    if integers := [name for name, tensor in found.items() if name in body and not tensor.is_floating_point()]:
        complaints.append(f"not floating point {_some(integers)}")
    if complaints:
        raise ScenarioError(
            "E127", f"not weights of {backbone}: {'; '.join(complaints)}", where=where, fix="choose the backbone they belong to"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
