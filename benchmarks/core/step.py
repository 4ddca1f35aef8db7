"""What a training step costs on packed weights, beside PEFT's LoRA on the same weights, dense."""

import dataclasses
from argparse import Namespace
from pathlib import Path
from statistics import median

from benchmarks.core.cells import Cell
from benchmarks.core.contenders import CLOSED_FORM
from benchmarks.core.setting import cells, setting
from benchmarks.core.trainees import RANK, start
from benchmarks.report import show, write

BITS = 2
SHAPE = {"rows": 8, "length": 256}  # 2,048 tokens a step


def main(options: Namespace) -> None:
    store = cells(options)
    given = dataclasses.replace(setting(options), scored=())
    started = start(store, given, CLOSED_FORM, BITS, RANK)
    if started is None:
        return
    folder = Path(started["folder"])
    inputs = {"base": folder / "model", "adapter": folder / "adapter"}
    config = SHAPE | {"rounds": max(3, options.rounds)}
    times = store.figures(Cell("finetune.step", config, inputs), "step: times")
    peaks = {
        weights: store.figures(
            Cell("finetune.step", config | {"weights": weights}, inputs), f"step: {weights}"
        )
        for weights in ("packed", "dense")
    }
    if times is None or None in peaks.values():
        return
    rows = [
        {
            "weights": weights,
            "loss": times["losses"][weights],
            "seconds": median(found[weights] for found in times["seconds"]),
            "allocated MB": peak["peak_bytes"]["anonymous"] / 1e6,
            "mapped MB": peak["peak_bytes"]["file"] / 1e6,
        }
        for weights, peak in peaks.items()
        if peak
    ]
    tokens = SHAPE["rows"] * SHAPE["length"]
    show(f"{given.model_dir.name}, {BITS} bits: a step of {tokens} tokens", rows)
    print(f"packed over dense, median of ratios within a round: {times['ratio']:.3f}")
    write("core-step", {"rows": rows, "ratio": times["ratio"], "rounds": times["seconds"]})
