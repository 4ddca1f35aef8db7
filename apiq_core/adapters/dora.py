"""DoRA (Liu et al., arXiv 2402.09353): W = m V / ||V||, V = Q + B A, norms over each output's row.

The norm is of the dequantized Q plus B A, as PEFT takes it: with that of the full-precision weight
every row would be off by what rounding did to its length. PEFT holds the norm constant in its
backward pass to save memory (section 4.3); for one block at a time the exact gradient is cheap.

PEFT divides by the norm, also where it is 0: trained models have dead channels, and rounding makes
rows of zeros of small ones. In such a row B has a speck, and m is 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from apiq_core.adapters.lora import ADAPTER_DTYPE, LowRank, lora_config

MAGNITUDE = "lora_magnitude_vector"
LEAST_NORM = torch.finfo(ADAPTER_DTYPE).tiny  # of a row; factors and m hold less as 0, or nearly
SPECK = 2.0**-6


@dataclass
class Dora:
    SUFFIXES: ClassVar[tuple[str, ...]] = (*LowRank.SUFFIXES, MAGNITUDE)

    low_rank: LowRank
    magnitude: Tensor  # m (O)

    @classmethod
    def start(cls, q: Tensor, low_rank: LowRank, *, name: str, has_bias: bool) -> Self:
        """m is V's own norm, so that W is Q + B A."""
        v = low_rank.each(lambda factor: factor.to(q.dtype)).apply(q)
        norm = _row_norm(v)
        dead, longest = norm < LEAST_NORM, low_rank.a.float().norm(dim=1).argmax()
        a, b = low_rank.a.clone(), low_rank.b.clone()
        b[dead, longest] = SPECK
        if dead.all():  # so is A, fitted to a matrix of zeros
            a[longest, 0] = 1
        return cls(LowRank(a, b, low_rank.scaling), norm.masked_fill(dead, 0))

    @classmethod
    def read(cls, tensors: Mapping[str, Tensor]) -> Self:
        return cls(LowRank.read(tensors), tensors[MAGNITUDE])

    @staticmethod
    def peft_config(tensors: Mapping[str, Tensor], layer_count: int) -> dict[str, Any]:
        return lora_config(tensors, layer_count, use_dora=True)

    def apply(self, q: Tensor) -> Tensor:
        v = self.low_rank.apply(q)
        return (self.magnitude / _row_norm(v)).unsqueeze(1) * v

    def tensors(self) -> dict[str, Tensor]:
        return self.low_rank.tensors() | {MAGNITUDE: self.magnitude}

    def parameters(self) -> list[Tensor]:
        return [*self.low_rank.parameters(), self.magnitude]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(self.low_rank.each(change), change(self.magnitude))

    def stored(self) -> Self:
        return type(self)(self.low_rank.stored(), self.magnitude.to(ADAPTER_DTYPE))


def _row_norm(v: Tensor) -> Tensor:
    """(O, I) -> (O); a row of zeros stays zeros, with a finite gradient."""
    return v.square().sum(1).clamp(min=torch.finfo(v.dtype).tiny).sqrt()
