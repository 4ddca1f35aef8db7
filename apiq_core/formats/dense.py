"""Plain bf16 weights, the values that the codes stand for: every tool reads them.

Legal for every method (the polish needs integers), and the only format for weights that lie on no
uniform grid. As large as the original; what a method's codes and scales take is in the report's
bits per weight.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from apiq_core.config import LayerSpec
from apiq_core.stored_weight import DenseWeight, StoredWeight


def pack_layer(weight: StoredWeight) -> dict[str, Tensor]:
    """The tensors that replace `weight`, by the suffix of their name."""
    return {"weight": weight.dequantize().to(torch.bfloat16)}


def unpack_layer(tensors: Mapping[str, Tensor], bits: int) -> DenseWeight:
    """What `pack_layer` left of the weight."""
    return DenseWeight(tensors["weight"])


def quantization_config(layers: Mapping[str, LayerSpec], dense_modules: list[str]) -> None:
    """Nothing: readers are to take the file for what it looks like."""
