"""`summary.json`: what a run came to, for tools to read. `Summary.document` says what every key means."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from p2pftl.events import Event
from p2pftl.observe.board import Board, Row
from p2pftl.observe.fleet import Scanner

FILE = "summary.json"
METRICS = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc")
FOUND = ("map", "map_50", "map_70", "map_75", "map_strict")  # of detectors alone, whose `recall` is the share of findings covered
PROBED = ("probe", "probe_start")  # of universal encoders alone: what the encoder knows, and what the one knew that all began with
RESTORED = ("gain", "loss")  # of masked images alone
LEVEL = 0.95
Document = dict[str, Any]


class Summary:
    """Sink that folds a run into its summary."""

    def __init__(self, board: Board | None = None) -> None:
        self.board = board if board is not None else Board()

    def __call__(self, event: Event) -> None:
        self.board.feed(event)

    def document(
        self, *, digest: str, executor: str, wall_seconds: float, consensus_distance: float | None = None,
        versions: Mapping[str, str] | None = None, control: Summary | None = None, reasons: Sequence[str] = (),
    ) -> Document:  # fmt: skip
        """Return the content of summary.json.

        rounds: planned; virtual_seconds: time of the last event; bytes_sent: counted once at the sender, cloud and lost frames
        included; frames: sent = delivered + lost, refused counts what arrived and was not accepted; metric: what the run is told
        by; mean: over the twins, without those where a metric is undefined, null if it is undefined for all; worst: the twin with
        the lowest test `metric`; consensus_distance: mean squared distance of the twins' shared parameters from their mean;
        reasons: why status is not "done"; source: the source task, only with one; ledger: see `Tally`, only with a
        gate; control: see `control`.
        """
        board = self.board
        twins = {row.name: _twin(row, board.fleet.of(row.name)) for row in board.rows.values()}
        content: Document = {
            "name": board.plan.name if board.plan else "",
            "seed": board.plan.seed if board.plan else None,
            "digest": digest,
            "executor": executor,
            "rounds": board.rounds,
            "virtual_seconds": round(board.now, 6),
            "wall_seconds": round(wall_seconds, 3),
            "bytes_sent": board.bytes,
            "frames": {"sent": board.sent, "delivered": board.sent - board.lost, "lost": board.lost, "refused": board.refused},
            "degraded": board.degraded,
            "status": board.status or "interrupted",
            "reasons": list(reasons),
            "synthetic": bool(board.plan and board.plan.synthetic),
            "twins": twins,
            "mean": mean(twin["test"] for twin in twins.values()),
            "metric": board.lead.key,
            "worst": worst(twins, board.lead.key),
            "cloud": None if board.cloud is None else _cloud(board),
            "consensus_distance": consensus_distance,
            "versions": dict(versions or {}),
        }
        alone = {row.name: _twin(row) for row in control.board.rows.values()} if control else {}
        more = {
            "ledger": board.tally.document() if board.tally.on else None,
            "control": compare(twins, alone, board.lead.key) if control else None,
            "source": board.plan.facts.get("source") if board.plan else None,
        }
        clean: Document = _plain(content | {key: part for key, part in more.items() if part is not None})
        return clean


def compare(twins: Mapping[str, Document], control: Mapping[str, Document], main: str = "accuracy") -> Document:
    """Compare the twins with the same twins of the run without exchange, pairwise on the test set.

    mean: of the control run; margin: mean of (with - without) over the twins that have both; interval: its 95 % interval by
    Student's t, null below two pairs; pairs: how many twins were compared by `main`.
    """
    gains = {
        metric: [
            mine - other
            for name in sorted(twins.keys() & control.keys())
            if (mine := twins[name]["test"].get(metric)) is not None and (other := control[name]["test"].get(metric)) is not None
        ]
        for metric in _occurring(twin["test"] for twin in twins.values())
    }
    return {
        "mean": mean(twin["test"] for twin in control.values()),
        "margin": {metric: fmean(found) if found else None for metric, found in gains.items()},
        "interval": {metric: interval(found) for metric, found in gains.items()},
        "level": LEVEL,
        "pairs": len(gains.get(main, ())),
    }


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Two-sided 95 % interval of the mean of `differences` by Student's t; None for fewer than two."""
    from scipy.special import stdtrit

    count = len(differences)
    if count < 2:
        return None
    half = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * stdev(differences) / math.sqrt(count)
    centre = fmean(differences)
    return centre - half, centre + half


def mean(tests: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean of every metric over the twins where it is defined; None where it is defined for nobody."""
    known = list(tests)
    values = {metric: [test[metric] for test in known if test.get(metric) is not None] for metric in _occurring(known)}
    return {metric: fmean(found) if found else None for metric, found in values.items()}


def worst(twins: Mapping[str, Document], metric: str = "accuracy") -> str | None:
    """The twin with the lowest test `metric`, the first by name if several have it."""
    scored = [(twin["test"][metric], name) for name, twin in twins.items() if twin["test"].get(metric) is not None]
    return min(scored)[1] if scored else None


def _occurring(tests: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics of a classifier, and of whatever else there is."""
    known = list(tests)
    families = [family for family in (FOUND, PROBED, RESTORED) if any(family[0] in test for test in known)]
    return (*METRICS, *(metric for family in families for metric in family))


def dumps(document: Document) -> str:
    """Canonical JSON: sorted keys, no NaN, lists of numbers on one line, a newline at the end."""
    text = json.dumps(_plain(document), sort_keys=True, allow_nan=False, indent=2, ensure_ascii=False)
    # A line break never occurs inside a JSON string, so only lists of numbers match.
    return re.sub(r"\[\n\s*([-\d.eE,\s]+?)\n\s*\]", lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n"


def save(document: Document, path: Path) -> None:
    """Write the document so that a reader finds the old file or the new one, never half of one."""
    partial = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    partial.write_text(dumps(document), encoding="utf-8")
    partial.replace(path)


def _twin(row: Row, device: Scanner | None = None) -> Document:
    return {
        "test": _scores(row.metrics.get("test")),
        "validation": _scores(row.metrics.get("validation")),
        "rounds": row.round,
        "bytes_sent": row.sent,
        "incarnation": row.incarnation,
        "model": row.model,
        "state": row.state,
        "device": _device(device) if device and device.lifecycle else None,
    }


def _device(known: Scanner) -> Document:
    """Last state of a device, and what the learning did without because of it."""
    return {
        "lifecycle": known.lifecycle,
        "quality": known.quality,
        "status": known.status,
        "images": known.arrived,
        "left_out": known.left_out,
        "withheld": known.withheld,
        "flag": known.flag or None,
        "flags": known.flags,
    }


def _scores(metrics: Mapping[str, Any] | None) -> Document:
    if metrics is None:
        return {}
    return {key: metrics.get(key) for key in (*METRICS, *FOUND, *PROBED, "gain", "loss", "confusion") if key in metrics or key in METRICS}


def _cloud(board: Board) -> Document:
    row = board.cloud
    return {
        "merges": board.cloud_merges, "bytes_sent": row.sent if row else 0, "missed": sum(twin.missed for twin in board.rows.values()),
        "groups": [list(group) for group in board.groups],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """Mappings, lists, and numbers that JSON can hold; an undefined number becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
