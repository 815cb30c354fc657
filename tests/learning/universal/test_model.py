"""One encoder with either end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from p2pftl.learning.models import prepare_torch
from p2pftl.learning.universal.model import Universal, encoder_size, layout_of, with_encoder
from p2pftl.learning.universal.spec import EncoderSpec

prepare_torch()
SPEC = EncoderSpec(width=8)
DECODER, HEAD = Universal(SPEC, 0, 1), Universal(SPEC, 3, 1)


def test_the_encoder_lies_first_and_alike_whatever_its_end_is() -> None:
    assert DECODER.encoder == HEAD.encoder == encoder_size(layout_of(SPEC, 9))
    names = [name for name in HEAD.layout.names if not name.startswith("head.")]
    assert names == [name for name in DECODER.layout.names if not name.startswith("decoder.")]
    assert DECODER.take()[: DECODER.encoder].tobytes() == HEAD.take()[: HEAD.encoder].tobytes()
    assert layout_of(SPEC, 3).digest == HEAD.layout.digest


def test_an_encoder_moves_from_a_decoder_to_a_head() -> None:
    moved = with_encoder(HEAD.take(), 2 * DECODER.take()[: DECODER.encoder])
    assert np.array_equal(moved[: HEAD.encoder], 2 * HEAD.take()[: HEAD.encoder])
    assert np.array_equal(moved[HEAD.encoder :], HEAD.take()[HEAD.encoder :])


@pytest.mark.parametrize("size", [32, 64, 72])
def test_an_image_comes_out_as_large_as_it_went_in(size: int) -> None:
    images = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert DECODER(images).shape == images.shape
        assert DECODER.features(images).shape == (2, 32, size // 8, size // 8)
        assert HEAD(images).shape == (2, 3)


def test_hidden_pixels_change_nothing() -> None:
    images = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, :8] = 1
    with torch.no_grad():
        found = DECODER.restored(images, mask)
        assert torch.equal(found, DECODER.restored(torch.where(mask == 1, 0.3, images), mask))
        assert not torch.equal(found, DECODER.restored(images, torch.zeros_like(mask)))


def test_a_shift_in_brightness_is_not_lost_on_the_way() -> None:
    flat = torch.full((2, 1, 32, 32), 0.4)
    flat[1] += 0.1
    with torch.no_grad():
        dark, bright = HEAD.features(flat)
    assert float((dark - bright).abs().max()) > 0.02
