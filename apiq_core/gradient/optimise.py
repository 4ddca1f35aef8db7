"""The gradient phase of ApiQ-bw: argmin ||F(W, X) - F(Q, A, B, Xq)|| over one block (eq. 5).

Held-out windows judge every epoch, and the best state seen is the one that is kept - the start
included, so the phase can never make a block worse on text it was not trained on.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from apiq_core.block import Block, BlockResult, Layers, replace_weights
from apiq_core.config import Training
from apiq_core.events import CheckStop

WARMUP_FRACTION = 0.1


class Student(Protocol):
    """The trainable form of a block's linear layers."""

    quantizer_parameters: list[Tensor]
    rounding_parameters: list[Tensor]
    adapter_parameters: list[Tensor]

    def weights(self) -> dict[str, Tensor]:
        """Effective weights (O, I) by layer name, with gradients."""

    def result(self) -> Layers:
        """What would be stored."""


@dataclass(frozen=True)
class Objective:
    """What a gradient phase minimises, and in which order and pace."""

    same_input: bool  # add the term || F(W, Xq) - F(Q, A, B, Xq) ||, the public code's aug_loss
    shuffle: bool
    cosine: bool  # warmup, then cosine to zero; else a constant learning rate
    distance: Callable[[Tensor, Tensor], Tensor]  # of (batch, length, width) to its target


def relative_distance(out: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of ||out - target||^2 / ||target||^2.

    The norm that follows every block divides each token by its own size, so this is the error
    that later blocks see; in a plain mean a few tokens with massive activations own the loss.
    """
    return ((out - target).square().sum(-1) / target.square().sum(-1).clamp(min=1e-12)).mean()


def train_block(
    block: Block,
    student: Student,
    training: Training,
    objective: Objective,
    *,
    seed: int,
    check_stop: CheckStop,
) -> BlockResult:
    """Train `student` to keep the block's output; needs `block.stream.y`.

    A loss that is not finite ends the phase with the best state so far and a warning.
    """
    epochs, batch_size = training.epochs or 0, training.batch_size or 1
    parameters: list[dict[str, Any]] = [
        {"params": student.quantizer_parameters, "lr": training.lr_quantizer},
        {
            "params": student.rounding_parameters,
            "lr": training.lr_rounding or 0.0,
            "weight_decay": 0.0,  # codes and zero points: towards 0 is no smaller change
        },
        {"params": student.adapter_parameters, "lr": training.lr_adapter},
    ]
    optimizer = torch.optim.AdamW(parameters, weight_decay=training.weight_decay or 0, fused=True)
    batches = list(block.stream.batches("train", batch_size))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, warmup_cosine(epochs * len(batches)) if objective.cosine else constant
    )
    generator = torch.Generator().manual_seed(seed)
    best = BlockResult(student.result())
    _judge(best, block, student, objective)
    for _ in range(epochs):
        order = torch.arange(block.stream.train_count)
        if objective.shuffle:
            order = order[torch.randperm(len(order), generator=generator)]
        total = torch.zeros((), device=block.stream.device)
        for batch in batches:
            check_stop()
            loss = _loss(block, student, objective, order[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        best.train_loss.append(float(total) / len(batches))
        _judge(best, block, student, objective)
        if not math.isfinite(best.train_loss[-1] + best.held_out_loss[-1]):
            best.warning = (
                f"the loss of block {block.index} was not finite in epoch {len(best.train_loss)}; "
                "its best earlier state is kept"
            )
            break
        if best.held_out_loss[-1] <= min(best.held_out_loss):
            best.layers = student.result()
    return best


def constant(step: int) -> float:
    """A learning rate's factor that never changes."""
    return 1.0


def warmup_cosine(steps: int, warmup_fraction: float = WARMUP_FRACTION) -> Callable[[int], float]:
    """A learning rate's factor over `steps`: a linear warmup, then a cosine down to zero."""
    warmup = max(1, round(warmup_fraction * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _loss(block: Block, student: Student, objective: Objective, members: Tensor) -> Tensor:
    stream = block.stream
    xq = stream.load(stream.xq[members])
    out = _forward(block, student, xq)
    loss = objective.distance(out, stream.load(stream.y[members]).float())
    if objective.same_input:
        with torch.no_grad():
            target = block.run(block.teacher, xq).float()
        loss = loss + objective.distance(out, target)
    return loss


def _forward(block: Block, student: Student, hidden: Tensor) -> Tensor:
    dtype = hidden.dtype
    weights = {name: weight.to(dtype) for name, weight in student.weights().items()}
    return block.run(replace_weights(block.teacher, weights), hidden).float()


@torch.no_grad()
def _judge(result: BlockResult, block: Block, student: Student, objective: Objective) -> None:
    """Note the distance of Fq(Xq) to F(X) on held-out windows: the objective's and relative."""
    stream = block.stream
    total = wrong = right = 0.0
    for batch in stream.batches("held_out"):
        out = _forward(block, student, stream.load(stream.xq[batch]))
        target = stream.load(stream.y[batch]).float()
        total += float(objective.distance(out, target)) * len(out)
        wrong += float((out - target).square().sum())
        right += float(target.square().sum())
    result.held_out_loss.append(total / (len(stream.x) - stream.train_count))
    result.held_out_error.append(wrong / max(right, 1e-30))
    result.held_out_at_s.append(time.monotonic())
