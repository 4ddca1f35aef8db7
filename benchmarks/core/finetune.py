"""What each start is worth once it is trained: loss on rows that were not trained on."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from benchmarks.core import texts
from benchmarks.core.cells import Figures
from benchmarks.core.chart import Axis, chart
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import ALL, FULL, Task, trained
from benchmarks.report import RESULTS_DIR, show, write

LENGTH = 256  # tokens of a row, at most
BITS = 2


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    rows: list[dict[str, Any]] = []
    for task in tasks(options):
        curves: dict[str, list[tuple[float, float]]] = {}
        for name in chosen(ALL, options.only):
            figures = trained(store, given, task, name, BITS)
            if figures:
                rows.append(row(task, name, BITS, figures))
                curves[f"{name}, {rows[-1]['bits']} bits"] = [
                    (point["step"], point["validation_loss"]) for point in figures["points"]
                ]
        chart(
            RESULTS_DIR / f"core-finetune-{task.name}.svg",
            f"{given.model_dir.name} on {task.name}",
            Axis("steps of 8 rows"),
            Axis("loss on held-out rows, nats a token", log=True),
            curves,
        )
    if rows:
        show(f"{given.model_dir.name}: trained for {rows[0]['steps']} steps", rows)
        write("core-finetune", {"rows": rows})


def varied(
    options: Namespace, names: tuple[str, ...], field: str, values: Sequence[Any]
) -> list[dict[str, Any]]:
    """Rows of starts, each trained shortly with every value of a field of `trained`."""
    store, given = cells(options), setting(options)
    rows = []
    for task in tasks(options):
        for name in chosen(names, options.only):
            for value in values:
                fields = {"bits": BITS, "is_short": True, field: value}
                figures = trained(store, given, task, name, **fields)
                if figures:
                    rows.append({field: value} | row(task, name, fields["bits"], figures))
    return rows


def tasks(options: Namespace) -> list[Task]:
    """The half of WikiText-2 that nobody is calibrated on, and the answers of GSM8K."""
    found = [Task("wikitext", texts.wikitext(options.wikitext).scored, LENGTH)]
    if options.gsm8k:
        found.append(Task("gsm8k", texts.gsm8k_rows(options.gsm8k), LENGTH))
    return found


def chosen(names: tuple[str, ...], only: tuple[str, ...]) -> list[str]:
    return [name for name in names if not only or name in only or name.partition(":")[0] in only]


def row(task: Task, name: str, bits: int, figures: Figures) -> dict[str, Any]:
    points = figures["points"]
    losses = [point["validation_loss"] for point in points]
    speeds = [point["tokens_per_s"] for point in points if point["tokens_per_s"]]
    return {
        "rows": task.name,
        "bits": bits if name != FULL else 16,
        "start": name,
        "bits/w": figures["bits_per_weight"],
        "trained": figures["trained_parameters"],
        "steps": points[-1]["step"],
        "loss before": losses[0],
        "loss after": losses[-1],
        "best": min(losses),
        "tokens/s": sum(speeds) / len(speeds),
        "peak MB": figures["peak_memory_bytes"] / 1e6,
    }
