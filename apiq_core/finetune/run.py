"""What training and scoring work with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from apiq_core.events import CheckStop, OnEvent
from apiq_core.finetune import processes
from apiq_core.finetune.config import SCORES, FinetuneConfig
from apiq_core.finetune.data.batches import epoch_batches, pad
from apiq_core.finetune.data.examples import Example


@dataclass
class Run:
    """What a training run works with; `config` is resolved but for its step counts."""

    model: PreTrainedModel | PeftModel
    examples: Sequence[Example]
    members: Sequence[int]  # indices of what is trained on
    held_out: Sequence[int]  # that are scored
    config: FinetuneConfig
    checkpoint_file: Path
    identity: Mapping[str, object]
    device: torch.device
    on_event: OnEvent
    check_stop: CheckStop
    peak_memory_bytes: Callable[[], int]  # since the present phase began
    _epoch: tuple[int, list[list[int]]] = field(default=(-1, []))

    def padded(self, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Tokens and labels of these rows."""
        return pad([self.examples[i] for i in members], self.config.max_length, self.device)

    def batches(self, epoch: int) -> list[list[int]]:
        if self._epoch[0] != epoch:
            batch_size, seed = self.config.batch_size, self.config.seed
            made = epoch_batches(self.examples, self.members, batch_size, seed, epoch)
            self._epoch = epoch, made
        return self._epoch[1]

    def batch_of(self, step: int) -> list[int]:
        """The rows of a step, from 0."""
        epoch, number = divmod(step, self.batches_per_epoch())
        return self.batches(epoch)[number]

    def micro_batch_size(self) -> int:
        """Rows in memory at a time: no more than make a share for every process."""
        share = math.ceil(self.config.batch_size / processes.count())
        return min(self.config.micro_batch_size, share)

    def batches_per_epoch(self) -> int:
        return math.ceil(len(self.members) / self.config.batch_size)

    def step_count(self) -> int:
        steps = self.config.epochs * self.batches_per_epoch()
        return min(steps, self.config.max_steps or steps)

    def evaluate_every(self) -> int:
        return self.config.evaluate_every or max(1, self.step_count() // SCORES)

    def checkpoint_every(self) -> int:
        return self.config.checkpoint_every or self.evaluate_every()
