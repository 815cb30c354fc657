"""The one figure that a run is told by: accuracy, a detector's average precision, what a universal encoder knows, what is restored."""

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
PROBED = Lead("probe", "linear probe", (("accuracy", "accuracy"), ("F1", "f1")))
RESTORED = Lead("gain", "share of masked pixels' error removed", (("loss", "loss"), ("probe", "probe")))
LEADS = {lead.key: lead for lead in (ACCURACY, FOUND, PROBED, RESTORED)}


def wanted(scenario: Any) -> Lead:
    """What a scenario is told by."""
    if scenario.detector is not None:
        return FOUND
    return PROBED if scenario.universal is not None else RESTORED if scenario.masked is not None else ACCURACY


def planned(facts: Mapping[str, Any]) -> Lead:
    """What a run with these facts of a plan is told by."""
    model = facts.get("model", {})
    return FOUND if model.get("detector") else {"universal": PROBED, "masked": RESTORED}.get(model.get("kind"), ACCURACY)


def told_by(document: Mapping[str, Any]) -> Lead:
    """What a summary says that its run is told by."""
    return LEADS.get(str(document.get("metric")), ACCURACY)
