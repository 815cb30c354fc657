"""A sweep as a grid: the leading metric at every point as a table, and learning curves apart for each value of the first axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from p2pftl.compare import drawing
from p2pftl.compare.cells import Variant
from p2pftl.compare.table import Results, Row
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.units import figure, some

STYLE = "table.said td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 160px; }\n"  # names of points are long
MANY = 12  # curves in one drawing beyond which nobody tells them apart


def section(results: Results, metric: str, name: str) -> str:
    """Table and curves of a sweep over two axes or more, "" of anything else. metric, name: of the curves."""
    points = [row for row in results.variants if len(row.point) > 1 and results.by[row.name]]
    if len(points) < 2:
        return ""
    rows = {row.variant: row for row in results.tables[results.lead.key]}
    text = (
        f"Mean test {results.lead.name} at every point, over {some(len(results.seeds), 'seed')}, beside it the lowest and the highest "
        "of them; the darker, the higher. What may be claimed of it stands in the tables below."
    )
    parts = [tag("h2", "The grid"), tag("p", words(text), class_="hint"), _table(points, rows)]
    if len(points) > MANY:
        parts += [tag("h3", words(f"Test {name} by round")), *_curves(results, points, metric)]
    return tag("section", *parts)


def _table(points: Sequence[Variant], rows: Mapping[str, Row]) -> str:
    """The last axis across, the others down."""
    keys, values = _axes(points)
    at = {tuple(value for _, value in row.point): rows[row.name] for row in points}
    known = [row.mean for row in at.values() if row.mean is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)

    def cell(place: tuple[str, ...]) -> str:
        row = at.get(place)
        if row is None or row.mean is None:
            return ""
        share = (row.mean - low) / (high - low) if high > low else 0.5
        spread = tag("small", f" {min(row.values):.3f} to {max(row.values):.3f}") if len(row.values) > 1 else ""
        style = f"background:rgba(30,120,200,{0.04 + 0.36 * share:.3f});padding:3px 10px;border-radius:4px"
        return tag("span", figure(row.mean), style=style) + spread

    heads = [*map(words, keys[:-1]), *(f">{words(f'{keys[-1]} {value}')}" for value in values[-1])]
    lines = [[*map(words, down), *(cell((*down, across)) for across in values[-1])] for down in product(*values[:-1])]
    return table(heads, lines)


def _curves(results: Results, points: Sequence[Variant], metric: str) -> list[str]:
    """A drawing for each value of the first axis; the same colour is the same point of the others in all of them."""
    keys, values = _axes(points)
    others = list(dict.fromkeys(row.point[1:] for row in points))
    drawn = []
    for value in values[0]:
        mine = [row for row in points if row.point[0][1] == value]
        bundles = [(others.index(row.point[1:]), _bundle(results, row, metric)) for row in mine]
        if any(one.points for _, one in bundles):
            drawn.append(tag("figure", drawing.curves(f"{keys[0]} {value}", drawing.ROUND, bundles)))
    return [drawing.key({_said(other): place for place, other in enumerate(others)}), tag("div", *drawn, class_="grid2")]


def _bundle(results: Results, row: Variant, metric: str) -> drawing.Bundle:
    return drawing.bundle(_said(row.point[1:]), list(results.by[row.name].values()), metric, lambda one: float(one.round))


def _axes(points: Sequence[Variant]) -> tuple[list[str], list[list[str]]]:
    """Keys of the axes, and the values of each in the order in which they come."""
    keys = [key for key, _ in points[0].point]
    return keys, [list(dict.fromkeys(row.point[axis][1] for row in points)) for axis in range(len(keys))]


def _said(point: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{key} {value}" for key, value in point)
