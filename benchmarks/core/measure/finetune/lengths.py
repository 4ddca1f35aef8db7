"""What stays in memory after training on rows of many lengths, a process each."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.core.measure.finetune.step import WORDS, stepper
from benchmarks.core.measure.memory import resident


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    """Resident bytes after every `every` micro-batches, each a step without an update.

    Every process draws the same rows, and lengthens each micro-batch to a multiple of `multiple`.
    """
    os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(config["kernels"])  # before any product
    generator = torch.Generator().manual_seed(0)
    step = stepper("packed", inputs, gradient_checkpointing=False)
    began, points = time.process_time(), []
    for number in range(1, config["micro_batches"] + 1):
        rows = int(torch.randint(1, config["rows"] + 1, (), generator=generator))
        low, high = config["lengths"]
        length = int(torch.randint(low, high + 1, (), generator=generator))
        length += -length % config["multiple"]
        step(torch.randint(0, WORDS, (rows, length), generator=generator))
        if number % config["every"] == 0:
            points.append({"micro_batches": number, "resident_bytes": resident()["anonymous"]})
    return {"points": points, "processor_seconds": time.process_time() - began}
