"""Bits and rank of every layer under a budget: what `bits_per_weight` asks for.

On a few windows, before anything is quantized: for every width GPTQ's residual of each layer, in
the metric of its Gram matrix, and what the best factors of every rank leave of it; times what an
error of that layer costs the network. `allocate` then spends the bytes. Layers that share an input
share their width (q, k and v; gate and up), so that a reader may fuse them; ranks are each layer's
own.
"""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from apiq_core.budget.allocate import Option, allocate
from apiq_core.budget.plan import (
    MIXED_ZERO_POINT_BITS,
    Plan,
    factor_bytes,
    weight_bytes,
)
from apiq_core.budget.sensitivity import sensitivities
from apiq_core.checkpoint import Checkpoint
from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.gram import damp
from apiq_core.closed_form.lowrank import residuals
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.inspect import LinearShape, ModelFacts
from apiq_core.resolve import packable_widths
from apiq_core.skeleton import Skeleton, Weights, input_groups, layer_inputs, run_block

GRAM_WINDOWS = 16
SENSITIVITY_WINDOWS = 4
RANKS = (0, 1, 2, 4, 8, 16, 32, 64)

Losses = dict[tuple[int, int], float]  # of one layer, by bits and rank


def make_plan(
    skeleton: Skeleton,
    source: Checkpoint,
    hidden: Tensor,
    calls: list[dict[str, Any]],
    config: QuantizeConfig,
    facts: ModelFacts,
    check_stop: CheckStop,
) -> Plan:
    """The plan for `config.bits_per_weight`; deterministic.

    `hidden` (windows, length, width): what is calibrated on, before block 0.
    """
    if config.bits_per_weight is None or config.group_size is None:
        raise ValueError("the config has no budget, or is not resolved")
    budget_bytes = config.bits_per_weight * facts.quantized_weight_count / 8
    shapes = {layer.name: layer for layer in facts.linears}
    widths = packable_widths(facts)
    costs = sensitivities(
        skeleton,
        source,
        hidden[:SENSITIVITY_WINDOWS],
        calls,
        seed=config.seed,
        check_stop=check_stop,
    )
    hidden = hidden[:GRAM_WINDOWS].clone()
    groups: list[list[Option]] = []
    for index, module in enumerate(skeleton.blocks):
        teacher = skeleton.load_block(source, index)
        first_window = hidden[:1].to(skeleton.device)
        names_by_input = input_groups(module, teacher, first_window, calls[index])
        grams = _step(module, teacher, hidden, calls[index], names_by_input, skeleton.device)
        for names, gram in zip(names_by_input, grams, strict=True):
            check_stop()
            weights = {name: teacher[f"{name}.weight"].float() for name in names}
            losses = layer_losses(weights, gram, widths, config.group_size)
            for name in names:
                losses[name] = {k: costs[index][name] * v for k, v in losses[name].items()}
            groups.append(group_options(losses, shapes, config.group_size))
    plan: list[dict[str, LayerSpec]] = [{} for _ in skeleton.blocks]
    per_block = len(groups) // len(plan)
    for position, option in enumerate(allocate(groups, budget_bytes)):
        plan[position // per_block] |= option.choice
    return plan


def layer_losses(
    weights: dict[str, Tensor], gram: Tensor, widths: tuple[int, ...], group_size: int
) -> dict[str, Losses]:
    """Mean squared output error of each of the layers with one input, by bits and rank.

    `weights` (O, I) by name, `gram` the damped H (I, I).
    """
    together = torch.cat(list(weights.values()))
    sizes = [len(weight) for weight in weights.values()]
    factor = inverse_factor(gram)
    losses: dict[str, Losses] = {name: {} for name in weights}
    for bits in widths:
        difference = together - gptq(together, factor, bits, group_size).dequantize()
        for name, part in zip(weights, difference.split(sizes), strict=True):
            ranks = [rank for rank in RANKS if rank <= min(part.shape)]
            for rank, loss in zip(ranks, residuals(part, gram, ranks), strict=True):
                losses[name][bits, rank] = loss
    return losses


def group_options(
    losses: dict[str, Losses], shapes: dict[str, LinearShape], group_size: int
) -> list[Option]:
    """Every way to store the layers of one input: one width, each with a rank of its own."""
    options = []
    for width in sorted({bits for layer in losses.values() for bits, _ in layer}):
        ranks_by_layer = [
            [rank for bits, rank in layer if bits == width] for layer in losses.values()
        ]
        for ranks in product(*ranks_by_layer):
            specs = {
                name: LayerSpec(width, group_size, rank)
                for name, rank in zip(losses, ranks, strict=True)
            }
            size_bytes = sum(
                weight_bytes(shapes[name], spec, MIXED_ZERO_POINT_BITS)
                + factor_bytes(shapes[name], spec.rank)
                for name, spec in specs.items()
            )
            loss = sum(losses[name][width, spec.rank] for name, spec in specs.items())
            options.append(Option(size_bytes, loss, specs))
    return options


@torch.no_grad()
def _step(
    module: torch.nn.Module,
    teacher: Weights,
    hidden: Tensor,
    call: dict[str, Any],
    names_by_input: list[list[str]],
    device: torch.device,
) -> list[Tensor]:
    """The damped H of each input of a block, as a mean over tokens; moves `hidden` on in place."""
    sums: list[Tensor] = []
    for window in hidden.split(1):
        states = window.to(device)
        inputs = layer_inputs(module, teacher, states, call)
        for position, names in enumerate(names_by_input):
            x = inputs[names[0]].flatten(0, -2).float()
            if position == len(sums):
                sums.append(x.new_zeros(x.shape[1], x.shape[1]))
            sums[position].addmm_(x.T, x)
        window.copy_(run_block(module, teacher, states, call))
    tokens = hidden.shape[0] * hidden.shape[1]
    return [damp(total / tokens) for total in sums]
