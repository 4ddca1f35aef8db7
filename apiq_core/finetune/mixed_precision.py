"""Products in the dtype that the hardware is fast in; everything else in the one it is exact in."""

import torch
from transformers import PreTrainedModel

from apiq_core.device import compute_dtype, matmul_dtype
from apiq_core.skeleton import find_blocks


def use_matmul_dtype(model: PreTrainedModel, device: torch.device) -> None:
    """Matrix products inside the blocks in bf16 where there is hardware for it."""
    dtype = matmul_dtype(device)
    if dtype == compute_dtype(device):
        return
    for block in find_blocks(model)[1]:
        block.forward = torch.autocast(device.type, dtype, cache_enabled=False)(block.forward)
