"""The curves of a training run, as inline SVG."""

from collections.abc import Sequence
from typing import Any

from apiq_core.reports.html.charts import px
from apiq_core.reports.html.markup import Html, tag
from apiq_core.reports.html.text import finite, number

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 34
TICKS = 4
MARGIN = 0.05  # of the range, above and below


def curves(points: Sequence[dict[str, Any]], best_step: int) -> Html:
    """Held-out and training loss over the steps; what is not finite is left out."""
    found = {
        kind: [(p["step"], loss) for p in points if (loss := finite(p[name])) is not None]
        for kind, name in (("a", "validation_loss"), ("b", "train_loss"))
    }
    values = [y for line in found.values() for _, y in line] or [0.0]
    last = max([p["step"] for p in points], default=0) or 1
    margin = MARGIN * (max(values) - min(values)) or 1.0
    low, high = min(values) - margin, max(values) + margin

    def place(step: float, loss: float) -> tuple[str, str]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        y = TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)
        return px(x), px(y)

    marks = []
    for n in range(TICKS + 1):
        loss = low + (high - low) * n / TICKS
        x, y = place(0, loss)
        marks.append(tag("line", class_="grid", x1=x, x2=WIDTH - RIGHT, y1=y, y2=y))
        marks.append(tag("text", number(loss), class_="end", x=LEFT - 8, y=y))
        step = round(last * n / TICKS)
        at = place(step, low)[0]
        marks.append(tag("text", f"{step:,}", class_="mid", x=at, y=HEIGHT - BOTTOM + 20))
    for kind, line in found.items():
        places = [place(step, loss) for step, loss in line]
        drawn = " ".join(f"{x},{y}" for x, y in places)
        marks.append(tag("polyline", class_=f"{kind}-line", points=drawn))
        marks += [tag("circle", class_=kind, cx=x, cy=y, r=2) for x, y in places]
    for step, loss in found["a"]:
        if step == best_step:
            x, y = place(step, loss)
            marks.append(tag("circle", class_="kept", cx=x, cy=y, r=5))
    picture = tag(
        "svg",
        tag("title", "Held-out and training loss over the steps"),
        *marks,
        class_="plot",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
    return tag("div", picture, class_="wide")
