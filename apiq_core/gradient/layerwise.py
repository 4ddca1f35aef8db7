"""ApiQ-lw by gradient: argmin ||X W - Xq (Q + A B^T)|| per linear layer (eq. 4), as published.

In the order {q,k,v} -> o -> {gate,up} -> down clipping logits and A, B of each layer are trained
with AdamW at a constant learning rate. The data are seen through `GramLoss` alone, so a step costs
the same however many tokens there are, and is on all of them; there are as many steps as the
windows would give batches. Held-out windows judge every epoch, and each layer keeps its best state.
"""

import math
from dataclasses import dataclass

import torch

from apiq_core.block import Block, BlockResult, Layers, QuantizedLayer, student_weights
from apiq_core.config import Training
from apiq_core.events import CheckStop
from apiq_core.gradient.clipping_student import ClippedLinear
from apiq_core.gradient.gram_loss import GramLoss, input_sums


def train_layers(
    block: Block, training: Training, *, seed: int, check_stop: CheckStop
) -> BlockResult:
    """Layer after layer; the losses reported are sums over the layers.

    A loss that is not finite ends the training of that layer with its best state so far and a
    warning.
    """
    steps = len(list(block.stream.batches("train", training.batch_size)))
    layers: Layers = {}
    courses: list[Course] = []
    weights = block.linear_weights
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        starts = {name: ClippedLinear(w, block.specs[name]) for name, w in weights.items()}
    for names in block.input_groups:
        student = student_weights(block.teacher, layers)
        train = input_sums(block, student, names[0], "train")
        held_out = input_sums(block, student, names[0], "held_out")
        for name in names:
            losses = train.loss(weights[name]), held_out.loss(weights[name])
            course = train_layer(starts[name], *losses, training, steps, check_stop)
            layers[name] = course.best
            courses.append(course)
    diverged = [name for name, course in zip(layers, courses, strict=True) if course.diverged]
    return BlockResult(
        layers,
        train_loss=[sum(losses) for losses in zip(*(c.train for c in courses), strict=False)],
        held_out_loss=[sum(losses) for losses in zip(*(c.held_out for c in courses), strict=False)],
        warning=f"the loss of {', '.join(diverged)} in block {block.index} was not finite; "
        "the best earlier state is kept"
        if diverged
        else None,
    )


@dataclass
class Course:
    """How the training of one layer went."""

    best: QuantizedLayer
    train: list[float]  # mean loss of each epoch's steps
    held_out: list[float]  # before training, then after each epoch

    @property
    def diverged(self) -> bool:
        return not math.isfinite(sum(self.train) + sum(self.held_out))


def train_layer(
    layer: ClippedLinear,
    loss_of: GramLoss,
    held_out_loss_of: GramLoss,
    training: Training,
    steps: int,
    check_stop: CheckStop,
) -> Course:
    """Train one layer for `training.epochs` of so many `steps`."""
    parameters = [
        {"params": [layer.gamma, layer.beta], "lr": training.lr_quantizer},
        {"params": layer.adapter.parameters(), "lr": training.lr_adapter},
    ]
    optimizer = torch.optim.AdamW(parameters, weight_decay=training.weight_decay or 0, fused=True)

    @torch.no_grad()
    def judge() -> float:
        return float(held_out_loss_of(layer.weight()))

    with torch.no_grad():
        course = Course(layer.result(), [], [judge()])
    for _ in range(training.epochs or 0):
        total = 0.0
        for _ in range(steps):
            check_stop()
            loss = loss_of(layer.weight())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        course.train.append(total / steps)
        course.held_out.append(judge())
        if course.diverged:
            break
        if course.held_out[-1] <= min(course.held_out):
            with torch.no_grad():
                course.best = layer.result()
    return course
