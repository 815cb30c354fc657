"""Write the tables of docs/performance.md from results, each between its markers `<!-- bench: NAME -->` and `<!-- /bench -->`.

    python -m benchmarks.table RESULT.json [MORE.json ...] [--page docs/performance.md]

Without --page the tables are printed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Row, figures, load, middle, quartiles

PAGE = ROOT / "docs" / "performance.md"
NOTHING = "*not measured yet*"


def rounds_table(rows: Sequence[Row]) -> str:
    """Seconds per round and the ratio to the bare loop, one line per contender and size."""
    head = ["", "model", "N", "precision", "s a round", "x fp32 floor", "x best floor", "first sign s", "first round s", "memory GB", "CPU"]
    lines = [
        [
            row["who"], row["model"], row["twins"], row["precision"], _spread(row, "round_s"), _spread(row, "x_floor"),
            _spread(row, "x_best_floor"), _one(row, "first_sign_s", 1), _one(row, "first_round_s", 1), _one(row, "memory_gb", 1),
            _percent(row, "cpu_share"),
        ]
        for row in rows
        if row.get("bench") == "rounds"
    ]  # fmt: skip
    return _table(head, lines)


def bytes_table(rows: Sequence[Row]) -> str:
    """Bytes on the wire over 4 bytes x shared elements x frames."""
    lines = [
        [row["model"], row["twins"], f"{row['bytes_x_ideal']:.4f}"]
        for row in rows
        if row.get("bench") == "rounds" and row["who"] == "p2pftl, packed in 2" and row["precision"] == "fp32"
    ]
    return _table(["model", "N", "bytes over ideal"], lines)


def barrier_table(rows: Sequence[Row]) -> str:
    """Share of the cores that the actors kept busy."""
    lines = [
        [row["pace"], row["layout"], row["model"], row["twins"], _percent(row, "actors_share"), _percent(row, "all_processes_share"),
         _one(row, "training_s", 2)]
        for row in rows
        if row.get("bench") == "barrier"
    ]  # fmt: skip
    return _table(["pace", "layout", "model", "N", "actors", "all processes", "training s"], lines)


def scale_table(rows: Sequence[Row]) -> str:
    """Time and memory against the number of twins, then the slopes."""
    own = [row for row in rows if row.get("bench") == "scale"]
    lines = [
        [row["series"], row["twins"], _one(row, "round_s", 2), _one(row, "first_round_s", 1), _one(row, "total_s", 0),
         _one(row, "memory_gb", 1), _percent(row, "cpu_share")]
        for row in own
        if "twins" in row
    ]  # fmt: skip
    slopes = [f"Slope of `{row['series']}` over N = {row['of']}: {row['log_log_slope']:.3f}." for row in own if "log_log_slope" in row]
    return "\n\n".join([_table(["series", "N", "s a round", "first round s", "in all s", "memory GB", "CPU"], lines), *slopes])


def start_table(rows: Sequence[Row]) -> str:
    """What a person at a terminal waits for."""
    lines = [
        [row["layout"], row["twins"], _one(row, "first_sign_s", 2), _one(row, "first_round_s", 1), _one(row, "round_s", 3)]
        for row in rows
        if row.get("bench") == "start"
    ]
    return _table(["layout", "N", "first sign s", "first round s", "s a round with the live view"], lines)


def peers_table(rows: Sequence[Row]) -> str:
    """Peers installed from the registry, on the same machine."""
    lines = [
        [row["peer"], row["version"], row["how"], row["twins"], _spread(row, "round_s"), _one(row, "first_round_s", 1),
         _one(row, "memory_gb", 1)]
        for row in rows
        if row.get("bench") == "peers"
    ]  # fmt: skip
    return _table(["peer", "version", "how", "N", "s a round", "first round s", "memory GB"], lines)


def others_table(name: str) -> Callable[[Sequence[Row]], str]:
    """A benchmark whose rows are shown as they are."""

    def table(rows: Sequence[Row]) -> str:
        own = [row for row in rows if row.get("bench") == name]
        keys = [key for key in dict.fromkeys(key for row in own for key in row) if key not in ("bench", "digest")]
        return _table(keys, [[_any(row, key) for key in keys] for row in own])

    return table


def machine_text(environment: Mapping[str, Any]) -> str:
    """Where and when, in one paragraph."""
    bf16 = ", ".join(environment["bf16"]) or "none"
    return (
        f"{environment['date']}, commit {environment['commit']}: {environment['processor']}, {environment['cores']} cores, "
        f"{environment['memory_gb']} GB, bf16 instructions: {bf16}; Python {environment['python']}, torch {environment['torch']}, "
        f"Ray {environment['ray']}. Load before the start: {environment['load_before']}."
    )


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "rounds": rounds_table,
    "start": start_table,
    "bytes": bytes_table,
    "barrier": barrier_table,
    "scale": scale_table,
    "peers": peers_table,
    **{name: others_table(name) for name in ("conductor", "features", "precision")},
}


def fill(page: str, results: Sequence[Mapping[str, Any]]) -> str:
    """Return `page` with the tables that `results` have something for; the other tables stay as they are.

    Raises KeyError for a marker that no table belongs to.
    """
    rows = [{"bench": result["name"], **row} for result in results for row in result["rows"]]
    machines = [machine_text(result["environment"]) for result in results if "environment" in result]

    def written(found: re.Match[str]) -> str:
        name, before = found["name"], found["body"]
        text = "\n\n".join(dict.fromkeys(machines)) if name == "machine" else TABLES[name](rows)
        return f"<!-- bench: {name} -->\n{text or before.strip() or NOTHING}\n<!-- /bench -->"

    return re.sub(r"<!-- bench: (?P<name>\w+) -->\n(?P<body>.*?)<!-- /bench -->", written, page, flags=re.DOTALL)


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    if not lines:
        return ""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (head, rule, *lines))


def _spread(row: Row, key: str) -> str:
    """Median and middle half: "0.86 (0.84 to 0.90)"."""
    values = figures(row).get(key)
    if not values:
        return ""
    low, high = quartiles(values)
    return f"{middle(values):.2f} ({low:.2f} to {high:.2f})" if len(values) > 1 else f"{values[0]:.2f}"


def _one(row: Row, key: str, digits: int) -> str:
    values = figures(row).get(key)
    return f"{middle(values):.{digits}f}" if values else ""


def _percent(row: Row, key: str) -> str:
    values = figures(row).get(key)
    return f"{middle(values):.0%}" if values else ""


def _any(row: Row, key: str) -> str:
    values = figures(row).get(key)
    return f"{middle(values):.4g}" if values else str(row.get(key, ""))


def main() -> None:
    """Fill the page, or print the tables."""
    options = argparse.ArgumentParser(description="Write the tables of docs/performance.md from results.")
    options.add_argument("results", type=Path, nargs="+")
    options.add_argument("--page", type=Path, nargs="?", const=PAGE, help="the page to write into (docs/performance.md)")
    chosen = options.parse_args()
    results = [load(path) for path in chosen.results]
    if chosen.page is None:
        print(fill("\n\n".join(f"<!-- bench: {name} -->\n<!-- /bench -->" for name in ("machine", *TABLES)), results))
    else:
        chosen.page.write_text(fill(chosen.page.read_text(), results))


if __name__ == "__main__":
    main()
