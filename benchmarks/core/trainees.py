"""What is trained, and the cells that quantize it and train it.

A trainee is a start: a method that quantizes and may give an adapter. All are trained the same way,
on the same rows, for as many steps, at the same rank and learning rate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiq_core.inspect import inspect_model
from benchmarks.core.cells import Cell, Cells, Figures
from benchmarks.core.contenders import FAST, Setting, cell

FULL = "full-precision"  # its weights stay as they are
QLORA_STYLE = "qlora-style"  # round to nearest, and a new adapter with B = 0
LOFTQ = "loftq"
APIQ = FAST
ALL = (QLORA_STYLE, "gptq-lora", LOFTQ, APIQ, FULL)

RANK = 8  # the default of the core for this model
TRAINING: dict[str, Any] = {
    "max_steps": 100,
    "epochs": 1000,  # as many as the steps need
    "batch_size": 8,
    "micro_batch_size": 4,
    "lr": 1e-3,
    "evaluate_every": 20,
    "validation_rows": 48,
    "answered_rows": 0,
    "truncate": True,
    "gradient_checkpointing": False,  # blocks are small here; `step` has it on
}
SHORT = {"max_steps": 30, "batch_size": 4}  # for many rows, compared with each other only


@dataclass(frozen=True)
class Task:
    """Rows to learn from; a part of them is only scored."""

    name: str
    rows: Path
    max_length: int


def trained(
    store: Cells,
    given: Setting,
    task: Task,
    name: str,
    bits: int,
    *,
    rank: int = RANK,
    train: str = "all",
    adapter: str = "lora",
    is_short: bool = False,
) -> Figures | None:
    """The figures of a trainee, with its bits a weight: its start's and any new adapter's."""
    fields = settings(task) | {"train": train} | (SHORT if is_short else {})
    inputs = {"base": given.model_dir, "rows": task.rows}
    bits_per_weight = 16.0
    if name != FULL:
        found = start(store, given, name, bits, rank, adapter)
        if found is None:
            return None
        bits_per_weight = found["bits_per_weight"]
        folder = Path(found["folder"])
        inputs["base"] = folder / "model"
        if (folder / "adapter").is_dir():
            inputs["adapter"] = folder / "adapter"
    has_new_adapter = "adapter" not in inputs
    if has_new_adapter:
        fields |= {"rank": rank, "adapter": adapter}
    title = f"{task.name}: {name} at {bits} bits, {adapter} of rank {rank}, train {train}"
    figures = store.figures(Cell("finetune.trained", {"finetune": fields}, inputs), title)
    if figures is None:
        return None
    if has_new_adapter:
        weights = inspect_model(given.model_dir).quantized_weight_count
        bits_per_weight += 16 * figures["trained_parameters"] / weights
    return figures | {"bits_per_weight": bits_per_weight}


def settings(task: Task) -> dict[str, Any]:
    return TRAINING | {"max_length": task.max_length}


def start(
    store: Cells, given: Setting, name: str, bits: int, rank: int, adapter: str = "lora"
) -> Figures | None:
    """Quantized, and kept in the `folder` that the figures name."""
    has_adapter = name != QLORA_STYLE
    asked = cell(name if has_adapter else "rtn", given, bits, rank if has_adapter else None)
    if asked is None:
        return None
    quantize = asked.config["quantize"]
    config = {"quantize": quantize | {"adapter": adapter} if has_adapter else quantize}
    inputs = {key: asked.inputs[key] for key in ("model", "calibrated")}
    return store.figures(Cell("finetune.start", config, inputs), f"start: {name} at {bits} bits")
