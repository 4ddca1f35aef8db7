"""Little-endian bitstreams of b-bit fields in int32 words, at every width.

At 3 bits 32 codes fill 3 words, and codes straddle words.
"""

import math

import torch
from torch import Tensor

WORD = 32
_WEIGHTS = 2 ** torch.arange(WORD, dtype=torch.int64)


def pack(fields: Tensor, bits: int) -> Tensor:
    """Pack the last dimension: uint8 (..., n) -> int32 (..., n * bits / 32)."""
    shifts = torch.arange(bits, dtype=torch.uint8, device=fields.device)
    stream = ((fields.unsqueeze(-1) >> shifts) & 1).flatten(-2)  # (..., n * bits), low bit first
    words = stream.reshape(*fields.shape[:-1], -1, WORD).to(torch.int64) @ _WEIGHTS.to(
        fields.device
    )
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: Tensor, bits: int) -> Tensor:
    """The inverse of `pack`: int32 (..., w) -> uint8 (..., w * 32 / bits)."""
    size = math.lcm(8, bits) // 8  # bytes that hold whole fields: 3 at 3 bits, else 1
    chunks = words.contiguous().view(torch.uint8)
    if size > 1:
        parts = chunks.unflatten(-1, (-1, size)).to(torch.int32)
        chunks = (
            parts << torch.arange(0, 8 * size, 8, dtype=torch.int32, device=words.device)
        ).sum(-1, dtype=torch.int32)
    shifts = torch.arange(0, 8 * size, bits, dtype=chunks.dtype, device=words.device)
    fields: Tensor = (chunks.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return fields.flatten(-2).to(torch.uint8)
