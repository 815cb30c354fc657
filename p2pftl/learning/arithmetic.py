"""In which numbers, and where, a network is computed: `auto` resolved, and the block in which bfloat16 is in force."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from p2pftl.errors import ScenarioError
from p2pftl.learning.specs import Backbone, Compute, Device, Precision

FASTER_IN_BF16: dict[str, tuple[Backbone, ...]] = {
    "amx": ("compact", "squeezenet1_1", "resnet18"),
    "avx512_bf16": ("compact", "squeezenet1_1", "resnet18"),
}
"""Processor's instructions -> backbones whose training step and scoring are both faster in bfloat16 than in fp32.

Measured by benchmarks/precision.py, channels-last, one thread, batch 32, 64x64: avx512_bf16 on an AMD EPYC (docs/performance.md);
amx by the prototypes of issue 3. mobilenet_v3_small is 2.4 times slower to train, its depthwise convolutions have no good
kernels. Nothing was measured on GPUs, nor on processors with neither: there `auto` is fp32.
"""


def resolved(compute: Compute, backbone: Backbone) -> Compute:
    """Return `compute` without any auto, as this machine would have it: what the processes of one run must agree on.

    Raises ScenarioError E138 when a GPU is asked for that torch does not see.
    """
    return replace(compute, device=_device(compute), precision=precision(compute, backbone))


def precision(compute: Compute, backbone: Backbone) -> Precision:
    """Return the precision of `compute`; auto is what is faster on this processor."""
    if compute.precision != "auto":
        return compute.precision
    fast = compute.device != "cuda" and backbone in FASTER_IN_BF16.get(instructions(), ())
    return "bf16" if fast else "fp32"


def in_precision(compute: Compute) -> contextlib.AbstractContextManager[object]:
    """Return the block in which convolutions and matrix products round their inputs as `compute` (resolved) says.

    To be opened anew for every forward pass: autocast held across an optimiser's step would reuse the weights from before it.
    """
    if compute.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(compute.device, torch.bfloat16, cache_enabled=False)


def instructions() -> str:
    """Best instructions for bfloat16 that this processor has: "amx", "avx512_bf16" or ""."""
    able = torch.cpu.get_capabilities()
    if able.get("amx_tile") and able.get("amx_bf16"):
        return "amx"
    return "avx512_bf16" if able.get("avx512_bf16") else ""


def _device(compute: Compute) -> Device:
    if compute.device == "cpu":
        return "cpu"
    there = torch.cuda.is_available()
    if compute.device == "cuda" and not there:
        raise ScenarioError("E138", "there is no GPU that torch can use", where="compute.device = cuda", fix="take auto, or cpu")
    return "cuda" if there else "cpu"
