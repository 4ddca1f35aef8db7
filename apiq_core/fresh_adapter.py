"""Adapters as LoRA itself starts (Hu et al., arXiv 2106.09685), for baselines that fit none."""

import torch

from apiq_core.adapters.lora import LowRank, random_start
from apiq_core.block import Block


def fresh_adapters(block: Block, seed: int) -> dict[str, LowRank]:
    """One for each of the block's layers, as it is stored.

    Drawn from `seed` and the block's index, so that a resumed run draws the same.
    """
    generator = torch.Generator().manual_seed(seed + block.index)
    return {
        name: random_start(weight, block.specs[name].rank, generator=generator).stored()
        for name, weight in block.linear_weights.items()
    }
