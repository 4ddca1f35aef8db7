"""The loss of examples that nothing is learned from."""

from collections.abc import Sequence

import torch

from apiq_core.errors import InfraError
from apiq_core.finetune import processes
from apiq_core.finetune.batches import token_batches
from apiq_core.finetune.loss import summed_loss
from apiq_core.finetune.memory import is_out_of_memory
from apiq_core.finetune.run import Run

MICRO_BATCH_TOKENS = 8192  # that are scored at a time


def mean_loss(run: Run, members: Sequence[int]) -> float:
    """Nats a token that carries loss, over the examples `members`.

    Raises `Stopped`, `InfraError(out_of_memory)`.
    """
    run.model.eval()
    batches = token_batches(
        sorted(members), lambda i: len(run.examples[i]), budget=MICRO_BATCH_TOKENS
    )
    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(batches), processes.count()):
            run.check_stop()  # all ask equally often, though the last may have no batch left
            for batch in processes.share(batches[first : first + processes.count()]):
                loss, tokens = _scored(run, batch)
                total, count = total + loss, count + tokens
    return processes.summed(total) / processes.summed(count)


def _scored(run: Run, batch: Sequence[int]) -> tuple[float, int]:
    try:
        loss, tokens = summed_loss(run.model, *run.padded(batch))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows = f"{len(batch)} held-out rows of up to {len(run.examples[batch[0]])} tokens"
        message = f"out of memory while {rows} were scored; try a smaller max_length"
        raise InfraError("out_of_memory", message) from error
    return float(loss), tokens
