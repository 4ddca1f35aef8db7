"""ApiQ-bw: argmin ||F(W, X) - F(Q, A, B, Xq)|| per block (eq. 5).

`paper` starts at plain RTN with B = 0 and trains clipping and adapter for many epochs; `fast`
starts at the closed form of ApiQ-lw and trains scales and adapter for a few; `best` trains the
rounding and the zero points too, and an end-to-end polish follows the last block. An adapter that
is no LoRA starts at the same weights, and what it has of its own is trained along.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import mse_loss

from apiq_core.adapters import ADAPTERS, Adapter
from apiq_core.adapters.lora import LowRank
from apiq_core.block import Block, BlockResult, Layers, QuantizedLayer
from apiq_core.clipping_student import ClippingStudent
from apiq_core.config import QuantizeConfig
from apiq_core.optimise import Recipe, Student, relative_distance, train_block
from apiq_core.rounding_student import RoundingStudent
from apiq_core.scale_student import ScaleStudent
from apiq_core.warm_start import closed_form

PAPER = Recipe(same_input=True, shuffle=False, cosine=False, distance=mse_loss)
FROM_CLOSED_FORM = Recipe(same_input=False, shuffle=True, cosine=True, distance=relative_distance)


def quantize_block(
    block: Block, config: QuantizeConfig, check_stop: Callable[[], None]
) -> BlockResult:
    seed = config.seed + block.index  # per block, so that a resumed run draws the same
    adapter = ADAPTERS[config.adapter]
    student: Student
    if config.recipe == "paper":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student, recipe = ClippingStudent(block, adapter), PAPER
    else:
        start = adapted(closed_form(block, check_stop), adapter, block)
        student = RoundingStudent(start) if config.recipe == "best" else ScaleStudent(start)
        recipe = FROM_CLOSED_FORM
    return train_block(block, student, config.training, recipe, seed=seed, check_stop=check_stop)


def adapted(layers: Layers, adapter: type[Adapter], block: Block) -> Layers:
    """The same quantized weights, with adapters of a kind that start from their low rank."""
    result: Layers = {}
    for name, layer in layers.items():
        assert isinstance(layer.adapter, LowRank)  # what the closed form fits
        q, has_bias = layer.weight.dequantize(), block.has_bias(name)
        start = adapter.start(q, layer.adapter, name=name, has_bias=has_bias)
        result[name] = QuantizedLayer(layer.weight, start.stored())
    return result
