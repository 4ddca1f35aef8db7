"""The furniture of `report.html`: sections, tables, lists of facts, legends."""

from collections.abc import Iterable, Sequence
from typing import Any

from apiq_core.reports.html.markup import Html, tag


def facts(pairs: dict[str, Any]) -> Html:
    rows = (tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs.items())
    return tag("dl", *rows, class_="facts")


def section(title: str, *children: Html) -> Html:
    return tag("section", tag("h2", title), *children)


def table(columns: Sequence[str], rows: Iterable[Html], barred: Sequence[int] = ()) -> Html:
    heads = (
        tag("th", name, scope="col", class_="barred" if n in barred else None)
        for n, name in enumerate(columns)
    )
    grid = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("div", grid, class_="wide")


def row(cells: Sequence[Any], class_: str | None = None) -> Html:
    first, *others = cells
    return tag("tr", tag("th", first, scope="row"), *(tag("td", x) for x in others), class_=class_)


def note(text: str) -> Html:
    """A line that explains."""
    return tag("p", text, class_="note")


def legend(*items: Html) -> Html:
    return tag("ul", *(tag("li", item) for item in items), class_="legend")


def swatch(kind: str) -> Html:
    """A small square in the colour of that class."""
    return tag("svg", tag("rect", class_=kind, width=1, height=1), viewBox="0 0 1 1")
