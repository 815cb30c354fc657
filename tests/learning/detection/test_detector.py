from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from p2pftl.draw import draw
from p2pftl.errors import ScenarioError
from p2pftl.learning.detection.geometry import Truth
from p2pftl.learning.detection.model import BODY, Detector, initial
from p2pftl.learning.detection.network import KINDS
from p2pftl.learning.detection.spec import DetectorSpec, Trunk
from p2pftl.learning.transfer import FedBN, FedPer, Head

SPEC = DetectorSpec(channels=16, hidden=16, proposals=32, sampled=16)
NOTHING = Truth(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
SOMETHING = Truth(torch.tensor([[8.0, 8, 24, 24]]), torch.tensor([1]))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(SPEC, 2, seed=1)


def images(n: int = 2, size: int = 64) -> torch.Tensor:
    return torch.from_numpy(draw(0, "images").random((n, 1, size, size), np.float32))


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_every_backbone_gives_maps_of_strides_4_8_16(backbone: Trunk) -> None:
    built = Detector(replace(SPEC, backbone=backbone), 2, seed=1)
    with torch.no_grad():
        maps = built.network.features(images(1))
    strides = [64 // tensor.shape[-1] for tensor in maps.values()]
    assert strides == [4 * 2**level for level in range(len(KINDS[backbone].cuts) + 1)]
    assert {tensor.shape[1] for tensor in maps.values()} == {16}
    assert built.layout.depth == len(KINDS[backbone].cuts) + 3


@pytest.mark.parametrize("backbone", ["mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_a_fine_detector_pools_small_regions_at_stride_2_and_proposes_as_before(backbone: Trunk) -> None:
    plain, fine = (Detector(replace(SPEC, backbone=backbone, fine=chosen), 2, seed=1) for chosen in (False, True))
    with torch.no_grad():
        maps = fine.network.features(images(1))
        assert [64 // tensor.shape[-1] for tensor in maps.values()][:2] == [2, 4]
        _, proposals = fine.network.proposed(images(1))
        assert torch.equal(proposals[0], plain.network.proposed(images(1))[1][0])
        fine.network.cascade.pooled(maps, proposals, [(64, 64)])
        levels = fine.network.cascade.pooled.map_levels([torch.tensor([[0.0, 0, 20, 20], [0, 0, 60, 60], [0, 0, 120, 120]])])
    assert levels.tolist() == [0, 1, 2]
    assert set(fine.layout.names) - set(plain.layout.names) == {"fine.lateral.weight", "fine.norm.weight", "fine.norm.bias"}
    assert list(fine.layout.groups) == sorted(fine.layout.groups)
    assert fine.layout.depth == plain.layout.depth
    shared = plain.layout.tensors(plain.take())
    assert all(np.array_equal(tensor, shared[name]) for name, tensor in fine.layout.tensors(fine.take()).items() if name in shared)


def test_a_vector_there_and_back_is_the_same_detector(detector: Detector) -> None:
    other = draw(3, "vector").standard_normal(detector.layout.size, np.float32)
    before = detector.take()
    detector.load(other)
    assert np.array_equal(detector.take(), other)
    state = detector.network.state_dict()
    tensors = detector.layout.tensors(other)
    assert all(np.array_equal(state[name].numpy(), tensor) for name, tensor in tensors.items())
    detector.load(before)
    assert np.array_equal(detector.layout.vector(detector.layout.tensors(before)), before)


def test_the_same_seed_gives_the_same_start_and_leaves_torchs_random_state_alone() -> None:
    state = torch.random.get_rng_state()
    assert np.array_equal(initial(SPEC, 2, 4), initial(SPEC, 2, 4))
    assert not np.array_equal(initial(SPEC, 2, 4), initial(SPEC, 2, 5))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_single_stage_starts_as_the_first_stage_of_the_cascade(detector: Detector) -> None:
    single = Detector(replace(SPEC, stages=1), 2, seed=1)
    mine, whole = single.layout.tensors(single.take()), detector.layout.tensors(initial(SPEC, 2, 1))
    assert set(mine) < set(whole)
    assert all(np.array_equal(tensor, whole[name]) for name, tensor in mine.items())


def test_the_heads_of_all_stages_are_the_head_that_policies_speak_of(detector: Detector) -> None:
    layout = detector.layout
    assert all(name.startswith("cascade.heads.") for name in Head().plan(0, layout).shared)
    private = set(layout.names) - set(FedPer().plan(0, layout).shared)
    assert private == {name for name in layout.names if name.startswith("cascade.")}
    norms = set(layout.names) - set(FedBN().plan(0, layout).shared)
    assert any(name.startswith(BODY) for name in norms)
    assert all(name.endswith((".weight", ".bias")) for name in norms)
    assert list(layout.groups) == sorted(layout.groups)


def test_gradients_flow_into_what_is_trained_and_nowhere_else(detector: Detector) -> None:
    for trained in (detector.layout.of_groups(detector.layout.depth - 1), detector.layout.names):
        detector.focus(trained)
        detector.grad.zero_()
        torch.manual_seed(0)
        torch.stack([*detector.losses(images(), [SOMETHING, NOTHING]).values()]).sum().backward()  # type: ignore[no-untyped-call]
        moved = {name for name, values in detector.layout.tensors(detector.grad.numpy()).items() if values.any()}
        assert moved <= set(trained)
        assert {name.partition(".")[0] for name in moved} == {name.partition(".")[0] for name in trained}
    detector.focus(())


def test_images_without_a_finding_have_a_finite_loss(detector: Detector) -> None:
    losses = detector.losses(images(), [NOTHING, NOTHING])
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())


def test_detections_lie_in_the_image_the_surest_first(detector: Detector) -> None:
    for found in detector.detect(images()):
        assert len(found.boxes) <= 100
        assert bool((found.boxes >= 0).all() and (found.boxes <= 64).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all())
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_an_image_is_seen_the_same_in_company(detector: Detector) -> None:
    both, alone = detector.detect(images(2)), detector.detect(images(2)[:1])
    assert torch.allclose(both[0].boxes, alone[0].boxes, atol=1e-3)


def test_weights_of_a_classifier_become_the_body_and_its_norms_stay_fixed(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v3_small

    state = {name: tensor.numpy() for name, tensor in mobilenet_v3_small().state_dict().items()}
    state["features.0.1.running_mean"] += 0.25
    save_file(state, tmp_path / "some.safetensors")
    spec = replace(SPEC, weights=str(tmp_path / "some.safetensors"))
    built = Detector(spec, 2, seed=1)
    tensors = built.layout.tensors(built.take())
    assert all(np.array_equal(tensor, state[name.removeprefix(BODY)]) for name, tensor in tensors.items() if name.startswith(BODY))
    before = built.take()
    elsewhere = Detector(replace(spec, weights="not on this machine.safetensors"), 2, seed=1, start=before)
    assert elsewhere.layout == built.layout
    assert np.array_equal(elsewhere.take(), before)
    built.losses(images(), [SOMETHING, NOTHING])
    assert np.array_equal(built.take(), before)  # no running mean has moved
    kinds = dict(zip(built.layout.names, built.layout.kinds, strict=True))
    assert kinds[BODY + "features.0.1.running_mean"] == "statistic"
    assert BODY + "features.0.1.weight" not in built.parameters
    with pytest.raises(ScenarioError) as refused:
        Detector(replace(spec, backbone="resnet18"), 2, seed=1)
    assert refused.value.code == "E127"
