"""compressed-tensors, `pack-quantized`: read by transformers, PEFT on top, and vLLM at 4 bits.

Per layer `weight_packed` int32 (O, I*b/32), `weight_scale` fp16 (O, N), `weight_zero_point`
int32 (O*b/32, N) packed along O, `weight_shape` int64 (2). Fields are unsigned codes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apiq_core.config import LayerSpec
from apiq_core.packing import pack, unpack
from apiq_core.quantizer import QuantizedWeight


def pack_layer(weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors that replace `weight`, by the suffix of their name."""
    return {
        "weight_packed": pack(weight.codes, weight.bits),
        "weight_scale": weight.scales,
        "weight_zero_point": pack(weight.zero_points.T.contiguous(), weight.bits).T.contiguous(),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }


def unpack_layer(tensors: Mapping[str, Tensor], bits: int) -> QuantizedWeight:
    """The inverse of `pack_layer`."""
    return QuantizedWeight(
        codes=unpack(tensors["weight_packed"], bits),
        scales=tensors["weight_scale"],
        zero_points=unpack(tensors["weight_zero_point"].T.contiguous(), bits).T.contiguous(),
        bits=bits,
    )


def quantization_config(
    layers: Mapping[str, LayerSpec], dense_modules: list[str]
) -> dict[str, Any]:
    """What config.json carries; `layers`, by name inside the model, are all stored alike.

    `dense_modules` are linear layers that stay as they are.
    """
    ((bits, group_size),) = {(spec.bits, spec.group_size) for spec in layers.values()}
    per_channel = group_size <= 0
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        # transformers 5 refuses asymmetric zero points unless it dequantizes while loading
        "dequantize": True,
        "ignore": dense_modules,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "input_activations": None,
                "output_activations": None,
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": False,
                    "strategy": "channel" if per_channel else "group",
                    "group_size": None if per_channel else group_size,
                    "dynamic": False,
                },
            }
        },
    }
