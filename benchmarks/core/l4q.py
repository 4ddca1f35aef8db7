"""Without an adapter: L4Q beside LoRA that is merged into the weights, which are then rounded."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.core.cells import Cell
from benchmarks.core.contenders import GROUP_SIZE
from benchmarks.core.finetune import tasks
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import FULL, RANK, settings, trained
from benchmarks.report import show, write


def main(options: Namespace) -> None:
    store, given = cells(options), setting(options)
    rows: list[dict[str, Any]] = []
    for task in tasks(options):
        inputs = {"base": given.model_dir, "rows": task.rows}
        lora = trained(store, given, task, FULL, 16)
        for bits in options.bits:
            config = {"grid": {"bits": bits, "group_size": GROUP_SIZE}, "finetune": settings(task)}
            method = {"method": "l4q", "rank": RANK}
            l4q = store.figures(
                Cell("finetune.trained", config | {"finetune": settings(task) | method}, inputs),
                f"{task.name}: l4q at {bits} bits",
            )
            merged = lora and store.figures(
                Cell("finetune.merged", config, inputs | {"adapter": adapter_of(lora)}),
                f"{task.name}: merged and rounded to {bits} bits",
            )
            line = {"rows": task.name, "bits": bits, "lora": lora and lora["after"]}
            before = l4q and l4q["points"][0]["validation_loss"]
            line |= {"lora merged, rounded": merged and merged["loss"]}
            rows.append(line | {"l4q before": before, "l4q": l4q and l4q["after"]})
    if rows:
        show(f"{given.model_dir.name}: loss on held-out rows, no adapter in what is stored", rows)
        write("core-l4q", {"rows": rows})


def adapter_of(figures: dict[str, Any]) -> Path:
    return Path(figures["folder"]) / "adapter"
