"""ApiQ-lw in closed form: one block, layer by layer, without a gradient step.

For each group of layers that share an input, in the order {q,k,v} -> o -> {gate,up} -> down:
sum H and K at their input, shift the target to W', then alternate GPTQ on W' - B A with the exact
B A for W' - Q (docs/explanation/method.md). What comes later sees the inputs that the layers before
it, already quantized, really give.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from apiq_core.block import Block, Layers, QuantizedLayer, student_weights
from apiq_core.config import LayerSpec
from apiq_core.gptq import gptq, inverse_factor
from apiq_core.gram import Grams, accumulate
from apiq_core.lowrank import exact_low_rank

# a of W'. On SmolLM2-135M, 2 bits, 8,192 tokens: perplexity 69.9 at 1, 58.5 at 0.5, and 60.8 with
# the best a of each layer on held-out tokens
TARGET_STRENGTH = 0.5
ALTERNATIONS = 2  # of GPTQ and the exact low rank


def closed_form(block: Block, check_stop: Callable[[], None]) -> Layers:
    """Quantize the block's layers and fit their adapters; the result is what will be stored."""
    layers: Layers = {}
    student = dict(block.teacher)
    for names in block.input_groups:
        check_stop()
        grams = accumulate(block, student, names[0])
        weights = {name: block.linear_weights[name] for name in names}
        layers |= quantize_layers(weights, grams, block.specs)
        student = student_weights(block.teacher, layers)
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
    low_rank = torch.zeros_like(target)
    for _ in range(ALTERNATIONS if any(ranks) else 1):
        quantized = gptq(target - low_rank, factor, bits, group_size)
        difference = (target - quantized.dequantize()).split(sizes)
        adapters = [
            exact_low_rank(part, grams.h, rank)
            for part, rank in zip(difference, ranks, strict=True)
        ]
        low_rank = torch.cat([adapter.product() for adapter in adapters])
    return {
        name: QuantizedLayer(weight, adapter.stored())
        for name, weight, adapter in zip(weights, quantized.split(sizes), adapters, strict=True)
    }
