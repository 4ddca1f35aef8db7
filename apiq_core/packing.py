"""Little-endian bitstreams of b-bit fields in int32 words, at every width.

At 3 bits 32 codes fill 3 words, and codes straddle words.
"""

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
    shifts = torch.arange(WORD, dtype=torch.int32, device=words.device)
    stream = ((words.unsqueeze(-1) >> shifts) & 1).reshape(*words.shape[:-1], -1, bits)
    values = 1 << torch.arange(bits, dtype=torch.int32, device=words.device)
    return (stream * values).sum(-1).to(torch.uint8)
