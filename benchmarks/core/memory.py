"""What a run needs to hold, over the number of blocks and over their size."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apiq_core.config import QuantizeConfig
from apiq_core.inspect import inspect_model
from apiq_core.resolve import resolve
from benchmarks.core import models, texts
from benchmarks.core.cells import Cell
from benchmarks.core.chart import Axis, chart
from benchmarks.core.setting import cells
from benchmarks.core.texts import CALIBRATED
from benchmarks.report import RESULTS_DIR, show, write

COUNTS = (4, 8, 16)
SHAPE = {"hidden": 1024, "intermediate": 2816, "heads": 16, "kv_heads": 16}
LLAMA_7B = {"hidden": 4096, "intermediate": 11008, "heads": 32, "kv_heads": 32}
LLAMA_BLOCKS = 2  # what one block leaves behind is seen in the next
# blocks, the weights of one of them in millions, and the widest input of its layers
LLAMAS = {
    "Llama-2-7B": (32, 202.4, 11008),
    "Llama-2-13B": (40, 317.2, 13824),
    "Llama-2-70B": (80, 855.6, 28672),
}


def main(options: Namespace) -> None:
    store = cells(options)
    tokenizer_of = options.model or models.the_model()
    text = texts.wikitext(options.wikitext)
    rows = []
    counts = (options.blocks, 2 * options.blocks) if options.blocks else COUNTS
    shapes = [(SHAPE, count) for count in counts]
    if options.llama:
        shapes.append((LLAMA_7B, LLAMA_BLOCKS))
    for shape, count in shapes:
        model_dir = models.random_model(tokenizer_of, blocks=count, **shape)
        asked = Cell(
            "memory", config(model_dir, options.samples), inputs(model_dir, text.calibrated)
        )
        figures = store.figures(asked, f"memory: {model_dir.name}")
        if figures:
            rows.append(row(shape["hidden"], count, figures))
    if not rows:
        return
    show(f"apiq-bw fast, 2 bits, {options.samples} windows of 256 tokens", rows)
    same = [r for r in rows if r["hidden"] == SHAPE["hidden"]]
    if same:
        grown = ", ".join(
            f"{flatness(same, c):.3f} ({c})" for c in ("peak MB", "of it allocated MB")
        )
        print(f"largest over smallest, {same[0]['blocks']} to {same[-1]['blocks']} blocks: {grown}")
    projected = [r for r in rows if r["hidden"] == LLAMA_7B["hidden"]]
    if projected:
        projected = projection(projected[0])
        show("projected from blocks of Llama-2-7B's shape", projected)
    write("core-memory", {"rows": rows, "projected": projected})
    chart(
        RESULTS_DIR / "core-memory.svg",
        "Peak memory over the number of equal blocks",
        Axis("blocks"),
        Axis("peak memory, MB"),
        {
            "resident": [(r["blocks"], r["peak MB"]) for r in same],
            "of it allocated": [(r["blocks"], r["of it allocated MB"]) for r in same],
        },
    )


def config(model_dir: Path, samples: int) -> dict[str, Any]:
    fields = {
        "bits": 2,
        "group_size": 64,
        "calibration": {"source": CALIBRATED, "samples": samples, "length": 256},
        "evaluation": {"samples": 0},
    }
    resolved = resolve(QuantizeConfig.model_validate(fields), inspect_model(model_dir))
    return {"quantize": resolved.model_dump(mode="json")}


def inputs(model_dir: Path, calibrated: Path) -> dict[str, Path]:
    return {"model": model_dir, "calibrated": calibrated}


def row(hidden: int, blocks: int, figures: dict[str, Any]) -> dict[str, Any]:
    before = sum(figures["before_bytes"].values())
    peak = max(figures["peak_memory_bytes"].values())
    return {
        "hidden": hidden,
        "blocks": blocks,
        "before MB": round(before / 1e6),
        "peak MB": round(peak / 1e6),
        "of it allocated MB": round(figures["peak_by_kind_bytes"]["anonymous"] / 1e6),
        "seconds": round(figures["seconds"]["total"], 1),
        "seconds a block": sum(figures["block_seconds"]) / len(figures["block_seconds"]),
    }


def projection(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Of whole models, from blocks of the smallest.

    P: weights of a block, I: its widest input. One block is held whatever their number, and of it
    weights, which grow as P, and Gram matrices, which grow as I^2; streams grow less. So memory is
    at most before + (peak - before) times the larger ratio. Time: blocks x seconds a block x
    (P / P_7B) where passes over tokens, which cost P, are all of it, and (I / I_7B)^3 where
    factorizations are.
    """
    _, smallest, narrowest = LLAMAS["Llama-2-7B"]
    rows = []
    for name, (blocks, millions, widest) in LLAMAS.items():
        ratio, wider = millions / smallest, widest / narrowest
        grown = (measured["peak MB"] - measured["before MB"]) * max(ratio, wider**2)
        hours = blocks * measured["seconds a block"] / 3600
        rows.append(
            {
                "model": name,
                "blocks": blocks,
                "peak GB, at most": round((measured["before MB"] + grown) / 1000, 1),
                "hours, at least": round(hours * ratio, 1),
                "hours, at most": round(hours * wider**3, 1),
            }
        )
    return rows


def flatness(rows: Sequence[dict[str, Any]], column: str) -> float:
    """Largest over smallest."""
    values: list[float] = [row[column] for row in rows]
    return max(values) / min(values)
