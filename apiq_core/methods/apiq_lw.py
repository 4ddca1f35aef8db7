"""ApiQ-lw: argmin ||X W - Xq (Q + A B^T)|| per linear layer (eq. 4).

`closed-form` solves it without a gradient step; `paper` trains clipping and adapter as published.
"""

from apiq_core.block import Block, BlockResult
from apiq_core.closed_form.warm_start import closed_form
from apiq_core.config import QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.gradient.layerwise import train_layers


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    if config.recipe == "paper":
        seed = config.seed + block.index
        return train_layers(block, config.training, seed=seed, check_stop=check_stop)
    return BlockResult(closed_form(block, check_stop))
