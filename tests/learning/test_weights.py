from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from p2pftl.errors import ScenarioError
from p2pftl.learning.models import Model, ModelSpec, initial, prepare_torch

prepare_torch()
DATA = Path(os.environ.get("P2PFTL_DATA", Path(__file__).parents[3] / "shared" / "data"))
IMAGENET = DATA / "weights" / "squeezenet1_1-imagenet1k.safetensors"


def saved(path: Path, change: dict[str, torch.Tensor | None] | None = None, dtype: torch.dtype = torch.float32) -> str:
    """A weights file of the compact backbone, drawn from seed 9; `change` replaces or drops (None) entries."""
    state: dict[str, torch.Tensor | None] = dict(Model(ModelSpec(), 7, 9).module.state_dict())
    state |= change or {}
    kept = {name: t.contiguous() for name, t in state.items() if t is not None}
    save_file({name: t.to(dtype) if t.is_floating_point() else t for name, t in kept.items()}, path)
    return str(path)


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(ScenarioError) as caught:
        initial(spec, 2, 0)
    assert caught.value.code == "E127"
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_gives_the_body_and_the_seed_gives_the_head(tmp_path: Path, dtype: torch.dtype) -> None:
    spec = ModelSpec(weights=saved(tmp_path / "stage-1.safetensors", dtype=dtype))
    model = Model(spec, 2, 0)
    fresh, source = initial(ModelSpec(), 2, 0), initial(ModelSpec(), 7, 9)
    (body,) = model.layout.ranges(model.layout.of_groups(0, model.layout.depth - 2))
    assert np.array_equal(model.take()[: body[1]], torch.from_numpy(source[: body[1]]).to(dtype).float().numpy())
    assert np.array_equal(model.take()[body[1] :], fresh[body[1] :])


def test_a_file_without_a_head_will_do(tmp_path: Path) -> None:
    path = saved(tmp_path / "body.safetensors", {"head.weight": None, "head.bias": None})
    assert len(initial(ModelSpec(weights=path), 2, 0))


def test_a_file_of_another_network_is_refused_by_the_keys_that_differ(tmp_path: Path) -> None:
    assert "missing stem.0.weight" in refusal(ModelSpec(weights=saved(tmp_path / "a.safetensors", {"stem.0.weight": None})))
    assert "extra stem.9.weight" in refusal(ModelSpec(weights=saved(tmp_path / "b.safetensors", {"stem.9.weight": torch.zeros(2)})))
    wrong = refusal(ModelSpec(weights=saved(tmp_path / "c.safetensors", {"stem.0.weight": torch.zeros(16, 1, 3, 3)})))
    assert "wrong shape stem.0.weight [16, 1, 3, 3] instead of [16, 1, 5, 5]" in wrong
    assert "not weights of resnet18" in refusal(ModelSpec("resnet18", str(tmp_path / "a.safetensors")))
    integers = {"stem.0.weight": torch.zeros((16, 1, 5, 5), dtype=torch.int32)}
    assert "not floating point stem.0.weight" in refusal(ModelSpec(weights=saved(tmp_path / "d.safetensors", {**integers})))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = torch.full((16, 1, 5, 5), float("nan"))
    assert "not finite: stem.0.weight" in refusal(ModelSpec(weights=saved(tmp_path / "nan.safetensors", {"stem.0.weight": broken})))


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path: Path) -> None:
    saved(tmp_path / "stage-1.safetensors")
    assert "did you mean stage-1.safetensors?" in refusal(ModelSpec(weights=str(tmp_path / "stage1.safetensors")))
    assert "no such file" in refusal(ModelSpec(weights="nowhere/at/all.safetensors"))


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x00.", b"\xff" * 64, b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":{"dtype":1}}'])
def test_a_file_that_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    assert "not a readable safetensors file" in refusal(ModelSpec(weights=str(path)))


def test_an_unknown_name_is_refused_without_any_download() -> None:
    assert "did you mean IMAGENET1K_V1?" in refusal(ModelSpec("resnet18", "IMAGENET1K_V9"))
    assert "no weights for the backbone compact" in refusal(ModelSpec("compact", "IMAGENET1K_V1"))


@pytest.mark.skipif(not IMAGENET.exists(), reason=f"{IMAGENET} is not here")
def test_imagenet_squeezenet_loads_from_half_precision() -> None:
    model = Model(ModelSpec("squeezenet1_1", str(IMAGENET)), 2, 0)
    source = load_file(IMAGENET)["features.12.expand3x3.weight"].float()
    assert torch.equal(model.parameters["features.12.expand3x3.weight"].detach(), source)
    assert model.parameters["classifier.1.weight"].shape == (2, 512, 1, 1)
