"""What `test_processes.py` launches in two processes: one is told to stop, then out of memory."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import torch

import apiq_core.finetune.train as training
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.finetune import processes
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.layout import training_checkpoint
from tests.integration.core.finetune.support import run

ORDER = 12  # the question whether to stop that the second process answers with yes


def stop(base: Path, data: Path, out: Path, settings: FinetuneConfig) -> None:
    """Only the second process is told to; each leaves what it saw in `seen-0/1.json`."""
    is_main, questions = processes.is_main(), itertools.count(1)
    training.MICRO_BATCH_TOKENS = 64  # several batches to score, not the same number for each
    events: list[Event] = []
    stopped = False
    try:
        run(
            *(base, data, out, settings),
            on_event=events.append,
            should_stop=lambda: next(questions) == ORDER and not is_main,
        )
    except Stopped:
        stopped = True
    seen = {
        "stopped": stopped,
        "checkpoint": training_checkpoint(out).is_file(),
        "events": [[event.type, event.data] for event in events],
    }
    (out / f"seen-{0 if is_main else 1}.json").write_text(json.dumps(seen))


def run_out_of_memory(base: Path, data: Path, out: Path, settings: FinetuneConfig) -> None:
    """The second process, in its first step."""
    original = training.summed_loss

    def summed_loss(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        if model.training and not processes.is_main():
            raise torch.OutOfMemoryError("the GPU is full")
        return original(model, *tensors)

    training.summed_loss = summed_loss
    run(base, data, out, settings)


if __name__ == "__main__":
    model, rows, folder = map(Path, sys.argv[1:4])
    asked = FinetuneConfig.model_validate_json(sys.argv[4])
    with processes.joined("cpu"):
        stop(model, rows, folder, asked)
        run_out_of_memory(model, rows, folder / "memory", asked)
