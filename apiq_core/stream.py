"""The activations that flow from block to block: X of the full-precision network, Xq of ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from apiq_core.skeleton import Weights, run_block

BATCH_TOKENS = 2048  # forward passes go in batches of about this many tokens

Part = Literal["train", "held_out", "all"]


@dataclass
class Stream:
    """Inputs and wanted outputs of one block, (windows, length, width) each, in host memory.

    The first `train_count` windows are trained on; the rest are held out. For a GPU the host
    copies are pinned and moved batch by batch.
    """

    x: Tensor  # input in the full-precision network
    xq: Tensor  # input in the network quantized so far
    y: Tensor  # F(X), the output to keep; valid after `teach`
    train_count: int
    device: torch.device

    @classmethod
    def start(cls, hidden: Tensor, train_count: int, device: torch.device) -> "Stream":
        """Before block 0 both networks see the same embeddings."""
        x, xq, y = hidden, hidden.clone(), torch.empty_like(hidden)
        if device.type == "cuda":
            x, xq, y = x.pin_memory(), xq.pin_memory(), y.pin_memory()
        return cls(x, xq, y, train_count, device)

    def batches(self, part: Part = "all", batch_size: int | None = None) -> Iterator[slice]:
        """Slices of windows that cover `part`."""
        start = self.train_count if part == "held_out" else 0
        end = self.train_count if part == "train" else len(self.x)
        step = batch_size or max(1, BATCH_TOKENS // self.x.shape[1])
        for first in range(start, end, step):
            yield slice(first, min(first + step, end))

    def load(self, states: Tensor) -> Tensor:
        """A batch of `x`, `xq` or `y` on the device."""
        if self.device.type == "cuda" and not states.is_pinned():  # gathered, in shuffled order
            states = states.pin_memory()
        return states.to(self.device, non_blocking=True)

    @torch.no_grad()
    def teach(self, module: nn.Module, teacher: Weights, call: dict[str, Any]) -> None:
        """Fill `y` = F(X) for the block at hand."""
        for batch in self.batches():
            self.y[batch] = run_block(module, teacher, self.load(self.x[batch]), call).cpu()

    @torch.no_grad()
    def advance(self, module: nn.Module, student: Weights, call: dict[str, Any]) -> float:
        """Move on to the next block's inputs; returns this block's error on held-out windows.

        The error is ||F(X) - Fq(Xq)||^2 / ||F(X)||^2.
        """
        for batch in self.batches():
            self.xq[batch] = run_block(module, student, self.load(self.xq[batch]), call).cpu()
        self.x, self.y = self.y, self.x
        kept = self.x[self.train_count :].float()
        wrong = (kept - self.xq[self.train_count :].float()).square().sum()
        return float(wrong / kept.square().sum())

    def keep_teacher(self) -> None:
        """Behind the last block: `x` is what the full-precision network puts out, and enough."""
        self.xq = self.y = torch.empty(0)
