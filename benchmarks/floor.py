"""The floor: the same workload as a bare PyTorch loop, two processes of one thread, models averaged through shared memory.

What a good researcher would write by hand, and nothing of p2pftl. It trains, exchanges, averages and scores as p2pftl does.
Variants: `fp32` as torch comes, `fp32-cl` with channels-last weights (what they give is channels-last too), `bf16` with autocast as well.

    python -m benchmarks.floor --archive noise.npz [--model M1] [--twins 8] [--rounds 6] [--variant fp32]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.nets import Normalised, build, shared_state
from benchmarks.workload import LR, MODELS, SCORED_TOGETHER, Workload

PROCESSES = 2
VARIANTS = ("fp32", "fp32-cl", "bf16")
Shared = Mapping[str, Tensor]
"""Name of a tensor -> its values of all twins, [twins, ...], in shared memory."""


def run(work: Workload, archive: Path, variant: str) -> list[float]:
    """Run the loop; return the monotonic clock at the start of training and after every round."""
    torch.set_num_threads(1)
    first = build(work.model)
    shared = {name: tensor.expand(work.twins, *tensor.shape).clone().share_memory_() for name, tensor in shared_state(first).items()}
    context: Any = torch.multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    others = [context.Process(target=_work, args=(k, work, archive, variant, shared, barrier)) for k in range(1, PROCESSES)]
    for other in others:
        other.start()
    walls = _work(0, work, archive, variant, shared, barrier)
    for other in others:
        other.join()
    return walls


def _work(rank: int, work: Workload, archive: Path, variant: str, shared: Shared, barrier: Any) -> list[float]:
    """One process: every PROCESSES-th twin, from its images to its last score."""
    torch.set_num_threads(1)
    mine = range(rank, work.twins, PROCESSES)
    layout = torch.contiguous_format if variant == "fp32" else torch.channels_last
    nets = {twin: build(work.model).to(memory_format=layout) for twin in mine}
    optimizers = {twin: torch.optim.SGD(net.parameters(), lr=LR) for twin, net in nets.items()}
    studies, (test, truth) = read(archive, work, mine)
    for twin, net in nets.items():
        take(net, shared, [twin])
    barrier.wait()
    walls = [time.monotonic()]
    for _ in range(work.rounds):
        for twin, net in nets.items():
            train(net, optimizers[twin], *studies[twin], np.random.permutation(work.images), work.batch, variant)
            give(net, shared, twin)
        barrier.wait()
        for twin, net in nets.items():
            take(net, shared, [twin, (twin - 1) % work.twins, (twin + 1) % work.twins])
            score(net, test, truth, variant)
        barrier.wait()
        walls.append(time.monotonic())
    return walls


def train(
    net: Normalised, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, order: np.ndarray, batch: int, variant: str
) -> None:
    """One epoch over `images` in `order`."""
    net.train()
    for rows in torch.from_numpy(order).split(batch):
        optimizer.zero_grad()
        with _precision(variant):  # opened afresh: held across steps it would keep stale copies of the weights
            logits = net(images[rows])
        cross_entropy(logits.float(), labels[rows]).backward()
        optimizer.step()


@torch.no_grad()
def give(net: Normalised, shared: Shared, twin: int) -> None:
    """Put a twin's values where the others can read them."""
    for name, tensor in shared_state(net).items():
        shared[name][twin].copy_(tensor)


@torch.no_grad()
def take(net: Normalised, shared: Shared, twins: Sequence[int]) -> None:
    """Become the mean of what `twins` gave: on a ring the Metropolis weights are one third each."""
    for name, tensor in shared_state(net).items():
        rows = [shared[name][twin] for twin in twins]
        tensor.copy_(sum(rows[1:], rows[0]) / len(rows))


@torch.inference_mode()
def score(net: Normalised, images: Tensor, labels: Tensor, variant: str) -> float:
    """Accuracy on `images`."""
    net.eval()
    right = 0
    for rows in torch.arange(len(images)).split(SCORED_TOGETHER):
        with _precision(variant):
            right += int((net(images[rows]).argmax(1) == labels[rows]).sum())
    return right / len(images)


def read(archive: Path, work: Workload, twins: Sequence[int]) -> tuple[dict[int, tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Return twin -> (images [n, 1, H, W] in [0, 1], labels [n]), and the same of the test part."""
    with np.load(archive) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].ravel()
        mine = {twin: slice(twin * work.images, (twin + 1) * work.images) for twin in twins}
        studies = {twin: _tensors(images[rows], labels[rows]) for twin, rows in mine.items()}
        return studies, _tensors(arrays["test_images"], arrays["test_labels"].ravel())


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).float()[:, None] / 255, torch.from_numpy(labels.astype(np.int64))


def _precision(variant: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16, enabled=variant == "bf16")


def main() -> None:
    """Run the loop and print its walls as JSON."""
    options = argparse.ArgumentParser(description="The workload as a bare PyTorch loop.")
    options.add_argument("--archive", type=Path, required=True, help="made by benchmarks.workload.write_noise")
    options.add_argument("--model", choices=MODELS, default="M1")
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--variant", choices=VARIANTS, default="fp32")
    chosen = options.parse_args()
    print(json.dumps(run(Workload(chosen.model, chosen.twins, chosen.rounds), chosen.archive, chosen.variant)))


if __name__ == "__main__":
    main()
