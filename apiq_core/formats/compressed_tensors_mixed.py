"""compressed-tensors with a width of its own for every layer.

Per layer `weight_packed` int32 (O, I*b/32), `weight_scale` fp16 (O, N), `weight_zero_point` int8
(O, N), `weight_shape` int64 (2). Codes are unsigned fields, zero points are less 2^(b-1).

Groups are declared as blocks of 1 x G. transformers 5.23 and 5.24 leave no other way: with
`dequantize` they read all layers at the width of the first of `config_groups`, and without it they
refuse the packed zero points of the strategy `group`; those of `block` are not packed. So the
layers stay packed until the first forward pass, and whoever puts an adapter on them unpacks first:
`model.hf_quantizer.compressor.decompress_model(model)`.
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
    middle = 2 ** (weight.bits - 1)
    return {
        "weight_packed": pack(weight.codes, weight.bits),
        "weight_scale": weight.scales,
        "weight_zero_point": (weight.zero_points.to(torch.int16) - middle).to(torch.int8),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }


def unpack_layer(tensors: Mapping[str, Tensor], bits: int) -> QuantizedWeight:
    """The inverse of `pack_layer`."""
    zero_points = tensors["weight_zero_point"].to(torch.int16) + 2 ** (bits - 1)
    return QuantizedWeight(
        codes=unpack(tensors["weight_packed"], bits),
        scales=tensors["weight_scale"],
        zero_points=zero_points.to(torch.uint8),
        bits=bits,
    )


def is_format_of(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint of this config.json is stored so."""
    groups = config.get("quantization_config", {}).get("config_groups", {}).values()
    return any(group["weights"]["strategy"] == "block" for group in groups)


def quantization_config(
    layers: Mapping[str, LayerSpec], dense_modules: list[str]
) -> dict[str, Any]:
    """What config.json carries; `layers` by name inside the model, in groups of inputs.

    `dense_modules` are linear layers that stay as they are.
    """
    names_by_scheme: dict[tuple[int, int], list[str]] = {}
    for name, spec in layers.items():
        names_by_scheme.setdefault((spec.bits, spec.group_size), []).append(name)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": dense_modules,
        "config_groups": {
            f"group_{number}": {
                "targets": names,
                "input_activations": None,
                "output_activations": None,
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": False,
                    "strategy": "block",
                    "block_structure": [1, group_size],
                    "dynamic": False,
                },
            }
            for number, ((bits, group_size), names) in enumerate(sorted(names_by_scheme.items()))
        },
    }
