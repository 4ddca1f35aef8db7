"""What an artifact holds in place of a layer's weight."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class StoredWeight(Protocol):
    """Packed integers (`QuantizedWeight`), or the values themselves."""

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Q (O, I), as a reader of the checkpoint gets it."""


@dataclass
class DenseWeight:
    """Values that need no grid to be stored."""

    values: Tensor  # (O, I)

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.values.to(dtype)
