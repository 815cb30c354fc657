"""Torch, made ready once per process: one thread, deterministic, loaded with the collector off."""

from __future__ import annotations

import contextlib
import gc


def prepare_torch() -> None:
    """Make this process compute the same bits as every other one; call it before the first tensor operation.

    One and two threads give different bits (TRUST.md §9). Imports of this package's heavy libraries happen
    here with the garbage collector off, which makes them a third cheaper (2.1 s instead of 3.0 s).
    May be called again at any time; a thread pool that already runs is left as it is.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch
        import torchmetrics.functional.classification  # noqa: F401  (torchvision comes with it)
    finally:
        if collecting:
            gc.enable()
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # can be set once, before any parallel work
        torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads uninitialised memory; filling it with NaN costs up to a fifth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
