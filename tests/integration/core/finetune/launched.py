"""What `test_processes.py` launches in two processes: one stops, diverges, has no memory."""

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import apiq_core.finetune.train as training
from apiq_core.errors import Stopped
from apiq_core.events import Event
from apiq_core.finetune import processes, scoring
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.loss import summed_loss
from apiq_core.layout import training_checkpoint
from tests.integration.core.finetune.support import run

# the question whether to stop that the second process answers with yes: in the midst of step 3
ORDER = 18


def stop(base: Path, data: Path, out: Path, settings: FinetuneConfig) -> None:
    """Only the second process is told to; each leaves what it saw in `seen-0/1.json`."""
    is_main, questions = processes.is_main(), itertools.count(1)
    scoring.MICRO_BATCH_TOKENS = 64  # several batches to score, not the same number for each
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


def diverge(base: Path, data: Path, out: Path, settings: FinetuneConfig) -> None:
    """Only the second process, in its share of the third step."""
    events: list[Event] = []
    few = settings.model_copy(update={"max_steps": 4, "checkpoint_every": 2})
    with second_fails_at(3, lambda loss: loss * math.nan):
        report = run(base, data, out, few, on_event=events.append)
    seen = {
        "warnings": [event.data["message"] for event in events if event.type == "warning"],
        "report": report.model_dump(mode="json"),
    }
    (out / f"seen-{0 if processes.is_main() else 1}.json").write_text(json.dumps(seen))


def run_out_of_memory(base: Path, data: Path, out: Path, settings: FinetuneConfig) -> None:
    """Only the second process, in its first step."""

    def fail(loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("the GPU is full")

    with second_fails_at(1, fail):
        run(base, data, out, settings)


@contextmanager
def second_fails_at(call: int, fail: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """This call of `summed_loss` while training goes through `fail`."""
    calls = itertools.count(1)

    def failing(model: Any, *tensors: torch.Tensor) -> tuple[torch.Tensor, int]:
        loss, tokens = summed_loss(model, *tensors)
        if model.training and not processes.is_main() and next(calls) == call:
            loss = fail(loss)
        return loss, tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "summed_loss", failing)
        yield


if __name__ == "__main__":
    model, rows, folder = map(Path, sys.argv[1:4])
    asked = FinetuneConfig.model_validate_json(sys.argv[4])
    with processes.joined("cpu"):
        stop(model, rows, folder, asked)
        diverge(model, rows, folder / "diverged", asked)
        run_out_of_memory(model, rows, folder / "memory", asked)
