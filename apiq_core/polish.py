"""The end-to-end polish of `recipe: best`: scales and adapters of all blocks, on the packed model.

Block-wise training cannot see what a block's error does to the blocks behind it. Here the whole
network is the student: its last hidden states are to be the teacher's (relative distance), and its
predictions too (cross-entropy to the teacher's distribution, which a small text teaches better
than its next tokens would). EfficientQAT's second phase (arXiv 2407.11062) is the model for it.

Only one block is in memory at a time. A step runs forward block by block and keeps the input of
each; then backward from the last block to the first, each run once more with gradients.
"""

import math

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from apiq_core.artifact import Artifact
from apiq_core.block import Layers, replace_weights
from apiq_core.checkpoint import Checkpoint
from apiq_core.config import QuantizeConfig
from apiq_core.device import return_freed_memory
from apiq_core.evaluate import NETWORKS
from apiq_core.events import CheckStop
from apiq_core.gradient.optimise import relative_distance, warmup_cosine
from apiq_core.gradient.scale_student import ScaledLinear
from apiq_core.inspect import ModelFacts
from apiq_core.meter import Meter
from apiq_core.skeleton import LOGIT_TOKENS, Skeleton, run_block
from apiq_core.stream import Stream

FORWARDS = 4  # what a step costs: forward, again for the gradient, and backward, which is two


class Polished(BaseModel):
    """How it went; losses are nats per token plus the distance of the last hidden states."""

    train_loss: list[float] = []  # per epoch
    held_out_loss: list[float]  # before it, then per epoch; the smallest was kept
    warning: str | None = None


def step_count(config: QuantizeConfig) -> int:
    """In how many optimiser steps a resolved config polishes."""
    training = config.training
    per_epoch = -(-config.calibration.samples // (training.batch_size or 1))
    return (training.polish_epochs or 0) * per_epoch


def guess_step_s(config: QuantizeConfig, facts: ModelFacts, block_s: float) -> float:
    """Seconds of a step, from those of a block in the evaluation, where `NETWORKS` run."""
    scored = config.evaluation.samples * config.evaluation.length * len(NETWORKS)
    trained = (config.training.batch_size or 1) * config.calibration.length
    return FORWARDS * facts.block_count * block_s * trained / max(scored, 1)


def polish(
    skeleton: Skeleton,
    source: Checkpoint,
    artifact: Artifact,
    tokens: Tensor,
    stream: Stream,
    config: QuantizeConfig,
    meter: Meter,
    check_stop: CheckStop,
) -> Polished:
    """Train what `artifact` holds and write the best state on held-out windows back to it.

    `tokens` (windows, length); `stream` behind the last block: its `x` is the teacher's last
    hidden states, its `train_count` tells the windows that are trained on from the rest.
    """
    training = config.training
    network = _Network(skeleton, source, artifact, tokens, stream)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=training.polish_lr or 0.0, weight_decay=0.0, fused=True
    )
    batches = list(stream.batches("train", training.batch_size or 1))
    epochs = training.polish_epochs or 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(epochs * len(batches)))
    generator = torch.Generator().manual_seed(config.seed)
    result = Polished(held_out_loss=[network.held_out_loss(check_stop)])
    best = network.state()
    for epoch in range(epochs):
        order = torch.randperm(stream.train_count, generator=generator)
        total = torch.zeros((), device=stream.device)  # no step waits for its loss
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            total += network.step(order[batch], check_stop)
            optimizer.step()
            schedule.step()
            return_freed_memory()
            meter.step_polished()
        result.train_loss.append(float(total) / len(batches))
        result.held_out_loss.append(network.held_out_loss(check_stop))
        if not math.isfinite(result.train_loss[-1] + result.held_out_loss[-1]):
            result.warning = (
                f"the loss of the polish was not finite in epoch {epoch + 1}; "
                "its best earlier state is kept"
            )
            break
        if result.held_out_loss[-1] <= min(result.held_out_loss):
            best = network.state()
    network.restore(best)
    artifact.replace_layers(network.result)
    return result


