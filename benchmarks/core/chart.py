"""Lines and points as an SVG file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apiq_core.reports.html.charts import log_ticks
from apiq_core.reports.html.markup import Html, tag

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 34, 56  # room for the labels; the legend is on the right
COLOURS = ("#1664c0", "#d9822b", "#2a8f4e", "#c22f2f", "#7a4fb5", "#5c6670", "#b58900", "#00838f")
TICKS = 6
LEAST_DECADE = 5
MANY = 60  # points of a series, beyond which they have no dots

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    label: str
    log: bool = False


def chart(path: Path, title: str, x: Axis, y: Axis, series: Mapping[str, Points]) -> None:
    """Each series joined in the order of its points; what an axis cannot show is left out."""
    shown = {
        name: [(a, b) for a, b in points if _fits(a, x) and _fits(b, y)]
        for name, points in series.items()
    }
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return
    across = Scale([a for points in shown.values() for a, _ in points], x, LEFT, WIDTH - RIGHT)
    up = Scale([b for points in shown.values() for _, b in points], y, HEIGHT - BOTTOM, TOP)
    marks = [tag("rect", width=WIDTH, height=HEIGHT, fill="#fff"), _text(title, LEFT, 20)]
    marks += _grid(across, up)
    for number, (name, points) in enumerate(shown.items()):
        marks += _series(number, name, [(across.at(a), up.at(b)) for a, b in points])
    picture = tag(
        "svg",
        *marks,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        font_family="sans-serif",
        font_size=12,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture + "\n")
    print(f"drawn: {path}")


class Scale:
    """Where the values of an axis go between two coordinates, and which of them are labelled."""

    def __init__(self, values: Sequence[float], axis: Axis, start: float, end: float) -> None:
        self.axis, self._start, self._end = axis, start, end
        low, high = min(values), max(values)
        self.ticks = _ticks(low, high, axis)
        ends = (min(low, self.ticks[0]), max(high, self.ticks[-1]))
        self._low, self._high = (self._place(value) for value in ends)

    def at(self, value: float) -> float:
        share = (self._place(value) - self._low) / (self._high - self._low or 1)
        return round(self._start + share * (self._end - self._start), 1)

    def _place(self, value: float) -> float:
        return math.log10(value) if self.axis.log else value


def _fits(value: float, axis: Axis) -> bool:
    return math.isfinite(value) and (value > 0 or not axis.log)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that enclose low and high."""
    rough = (high - low or abs(high) or 1) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 12) for n in range(first, max(last, first + 1) + 1)]


def _ticks(low: float, high: float, axis: Axis) -> list[float]:
    """Round values that enclose low and high; within half a decade a log axis has linear ones."""
    if not axis.log:
        return _linear_ticks(low, high)
    if 1 < high / low < LEAST_DECADE:
        return [tick for tick in _linear_ticks(low, high) if tick > 0]
    return log_ticks(low, high)


def _grid(across: Scale, up: Scale) -> list[Html]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = []
    for tick in across.ticks:
        x = across.at(tick)
        marks.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, stroke="#e4e8ec"))
        marks.append(_text(f"{tick:g}", x, bottom + 18, "middle"))
    for tick in up.ticks:
        y = up.at(tick)
        marks.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, stroke="#e4e8ec"))
        marks.append(_text(f"{tick:g}", LEFT - 8, y + 4, "end"))
    middle = (TOP + bottom) / 2
    turned = tag("g", _text(up.axis.label, 0, 0, "middle"), transform="rotate(-90)")
    return [
        *marks,
        _text(across.axis.label, (LEFT + right) / 2, HEIGHT - 14, "middle"),
        tag("g", turned, transform=f"translate(20 {middle})"),
    ]


def _series(number: int, name: str, places: list[tuple[float, float]]) -> list[Html]:
    colour = COLOURS[number % len(COLOURS)]
    square = number >= len(COLOURS)
    line = " ".join(f"{x},{y}" for x, y in places)
    marks = [tag("polyline", points=line, fill="none", stroke=colour, stroke_width=1.5)]
    label = (WIDTH - RIGHT + 16, TOP + 8 + 18 * number)
    dotted = places if len(places) <= MANY else []
    marks += [_point(x, y, colour, square) for x, y in [*dotted, label]]
    return [*marks, _text(name, label[0] + 10, label[1] + 4)]


def _point(x: float, y: float, colour: str, square: bool) -> Html:
    if square:
        return tag("rect", x=round(x - 3, 1), y=round(y - 3, 1), width=6, height=6, fill=colour)
    return tag("circle", cx=x, cy=y, r=3, fill=colour)


def _text(words: str, x: float, y: float, anchor: str | None = None) -> Html:
    return tag("text", words, x=round(x, 1), y=round(y, 1), text_anchor=anchor, fill="#1c2127")
