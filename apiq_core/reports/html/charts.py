"""The pictures of `report.html`, as inline SVG. Colours are classes: the page's style sets them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from apiq_core.reports.html.markup import Html, join, tag
from apiq_core.reports.html.text import NOT_FINITE, finite, number

WIDTH = 720
LEFT, RIGHT = 124, 10  # room for layer names; charts over blocks share their columns
MAX_COLUMN = 40
AXIS = 26  # under a plot: indices of blocks
INDEX_LABELS = 16  # at most so many indices are written
FLAT = 0.02  # loss curves are never stretched to show less than this relative change


def block_errors(blocks: Sequence[dict[str, Any]]) -> Html:
    """Each block's error as a dot, on a log scale; a cross where it is not finite."""
    height, top = 190, 12
    scale = _LogScale([block["error"] for block in blocks], bottom=height, top=top)
    marks: list[Html] = []
    for tick in scale.ticks:
        y = scale.y(tick)
        marks.append(tag("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=px(y), y2=px(y)))
        marks.append(tag("text", _tick(tick), class_="end", x=LEFT - 8, y=px(y + 4)))
    step = _column(len(blocks))
    path: list[str] = []
    dots: list[Html] = []
    pen = "M"
    for column, block in enumerate(blocks):
        x, error = LEFT + step * (column + 0.5), finite(block["error"])
        title = tag("title", f"block {block['index']}: {number(block['error'])}")
        if error is None:
            cross = f"M{px(x - 4)} {top - 4}l8 8m0 -8l-8 8"
            dots.append(tag("path", title, class_="bad-line", d=cross))
            pen = "M"
            continue
        y = scale.y(error)
        path.append(f"{pen}{px(x)} {px(y)}")
        pen = "L"
        dots.append(tag("circle", title, class_="a", cx=px(x), cy=px(y), r=px(min(4, step / 2))))
    line = tag("path", class_="a-line", d="".join(path)) if path else Html()
    return _svg(
        height + AXIS,
        "Relative error of each block's output, log scale",
        *marks,
        line,
        *dots,
        *_block_axis(blocks, height),
    )


def layer_errors(blocks: Sequence[dict[str, Any]]) -> Html:
    """A heat map, blocks by layers: the deeper the colour, the larger the log of the error."""
    names = list(dict.fromkeys(layer["name"] for block in blocks for layer in block["layers"]))
    errors = [layer["output_error"] for block in blocks for layer in block["layers"]]
    ramp = _Ramp(errors)
    row, step = 20, _column(len(blocks))
    marks = [
        tag("text", name, class_="end", x=LEFT - 8, y=row * n + 14) for n, name in enumerate(names)
    ]
    for column, block in enumerate(blocks):
        for layer in block["layers"]:
            error, shape = layer["output_error"], f"{layer['d_in']} → {layer['d_out']}"
            words = (
                f"block {block['index']}, {layer['name']} ({shape}): output error {number(error)}, "
                f"weight error {number(layer['weight_error'])}"
            )
            marks.append(
                tag(
                    "rect",
                    tag("title", words),
                    **ramp.paint(error),
                    x=px(LEFT + step * column),
                    y=row * names.index(layer["name"]),
                    width=px(max(1, step - 1)),
                    height=row - 1,
                )
            )
    height = row * len(names)
    return join(
        _svg(
            height + AXIS,
            "Relative error of each layer's output, by block and layer",
            *marks,
            *_block_axis(blocks, height),
        ),
        ramp.legend(),
    )


def loss_curves(blocks: Iterable[dict[str, Any]]) -> Html:
    """One small chart per block, each curve relative to its own first value, on a shared scale."""
    curves = [
        (
            block["index"],
            _relative(block["train_loss"]),
            _relative(block["held_out_loss"]),
            kept_epoch(block["train_loss"], block["held_out_loss"]),
        )
        for block in blocks
    ]
    values = [v for _, train, held_out, _ in curves for v in train + held_out if v is not None]
    low, high = min([*values, 1 - FLAT]), min(max([*values, 1 + FLAT]), 2.0)
    return tag(
        "div",
        *(_loss_curve(*curve, low=low, high=high) for curve in curves),
        class_="multiples",
    )


def _loss_curve(
    index: int,
    train: list[float | None],
    held_out: list[float | None],
    kept: int,
    *,
    low: float,
    high: float,
) -> Html:
    width, height, pad = 120, 70, 7
    epochs = max(1, len(held_out) - 1)

    def point(epoch: int, value: float) -> tuple[str, str]:
        share = (min(value, high) - low) / (high - low)
        return px(pad + (width - 2 * pad) * epoch / epochs), px(
            height - pad - share * (height - 14)
        )

    def polyline(values: list[float | None], first: int, kind: str) -> Html:
        points = [point(first + n, v) for n, v in enumerate(values) if v is not None]
        ends = [tag("circle", class_=kind, cx=x, cy=y, r=1.5) for x, y in points[:1]]
        drawn = " ".join(f"{x},{y}" for x, y in points)
        return join(tag("polyline", class_=f"{kind}-line", points=drawn), *ends)

    at_kept = held_out[kept] if kept < len(held_out) else None
    change = NOT_FINITE if at_kept is None else f"{100 * (at_kept - 1):+.2g} %"
    words = f"block {index}: epoch {kept} of {epochs} was kept, held-out loss {change}"
    verdict = change if kept else "start kept"
    base = point(0, 1.0)[1]
    marks = [tag("line", class_="grid", x1=0, x2=width, y1=base, y2=base)]
    marks += [polyline(train, 1, "b"), polyline(held_out, 0, "a")]
    if at_kept is not None:
        x, y = point(kept, at_kept)
        marks.append(tag("circle", class_="kept", cx=x, cy=y, r=4))
    picture = tag("svg", tag("title", words), *marks, viewBox=f"0 0 {width} {height}", role="img")
    return tag("figure", picture, tag("figcaption", tag("b", index), " ", verdict))


def kept_epoch(train_loss: Sequence[Any], held_out_loss: Sequence[Any]) -> int:
    """Which entry of `held_out_loss` was kept; the gradient phase's own rule, see `optimise`."""
    held_out = [math.nan if loss is None else loss for loss in held_out_loss]
    kept = 0
    for epoch, trained in enumerate(train_loss, start=1):
        if finite(trained) is None or finite(held_out[epoch]) is None:
            break
        if held_out[epoch] <= min(held_out[: epoch + 1]):
            kept = epoch
    return kept


def shares(parts: Sequence[tuple[str, float]], whole: float | None = None) -> Html:
    """A bar cut into (class, amount) parts; shorter than the page where `whole` is more."""
    whole = max(whole or 0, sum(amount for _, amount in parts)) or 1
    start = 0.0
    rects = []
    for kind, amount in parts:
        rects.append(
            tag(
                "rect", class_=kind, x=f"{start:.2f}", width=f"{100 * amount / whole:.2f}", height=1
            )
        )
        start += 100 * amount / whole
    return tag(
        "svg", *rects, class_="bar", viewBox="0 0 100 1", preserveAspectRatio="none", role="img"
    )


class _LogScale:
    """Where positive values go between `bottom` and `top`; zero and less sit at the bottom."""

    def __init__(self, values: Iterable[Any], *, bottom: float, top: float) -> None:
        positive = [x for x in map(finite, values) if x is not None and x > 0] or [1.0]
        self.ticks = log_ticks(min(positive), max(positive))
        self._low, self._high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        self._bottom, self._top = bottom, top

    def y(self, value: float) -> float:
        if value <= 0:
            return self._bottom
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return self._bottom - share * (self._bottom - self._top)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values that enclose low and high: 1, 2, 5 of each decade, or decades if many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    while len(ticks) > 2 and ticks[1] <= low:
        del ticks[0]
    while len(ticks) > 2 and ticks[-2] >= high:
        del ticks[-1]
    return ticks if len(ticks) <= 12 else [*ticks[: -1 : len(ticks) // 8], ticks[-1]]


class _Ramp:
    """Colour by the logarithm of a value: one hue, more or less of it over the background."""

    def __init__(self, values: Iterable[Any]) -> None:
        positive = [x for x in map(finite, values) if x is not None and x > 0] or [1.0]
        self.low, self.high = min(positive), max(positive)

    def paint(self, value: Any) -> dict[str, Any]:
        x = finite(value)
        if x is None:
            return {"class_": "bad"}
        span = math.log(self.high / self.low)
        share = math.log(max(x, self.low) / self.low) / span if span else 0.5
        return {"class_": "heat", "fill_opacity": f"{0.06 + 0.94 * share:.3f}"}

    def legend(self) -> Html:
        steps = [self.low * (self.high / self.low) ** (n / 11) for n in range(12)]
        cells = [
            tag("rect", **self.paint(value), x=14 * n, width=14, height=12)
            for n, value in enumerate(steps)
        ]
        ramp = tag("svg", *cells, class_="ramp", viewBox="0 0 168 12", width=168, height=12)
        return tag("p", number(self.low), " ", ramp, " ", number(self.high), class_="note")


def _relative(losses: Sequence[Any]) -> list[float | None]:
    values = [finite(loss) for loss in losses]
    first = values[0] if values else None
    if first is None:
        return [None] * len(values)
    if first == 0:  # a share of nothing: only staying there can be shown
        return [1.0 if value == 0 else None for value in values]
    return [None if value is None else value / first for value in values]


def _block_axis(blocks: Sequence[dict[str, Any]], y: float) -> list[Html]:
    step = _column(len(blocks))
    every = math.ceil(len(blocks) / INDEX_LABELS)
    labels = [
        tag("text", block["index"], class_="mid", x=px(LEFT + step * (n + 0.5)), y=px(y + 20))
        for n, block in enumerate(blocks)
        if n % every == 0
    ]
    return [*labels, tag("text", "block", class_="end", x=LEFT - 8, y=px(y + 20))]


def _column(count: int) -> float:
    return min(MAX_COLUMN, (WIDTH - LEFT - RIGHT) / max(1, count))


def _tick(value: float) -> str:
    return f"{value:g}" if 1e-4 <= value < 1e5 else number(value)


def _svg(height: float, title: str, *children: Html) -> Html:
    picture = tag(
        "svg",
        tag("title", title),
        *children,
        class_="plot",
        viewBox=f"0 0 {WIDTH} {px(height)}",
        role="img",
    )
    return tag("div", picture, class_="wide")


def px(x: float) -> str:
    """A coordinate."""
    return f"{x:.1f}"
