"""How fast the error of the blocks falls, for each recipe, in runs that take turns."""

import dataclasses
from argparse import Namespace
from collections.abc import Iterable, Sequence
from math import exp, log
from statistics import median
from typing import Any

from benchmarks.core.cells import Cell
from benchmarks.core.chart import Axis, chart
from benchmarks.core.contenders import (
    AUTOROUND,
    BEST,
    CLOSED_FORM,
    FAST,
    PAPER,
    Setting,
    cell,
    taking_part,
)
from benchmarks.core.setting import cells, setting
from benchmarks.report import RESULTS_DIR, show, write

BLOCKS = 6
BITS = 2
Curve = list[tuple[float, float]]  # seconds spent on all blocks, mean error of a block


def main(options: Namespace) -> None:
    store = cells(options)
    given = dataclasses.replace(
        setting(options, blocks=BLOCKS), scored=()
    )  # only blocks are judged
    names = taking_part((PAPER, FAST, CLOSED_FORM, BEST, AUTOROUND), options.only)
    rounds = []
    for number in range(options.rounds):
        first = number % len(names)
        asked = [(name, unpolished(name, given)) for name in names[first:] + names[:first]]
        contenders = [
            {"name": name, "measure": one.measure, "config": one.config}
            for name, one in asked
            if one
        ]
        config = {"round": number, "contenders": contenders}
        figures = store.figures(Cell("speed", config, given.inputs), f"speed: round {number + 1}")
        if figures:
            rounds.append({name: curve(figures[name]) for name in names})
    if not rounds:
        return
    rows = [row(name, rounds) for name in names]
    show(f"{given.model_dir.name}, {BITS} bits, {len(rounds)} rounds", rows)
    write("core-speed", {"rows": rows, "curves": rounds})
    chart(
        RESULTS_DIR / "core-speed.svg",
        f"{given.model_dir.name}, {BITS} bits: error of held-out windows over time",
        Axis("seconds, all blocks", log=True),
        Axis("error of a block's output, geometric mean", log=True),
        rounds[-1],
    )


def unpolished(name: str, given: Setting) -> Cell | None:
    """What blocks are after the phase that is timed; a polish of the whole model comes later."""
    return cell(name, given, BITS, polish_epochs=0) if name == BEST else cell(name, given, BITS)


def curve(figures: dict[str, Any]) -> Curve:
    """A point before the gradient phase, one an epoch, and the end: the model as it was stored.

    Had the phase of every block ended after that epoch, the run would have taken so long.
    """
    blocks = figures.get("blocks", [])
    seconds = zip(*(block["held_out_seconds"] for block in blocks), strict=False)
    errors = zip(*(block["held_out_error"] for block in blocks), strict=False)
    points = [(sum(s), geometric_mean(e)) for s, e in zip(seconds, errors, strict=True)]
    return [*points, (figures["seconds"], geometric_mean(figures["block_errors"]))]


def row(name: str, rounds: Sequence[dict[str, Curve]]) -> dict[str, Any]:
    """Medians over the rounds; what is compared with the paper's recipe is of the same round."""
    seconds = [curves[name][-1][0] for curves in rounds]
    line: dict[str, Any] = {
        "recipe": name,
        "seconds": median(seconds),
        "block error": median(curves[name][-1][1] for curves in rounds),
        "of paper's time": None,
        "of paper's error": None,
        "as good as paper after": None,
    }
    if PAPER in rounds[0]:
        papers = [curves[PAPER][-1] for curves in rounds]
        pairs = list(zip(rounds, papers, strict=True))
        line["of paper's time"] = median(c[name][-1][0] / s for c, (s, _) in pairs)
        line["of paper's error"] = median(c[name][-1][1] / e for c, (_, e) in pairs)
        shares = [share_of_time(c[name], s, e) for c, (s, e) in pairs]
        known = [share for share in shares if share is not None]
        line["as good as paper after"] = median(known) if len(known) == len(shares) else "never"
    return line


def share_of_time(points: Curve, paper_s: float, paper_error: float) -> float | None:
    """After which share of the paper's time a curve is first at or below the paper's last error."""
    return next((seconds / paper_s for seconds, error in points if error <= paper_error), None)


def geometric_mean(errors: Iterable[float]) -> float:
    """Of ratios: no block owns it."""
    logs = [log(max(error, 1e-30)) for error in errors]
    return exp(sum(logs) / len(logs))
