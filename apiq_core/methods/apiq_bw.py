"""ApiQ-bw: argmin ||F(W, X) - F(Q, A, B, Xq)|| per block (eq. 5).

`paper` starts at plain RTN with B = 0 and trains clipping and adapter for many epochs; `fast`
starts at the closed form of ApiQ-lw and trains scales and adapter for a few; `best` trains the
rounding and the zero points too (`lr_rounding`), and an end-to-end polish follows the last block.
An adapter that is no LoRA starts at the same weights, and what it has of its own is trained along.
"""

import torch
from torch.nn.functional import mse_loss

from apiq_core.adapters import ADAPTERS, Adapter
from apiq_core.adapters.lora import LowRank
from apiq_core.block import Block, BlockResult, Layers, QuantizedLayer
from apiq_core.closed_form.warm_start import closed_form
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.gradient.clipping_student import ClippingStudent
from apiq_core.gradient.optimise import Objective, Student, relative_distance, train_block
from apiq_core.gradient.rounding_student import RoundingStudent
from apiq_core.gradient.scale_student import ScaleStudent

PAPER = Objective(same_input=True, shuffle=False, cosine=False, distance=mse_loss)
FROM_CLOSED_FORM = Objective(
    same_input=False, shuffle=True, cosine=True, distance=relative_distance
)


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    seed = config.seed + block.index  # per block, so that a resumed run draws the same
    adapter = ADAPTERS[config.adapter]
    student: Student
    if config.recipe == "paper":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student, objective = ClippingStudent(block, adapter), PAPER
    else:
        start = adapted(closed_form(block, check_stop), adapter, block)
        trains_rounding = bool(config.training.lr_rounding)
        student = RoundingStudent(start) if trains_rounding else ScaleStudent(start)
        objective = FROM_CLOSED_FORM
    return train_block(block, student, config.training, objective, seed=seed, check_stop=check_stop)


def adapted(layers: Layers, adapter: type[Adapter], block: Block) -> Layers:
    """The same quantized weights, with adapters of a kind that start from their low rank."""
    result: Layers = {}
    for name, layer in layers.items():
        assert isinstance(layer.adapter, LowRank)  # what the closed form fits
        q, has_bias = layer.weight.dequantize(), block.has_bias(name)
        start = adapter.start(q, layer.adapter, name=name, has_bias=has_bias)
        result[name] = QuantizedLayer(layer.weight, start.stored())
    return result
