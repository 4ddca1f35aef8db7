"""The loss of examples that nothing is learned from."""

from collections.abc import Sequence

import torch

from apiq_core.errors import InfraError
from apiq_core.finetune import processes
from apiq_core.finetune.data.batches import token_batches
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
                loss, tokens = _scored_in_memory(run, batch)
                total, count = total + loss, count + tokens
    return processes.summed(total) / processes.summed(count)


def _scored_in_memory(run: Run, batch: Sequence[int]) -> tuple[float, int]:
    """Summed loss and tokens of `batch`; in halves where memory runs out."""
    try:
        loss, tokens = summed_loss(run.model, *run.padded(batch))
        return float(loss), tokens
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(batch) == 1:
            row = f"a held-out row of {len(run.examples[batch[0]])} tokens"
            message = f"out of memory while {row} was scored; try a smaller max_length"
            raise InfraError("out_of_memory", message) from error
    half = len(batch) // 2  # out here, where the error no longer holds on to tensors
    halves = [_scored_in_memory(run, part) for part in (batch[:half], batch[half:])]
    return sum(loss for loss, _ in halves), sum(tokens for _, tokens in halves)
