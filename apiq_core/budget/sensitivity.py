"""What an error at the output of each linear layer costs the network, measured.

A small error d_t at a layer's output for token t raises KL(full precision || network) by
1/2 E (g_t . d_t)^2 in the long run, with g_t the gradient of the loss there and labels drawn from
the network itself (its Fisher information). An error whose direction is not known and whose size
follows that of the layer's input, |d_t|^2 ~ |x_t|^2, so costs, in nats per token,

    sensitivity * mean_t |d_t|^2,    sensitivity = sum_t |g_t|^2 |x_t|^2 / (2 O sum_t |x_t|^2).

Weighing by |x_t|^2 matters where a few tokens have massive activations: they own the mean of
|d_t|^2, and later norms make them harmless.

One pass forward keeps every block's input, one backward goes from block to block.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from apiq_core.checkpoint import Checkpoint
from apiq_core.events import CheckStop
from apiq_core.skeleton import LOGIT_TOKENS, Skeleton, Weights, run_block


def sensitivities(
    skeleton: Skeleton,
    source: Checkpoint,
    hidden: Tensor,
    calls: list[dict[str, Any]],
    *,
    seed: int,
    check_stop: CheckStop,
) -> list[dict[str, float]]:
    """By block and layer name, nats per token for a unit of mean |d|^2.

    `hidden` (windows, length, width) before block 0.
    """
    inputs = []
    for index, module in enumerate(skeleton.blocks):
        check_stop()
        inputs.append(hidden)
        teacher = skeleton.load_block(source, index)
        with torch.no_grad():
            hidden = torch.cat(
                [
                    run_block(module, teacher, window.to(skeleton.device), calls[index]).cpu()
                    for window in hidden.split(1)
                ]
            )
    gradient = _loss_gradient(skeleton, source, hidden, seed)
    found: list[dict[str, float]] = []
    for index in reversed(range(len(skeleton.blocks))):
        check_stop()
        teacher = skeleton.load_block(source, index)
        sums: dict[str, tuple[float, float]] = {}
        for x, g in zip(inputs[index].split(1), gradient.split(1), strict=True):
            g.copy_(_backward(skeleton, index, teacher, x, g, calls[index], sums))
        found.insert(0, {name: weighted / size for name, (weighted, size) in sums.items()})
        inputs.pop()
    return found


def _loss_gradient(skeleton: Skeleton, source: Checkpoint, hidden: Tensor, seed: int) -> Tensor:
    """Of the sum over tokens of the negative log-likelihood of labels that the network draws."""
    head = skeleton.head(source)
    generator = torch.Generator(skeleton.device).manual_seed(seed)
    gradients = []
    for part in hidden.flatten(0, 1).split(LOGIT_TOKENS):
        states = part.to(skeleton.device).requires_grad_()
        logits = head.logits(states)
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        loss = cross_entropy(logits, labels.squeeze(1), reduction="sum")
        gradients.append(torch.autograd.grad(loss, states)[0].cpu())
    return torch.cat(gradients).view_as(hidden)


def _backward(
    skeleton: Skeleton,
    index: int,
    teacher: Weights,
    hidden: Tensor,
    gradient: Tensor,
    call: dict[str, Any],
    sums: dict[str, tuple[float, float]],
) -> Tensor:
    """The gradient at a block's input; adds to the two `sums` of each layer."""
    block = skeleton.blocks[index]
    outputs: dict[str, Tensor] = {}
    energies: dict[str, Tensor] = {}  # |x_t|^2 (tokens)
    with ExitStack() as hooks:
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):

                def take(
                    _: nn.Module, args: tuple[Tensor, ...], out: Tensor, name: str = name
                ) -> None:
                    outputs[name] = out
                    energies[name] = args[0].detach().float().square().sum(-1).flatten()

                hooks.callback(module.register_forward_hook(take).remove)
        states = hidden.to(skeleton.device).requires_grad_()
        out = run_block(block, teacher, states, call)
    wanted = [states, *outputs.values()]
    at_input, *at_outputs = torch.autograd.grad(out, wanted, gradient.to(out))
    for (name, output), g in zip(outputs.items(), at_outputs, strict=True):
        weighted = g.float().square().sum(-1).flatten() @ energies[name]
        before = sums.get(name, (0.0, 0.0))
        sums[name] = (
            before[0] + float(weighted) / (2 * output.shape[-1]),
            before[1] + float(energies[name].sum()),
        )
    return at_input.cpu()
