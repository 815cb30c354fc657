from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

UNWANTED = ("torch._dynamo", "scipy.signal", "torchvision")

MEASURE = """
import json, sys, torch
torch.manual_seed(0)
guessed, labels, chances = torch.randint(0, 3, (50,)), torch.randint(0, 3, (50,)), torch.rand(50)
def numbers(m):
    both = guessed, labels, 3
    each = [f(*both, average="none").tolist() for f in (m.multiclass_recall, m.multiclass_precision, m.multiclass_f1_score)]
    whole = [m.multiclass_accuracy(*both, average="micro").item(), m.binary_auroc(chances, (labels == 1).long()).item()]
    return [*each, *whole, m.multiclass_confusion_matrix(*both).tolist()]
"""


def told(code: str) -> Any:
    """What a new Python process prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return json.loads(done.stdout.splitlines()[-1])


def test_metrics_are_imported_without_what_other_metrics_need_and_give_the_same_numbers() -> None:
    ours = MEASURE + (
        "from p2pftl.learning.engine import classification_metrics, torchvision_models\n"
        "found = numbers(classification_metrics())\n"
        f"loaded = [name for name in {UNWANTED} if name in sys.modules]\n"
        "torchvision_models()\n"
        "import scipy.signal, torchvision, torch._dynamo\n"
        "usable = [scipy.signal.windows.hann(3).tolist(), callable(torchvision.ops.roi_align), callable(torch._dynamo.explain)]\n"
        "from lightning_utilities.core.imports import RequirementCache, package_available\n"
        "usable += [bool(RequirementCache('scipy')), bool(RequirementCache('torchvision')), package_available('scipy')]\n"
        "print(json.dumps([found, loaded, usable]))"
    )
    plain = MEASURE + (
        "import scipy.signal, torchvision, torch._dynamo\n"
        "before = {name: module for name, module in sys.modules.items() if name.split('.')[0] in ('scipy', 'torchvision')}\n"
        "before |= {name: sys.modules[name] for name in ('torch._dynamo', 'torch._dynamo.utils')}\n"
        "from p2pftl.learning.engine import prepare_torch, torchvision_models\n"
        "prepare_torch(); torchvision_models()\n"
        "import torchmetrics.functional.classification as m\n"
        "print(json.dumps([numbers(m), all(sys.modules[name] is module for name, module in before.items())]))"
    )
    found, loaded, usable = told(ours)
    expected, kept = told(plain)
    assert found == expected
    assert loaded == []
    assert usable == [[0.0, 1.0, 0.0], *[True] * 5]
    assert kept, "what was loaded before is loaded still, and the same"


def test_who_needs_a_layout_only_imports_no_metrics_and_no_compiler() -> None:
    code = (
        "import json, sys\n"
        "from p2pftl.learning.models import ModelSpec, layout_of\n"
        "def loaded():\n"
        f"    return [name for name in {(*UNWANTED, 'torchmetrics', 'scipy')} if name in sys.modules]\n"
        "layout_of(ModelSpec(), 2)\n"
        "small = loaded()\n"
        "for backbone in ('squeezenet1_1', 'mobilenet_v3_small', 'resnet18'):\n"
        "    layout_of(ModelSpec(backbone), 2)\n"
        "print(json.dumps([small, loaded()]))"
    )
    assert told(code) == [[], ["torchvision"]]
