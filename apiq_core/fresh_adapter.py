"""LoRA's own start (Hu et al., arXiv 2106.09685): A random, B zero, so that nothing is changed."""

import math

import torch
from torch import nn

from apiq_core.adapters.lora import LowRank
from apiq_core.block import Block


def fresh_adapters(block: Block, seed: int) -> dict[str, LowRank]:
    """A kaiming-uniform(sqrt 5) and B = 0 of each of the block's layers, as they are stored.

    Drawn from `seed` and the block's index, so that a resumed run draws the same.
    """
    generator = torch.Generator().manual_seed(seed + block.index)
    adapters = {}
    for name, weight in block.linear_weights.items():
        d_out, d_in = weight.shape
        rank = block.specs[name].rank
        a = torch.empty(rank, d_in)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
        adapters[name] = LowRank(a.to(weight.device), weight.new_zeros(d_out, rank)).stored()
    return adapters
