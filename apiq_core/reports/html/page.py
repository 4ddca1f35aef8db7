"""What the pages `report.html` of all jobs share: the frame, the tiles, time and memory.

A page needs nothing beside itself: no script and no network, which its own content security policy
states.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from apiq_core.reports.html.charts import shares
from apiq_core.reports.html.markup import Html, tag
from apiq_core.reports.html.parts import note, row, section, table
from apiq_core.reports.html.style import STYLE
from apiq_core.reports.html.text import ABSENT, duration, finite, size

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, *sections: Html) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    body = tag("body", tag("h1", title), *sections)
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def tile_row(tiles: Iterable[tuple[str, str, str]]) -> Html:
    """The figures to see first: name, figure, and what it means."""
    cells = (
        tag("div", tag("dt", name), tag("dd", figure, class_="figure"), tag("dd", x, class_="note"))
        for name, figure, x in tiles
    )
    return tag("dl", *cells, class_="tiles")


def time_and_memory(seconds: Mapping[str, Any], memory: Mapping[str, Any], device: str) -> Html:
    """Seconds and peak bytes of each phase."""
    phases = [name for name in seconds if name != "total"]
    longest = max([finite(seconds[name]) or 0 for name in phases], default=0)
    largest = max([finite(value) or 0 for value in memory.values()], default=0)
    rows = [
        row(
            (
                name,
                duration(seconds[name]),
                shares([("a", finite(seconds[name]) or 0)], longest),
                size(memory[name]) if name in memory else ABSENT,
                shares([("b", finite(memory.get(name)) or 0)], largest),
            )
        )
        for name in phases
    ]
    if "total" in seconds:
        rows.append(
            row(("in all", duration(seconds["total"]), "", size(largest), ""), class_="ours")
        )
    columns = ("phase", "time", "", "peak memory", "")
    where = "by the process" if device == "cpu" else f"on {device}"
    return section(
        "Time and memory",
        table(columns, rows, barred=(2, 4)),
        note(f"Memory: the most that was held {where} at once."),
    )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting that has a value, by its path."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[prefix + name] = ", ".join(value) if isinstance(value, list) else value
    return found