class _Network:
    """The packed model with its trained parts: `blocks[i]` by layer name."""

    def __init__(
        self,
        skeleton: Skeleton,
        source: Checkpoint,
        artifact: Artifact,
        tokens: Tensor,
        stream: Stream,
    ) -> None:
        self._skeleton, self._artifact = skeleton, artifact
        self._stream = stream
        self._hidden, self._calls = skeleton.embed(source, tokens)
        self._head = skeleton.head(source)
        self.blocks = [
            {name: ScaledLinear(layer) for name, layer in artifact.read_block(index).items()}
            for index in range(len(skeleton.blocks))
        ]

    def state(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters()]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters(), state, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def result(self, index: int) -> Layers:
        stored = self._artifact.read_block(index)
        return {
            name: layer.result(stored[name].integers) for name, layer in self.blocks[index].items()
        }

    def step(self, members: Tensor, check_stop: CheckStop) -> Tensor:
        """Add the gradients of a batch of windows to the parameters; returns the loss."""
        inputs: list[Tensor] = []
        out = self._forward(members, check_stop, inputs)
        loss, gradient = self._loss(out, members, with_gradient=True)
        for index in reversed(range(len(self.blocks))):
            check_stop()
            hidden = inputs.pop().requires_grad_()
            with torch.enable_grad():
                self._run(index, hidden).backward(gradient)
            assert hidden.grad is not None
            gradient = hidden.grad
        return loss

    def held_out_loss(self, check_stop: CheckStop) -> float:
        total = 0.0
        for batch in self._stream.batches("held_out"):
            members = torch.arange(batch.start, batch.stop)
            out = self._forward(members, check_stop)
            loss, _ = self._loss(out, members, with_gradient=False)
            total += float(loss) * len(members)
        return total / (len(self._hidden) - self._stream.train_count)

    def _forward(
        self, members: Tensor, check_stop: CheckStop, inputs: list[Tensor] | None = None
    ) -> Tensor:
        """The output of the last block; the input of every block is added to `inputs`."""
        hidden = self._stream.load(self._hidden[members])
        with torch.no_grad():
            for index in range(len(self.blocks)):
                check_stop()
                if inputs is not None:
                    inputs.append(hidden)
                hidden = self._run(index, hidden)
        return hidden

    def _run(self, index: int, hidden: Tensor) -> Tensor:
        stored = self._artifact.read_block(index)
        weights = {
            name: layer.weight(stored[name].integers).to(hidden.dtype)
            for name, layer in self.blocks[index].items()
        }
        rest = self._artifact.read_rest(index, hidden.dtype)
        module, call = self._skeleton.blocks[index], self._calls[index]
        return run_block(module, replace_weights(rest, weights), hidden, call)

    def _loss(self, out: Tensor, members: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """Relative distance of the last hidden states plus KL of the predictions, per token, and
        its gradient at `out`."""
        target = self._stream.load(self._stream.x[members])
        tokens, wanted = out.flatten(0, 1), target.flatten(0, 1)  # (T, width)
        loss = torch.zeros((), device=out.device)
        gradients = []
        for part, wanted_part in zip(
            tokens.split(LOGIT_TOKENS), wanted.split(LOGIT_TOKENS), strict=True
        ):
            leaf = part.detach().requires_grad_(with_gradient)
            p = log_softmax(self._head.logits(wanted_part), dim=-1)
            with torch.set_grad_enabled(with_gradient):
                q = log_softmax(self._head.logits(leaf), dim=-1)
                share = len(part) / len(tokens)
                kl = kl_div(q, p, reduction="sum", log_target=True) / len(part)
                partial = share * (kl + relative_distance(leaf.float(), wanted_part.float()))
            loss += partial.detach()
            if with_gradient:  # at once: no more logits than a part's are kept
                gradients.extend(torch.autograd.grad(partial, leaf))
        return loss, torch.cat(gradients).view_as(out) if gradients else torch.zeros_like(out)

    def parameters(self) -> list[Tensor]:
        layers = [layer for block in self.blocks for layer in block.values()]
        return [
            tensor
            for layer in layers
            for tensor in (layer.log_factor, *layer.adapter.parameters())
            if tensor.numel()
        ]
