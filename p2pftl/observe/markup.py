"""HTML and SVG as text: everything that comes from a run is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def words(value: object) -> str:
    """Text as markup."""
    return escape(str(value), quote=True)


def number(value: float) -> str:
    """A coordinate with one decimal at most."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def tag(name: str, /, *children: str, **attributes: object) -> str:
    """One element. `children` are markup; attribute values are escaped; `class_` and `stroke_width` become class and stroke-width."""
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None:
            continue
        shown = number(value) if isinstance(value, float) else words(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{shown}"')
    inner = "".join(children)
    return "".join(parts) + (f">{inner}</{name}>" if inner or name in _OPEN else "/>")


def title(value: object) -> str:
    """What a pointer that rests on the element shows."""
    return tag("title", words(value))


def label(x: float, y: float, value: object, class_: str = "", anchor: str | None = None) -> str:
    """Text in a drawing."""
    return tag("text", words(value), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a polyline."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def drawing(width: float, height: float, *children: str, name: str = "") -> str:
    """An SVG that scales with its column; `name` is read aloud."""
    frame = f"0 0 {number(width)} {number(height)}"
    return tag("svg", *children, viewBox=frame, role="img", aria_label=name or None, style=f"max-width:{number(width)}px")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "") -> str:
    """A table of markup cells. A heading that begins with ">" has numbers below it."""
    kinds = ["n" if heading.startswith(">") else None for heading in head]
    top = "".join(tag("th", heading.lstrip(">"), class_=kind, scope="col") for heading, kind in zip(head, kinds, strict=True))
    lines = [tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows]
    whole = tag("table", tag("thead", tag("tr", top)), tag("tbody", "\n".join(lines)), class_=class_ or None)
    return tag("div", whole, class_="wide")


_OPEN = frozenset({"p", "td", "th", "div", "span", "section", "li", "text", "tr", "tbody", "i"})
