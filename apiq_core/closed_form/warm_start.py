"""ApiQ-lw in closed form: one block, layer by layer, without a gradient step.

For each group of layers that share an input, in the order {q,k,v} -> o -> {gate,up} -> down:
sum H and K at their input, shift the target to W', round it by GPTQ, fit the exact B A for W' - Q,
then alternate between a better Q for W' - B A and the B A for it (docs/explanation/method.md). What
comes later sees the inputs that the layers before it, already quantized, really give.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from apiq_core.adapters.lora import LowRank
from apiq_core.block import Block, Layers, QuantizedLayer, student_weights
from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.gram import Grams, accumulate
from apiq_core.closed_form.lowrank import exact_low_rank
from apiq_core.closed_form.refine import refine
from apiq_core.config import LayerSpec
from apiq_core.device import return_freed_memory
from apiq_core.events import CheckStop
from apiq_core.quantizer import QuantizedWeight

# a of W'. On SmolLM2-135M, 2 bits, 8,192 tokens: perplexity 69.9 at 1, 58.5 at 0.5, and 60.8 with
# the best a of each layer on held-out tokens
TARGET_STRENGTH = 0.5
REFINEMENTS = 2  # rounds over codes and scales, each followed by the exact low rank


def closed_form(block: Block, check_stop: CheckStop) -> Layers:
    """Quantize the block's layers and fit their adapters; the result is what will be stored."""
    layers: Layers = {}
    student = dict(block.teacher)
    for names in block.input_groups:
        check_stop()
        grams = accumulate(block, student, names[0])
        weights = {name: block.linear_weight(name) for name in names}
        layers |= quantize_layers(weights, grams, block.specs)
        student = student_weights(block.teacher, layers)
        del grams, weights
        return_freed_memory()
    return layers


def quantize_layers(
    weights: dict[str, Tensor], grams: Grams, specs: Mapping[str, LayerSpec]
) -> Layers:
    """The layers that share one input, at one width and group size. `weights` are (O, I)."""
    ranks = [specs[name].rank for name in weights]
    ((bits, group_size),) = {(specs[name].bits, specs[name].group_size) for name in weights}
    factor = inverse_factor(grams.h)
    sizes = [len(weight) for weight in weights.values()]
    target = grams.target(torch.cat(list(weights.values())), TARGET_STRENGTH)  # (all O, I)
    quantized = gptq(target, factor, bits, group_size)
    adapters = _fit(target, quantized, grams.h, ranks, sizes)
    for _ in range(REFINEMENTS):
        low_rank = torch.cat([adapter.product() for adapter in adapters])
        quantized = refine(target - low_rank, quantized, grams.h)
        adapters = _fit(target, quantized, grams.h, ranks, sizes)
    return {
        name: QuantizedLayer(weight, adapter.stored())
        for name, weight, adapter in zip(weights, quantized.split(sizes), adapters, strict=True)
    }


def _fit(
    target: Tensor, quantized: QuantizedWeight, gram: Tensor, ranks: list[int], sizes: list[int]
) -> list[LowRank]:
    """The exact adapter of each layer, of so many output channels."""
    difference = (target - quantized.dequantize()).split(sizes)
    return [exact_low_rank(part, gram, rank) for part, rank in zip(difference, ranks, strict=True)]
