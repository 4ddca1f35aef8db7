"""ApiQ-lw: argmin ||X W - Xq (Q + A B^T)|| per linear layer, in closed form (eq. 4)."""

from collections.abc import Callable

from apiq_core.block import Block, BlockResult
from apiq_core.config import QuantizeConfig
from apiq_core.warm_start import closed_form


def quantize_block(
    block: Block, config: QuantizeConfig, check_stop: Callable[[], None]
) -> BlockResult:
    return BlockResult(closed_form(block, check_stop))
