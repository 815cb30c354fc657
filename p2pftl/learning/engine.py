"""Torch and what goes with it, made ready once per process: one thread, deterministic, and no more imports than are used.

On top of torch's own second, `import torchmetrics` costs 1.6 s of a process and `import torchvision` 0.9 s, nearly all of it for
what is never called here: torch's compiler, and packages for image, audio and text metrics. With one process per twin and two
cores that is most of the time before the first round; without them it is 0.06 s and 0.1 s.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType

_METRICS = "torchmetrics.functional.classification"
_UNUSED_BY_METRICS = ("scipy", "torchvision", "matplotlib", "transformers", "pycocotools", "onnxruntime", "librosa", "pandas")
_ALLOCATION = {-1: 512 << 20, -2: 64 << 20, -3: 32 << 20}  # malloc.h: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD (its maximum)
_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


def prepare_torch() -> None:
    """Make this process compute the same bits as every other one; call it before the first tensor operation.

    One and two threads give different bits (TRUST.md §9). May be called again at any time; a thread pool that already runs is
    left as it is. On a GPU: no TensorFloat-32, no algorithms that sum in any order.
    """
    _keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first GPU is used
    with _collector_off():
        import torch
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # can be set once, before any parallel work
        torch.set_num_interop_threads(1)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms(True), but that imports the compiler to tell it
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # Nothing here reads uninitialised memory; filling it with NaN costs up to a fifth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    classification_metrics()  # or whoever imports them first would import the rest
    gc.freeze()  # half a million objects that stay: each full collection would look at them all, 0.1 s


def classification_metrics() -> ModuleType:
    """Return torchmetrics.functional.classification, imported without what torchmetrics' other metrics would bring."""
    if _METRICS not in sys.modules:
        with _collector_off(), _seem_absent(_UNUSED_BY_METRICS):
            importlib.import_module(_METRICS)
    return sys.modules[_METRICS]


def torchvision_models() -> ModuleType:
    """Return torchvision.models, imported without torch's compiler, which torchvision wants for region proposals only."""
    if "torchvision" not in sys.modules:
        with _collector_off(), _compiler_stays_away():
            importlib.import_module("torchvision.models")
    return importlib.import_module("torchvision.models")


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step instead of giving it back to the kernel, page by page, at every layer.

    Measured on two cores: scoring takes half the time, training four fifths. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _ALLOCATION.items():
            mallopt(parameter, value)


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Import with the garbage collector off: a third cheaper."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _seem_absent(packages: tuple[str, ...]) -> Iterator[None]:
    """Let what is imported inside believe that `packages` are not installed, those excepted that are loaded already.

    Python's way to say so is None in sys.modules. lightning_utilities, which torchmetrics asks, looks at the installed
    distributions too, and remembers.
    """
    from lightning_utilities.core import imports

    absent = {name for name in packages if name not in sys.modules}
    really = imports.RequirementCache._check_available

    def check(self: imports.RequirementCache) -> None:
        if re.split(r"\W", self.requirement or self.module or "")[0] in absent:
            self.available, self.message = False, "left out by p2pftl: not used here"
        else:
            really(self)

    imports.RequirementCache._check_available = check  # type: ignore[method-assign]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        imports.RequirementCache._check_available = really  # type: ignore[method-assign]
        for name in absent:
            sys.modules.pop(name, None)
        imports.package_available.cache_clear()
        imports.module_available.cache_clear()


@contextlib.contextmanager
def _compiler_stays_away() -> Iterator[None]:
    """Put a stand-in where torchvision imports its one function of torch._dynamo from; that one finds the real thing when called."""
    if _COMPILER[0] in sys.modules:
        yield
        return
    package, inside = (ModuleType(name) for name in _COMPILER)
    package.__path__ = []
    inside.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    package.utils = inside  # type: ignore[attr-defined]
    sys.modules.update(zip(_COMPILER, (package, inside), strict=True))
    try:
        yield
    finally:
        for name in _COMPILER:
            sys.modules.pop(name, None)


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type))
