"""LoftQ (Li et al., arXiv 2310.08659), the baseline that looks at the weights alone.

argmin ||W - Q - B A||: alternate rounding W - B A (here plain RTN) and the SVD of W - Q.
"""

import torch
from torch import Tensor

from apiq_core.adapters.lora import LowRank, no_adapter
from apiq_core.block import Block, BlockResult, QuantizedLayer
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.events import CheckStop
from apiq_core.quantizer import round_to_nearest

ALTERNATIONS = 5  # T of its algorithm 1


def quantize_block(block: Block, config: QuantizeConfig, check_stop: CheckStop) -> BlockResult:
    layers = {}
    for name, weight in block.linear_weights.items():
        check_stop()
        layers[name] = quantize_weight(weight, block.specs[name])
    return BlockResult(layers)


def quantize_weight(weight: Tensor, spec: LayerSpec) -> QuantizedLayer:
    """Algorithm 1 for one `weight` (O, I)."""
    adapter = no_adapter(weight)
    for _ in range(ALTERNATIONS):
        rounded = round_to_nearest(weight - adapter.product(), spec.bits, spec.group_size)
        adapter = _truncated_svd(weight - rounded.dequantize(), spec.rank)
    return QuantizedLayer(rounded, adapter.stored())


def _truncated_svd(difference: Tensor, rank: int) -> LowRank:
    u, sigma, vh = torch.linalg.svd(difference, full_matrices=False)
    root = sigma[:rank].sqrt()
    return LowRank(a=root.unsqueeze(1) * vh[:rank], b=u[:, :rank] * root)
