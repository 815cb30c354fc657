"""The one figure that a run is told by: accuracy, or for a detector its average precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lead:
    """key: among the metrics of a score; name: for people; beside: the other two figures of a headline."""

    key: str
    name: str
    beside: tuple[tuple[str, str], tuple[str, str]]


ACCURACY = Lead("accuracy", "accuracy", (("AUROC", "auroc"), ("F1", "f1")))
FOUND = Lead("map_50", "mAP@0.5", (("mAP@0.5:0.95", "map"), ("recall", "recall")))


def planned(facts: Mapping[str, Any]) -> Lead:
    """What a run with these facts of a plan is told by."""
    return FOUND if facts.get("model", {}).get("detector") else ACCURACY


def told_by(document: Mapping[str, Any]) -> Lead:
    """What a summary says that its run is told by."""
    return FOUND if document.get("metric") == FOUND.key else ACCURACY
