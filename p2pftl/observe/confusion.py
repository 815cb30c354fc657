"""Who takes what for what: the confusion of all twins together, or of each where their classes are its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pftl.observe import charts
from p2pftl.observe.lead import Lead, told_by
from p2pftl.observe.markup import tag, words
from p2pftl.observe.sections import Told
from p2pftl.observe.units import figure, some

MATRICES = 24


def confusions(told: Told) -> str:
    """The summed confusion matrix and one per twin."""
    plan = told.history.board.plan
    classes = plan.classes if plan else ()
    each = {name: twin["test"]["confusion"] for name, twin in told.document["twins"].items() if twin["test"].get("confusion")}
    if not each:
        return ""
    lead, facts = told_by(told.document), told.facts.get("twins", {})
    if any("classes" in facts.get(name, {}) for name in each):
        return _own_confusions(told, {name: (rows, facts[name].get("classes", ())) for name, rows in each.items() if name in facts}, lead)
    count = len(next(iter(each.values())))
    fitting = {name: rows for name, rows in each.items() if len(rows) == count}
    whole = [[sum(rows[i][j] for rows in fitting.values()) for j in range(count)] for i in range(count)]
    names = list(classes) if len(classes) == count else [str(i) for i in range(count)]
    size_ = max(18.0, min(max(64.0, 6.4 * max(map(len, names))), 96.0, 400.0 / count))
    large = tag("figure", charts.matrix(whole, names, names, size_), tag("figcaption", f"all {some(len(fitting), 'twin')} together"))
    tiny = max(6.0, min(28.0, 96.0 / count))
    small = [
        tag(
            "figure",
            charts.matrix(rows, (), (), tiny),
            tag("figcaption", words(name), " ", tag("span", figure(told.document["twins"][name]["test"].get(lead.key)), class_="dim")),
        )
        for name, rows in list(fitting.items())[:MATRICES]
    ]
    text = "On the common test set. Rows: the true class. Columns: the predicted one. The tint is the share within the row."
    multiples = tag("div", *small, class_="multiples")
    return tag("section", tag("h2", "Confusion"), tag("p", text, class_="hint"), tag("div", large, multiples, class_="beside narrow"))


def _own_confusions(told: Told, each: Mapping[str, tuple[Any, Sequence[str]]], lead: Lead) -> str:
    """One matrix per twin: their classes are their own, so nothing is added up."""
    drawn = []
    for name, (rows, classes) in list(each.items())[:MATRICES]:
        value = figure(told.document["twins"][name]["test"].get(lead.key))
        picture = charts.matrix(rows, classes, classes, max(24.0, min(48.0, 200.0 / len(rows))))
        drawn.append(tag("figure", picture, tag("figcaption", words(name), " ", tag("span", words(f"{lead.name} {value}"), class_="dim"))))
    text = "Each twin on its own test images and classes. Rows: the true class. Columns: the predicted one."
    grid = tag("div", *drawn, class_="multiples", style="grid-template-columns:repeat(auto-fill,minmax(220px,1fr))")
    return tag("section", tag("h2", "Confusion"), tag("p", text, class_="hint"), grid)
