"""What memory rows of many lengths take: as PyTorch is by itself, and as finetuning sets it."""

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

from apiq_core.finetune.data.batches import LENGTH_STEP
from apiq_core.finetune.memory import KERNELS
from benchmarks.core.cells import Cell
from benchmarks.core.contenders import CLOSED_FORM
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import RANK, start
from benchmarks.report import show, write

BITS = 2
BLOCKS = 8
ROWS = {"rows": 4, "lengths": (60, 256), "micro_batches": 200, "every": 40}
ONEDNN_KERNELS = 1024  # that it keeps by itself
VARIANTS: dict[str, dict[str, Any]] = {
    "many lengths": {"kernels": ONEDNN_KERNELS, "multiple": 1},
    f"{KERNELS} kernels": {"kernels": KERNELS, "multiple": 1},
    f"and multiples of {LENGTH_STEP}": {"kernels": KERNELS, "multiple": LENGTH_STEP},
}


def main(options: Namespace) -> None:
    store = cells(options)
    given = dataclasses.replace(setting(options, blocks=BLOCKS), scored=())
    started = start(store, given, CLOSED_FORM, BITS, RANK)
    if started is None:
        return
    folder = Path(started["folder"])
    inputs = {"base": folder / "model", "adapter": folder / "adapter"}
    rows = []
    for name, variant in VARIANTS.items():
        cell = Cell("finetune.lengths", ROWS | variant, inputs)
        figures = store.figures(cell, f"lengths: {name}")
        if figures:
            rows.append(
                {"rows": name}
                | {
                    f"MB after {point['micro_batches']}": round(point["resident_bytes"] / 1e6)
                    for point in figures["points"]
                }
                | {"processor s": round(figures["processor_seconds"])}
            )
    if rows:
        show(f"{given.model_dir.name}, {BITS} bits: allocated after so many micro-batches", rows)
        write("core-lengths", {"rows": rows})
