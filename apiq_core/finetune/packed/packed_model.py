"""A causal language model as it is trained: quantized layers packed, everything else as stored."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from apiq_core.checkpoint import Checkpoint
from apiq_core.config import PER_CHANNEL
from apiq_core.errors import UserError
from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.formats import compressed_tensors, compressed_tensors_mixed
from apiq_core.inspect import check_architecture, inspect_model, read_json
from apiq_core.packing import WORD

PACKED = "weight_packed"
COMPUTED = "rotary_emb.inv_freq"  # stored by Llama-2, computed today
SUFFIXES = (PACKED, "weight_scale", "weight_zero_point", "weight_shape")


def load_model(model_dir: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint in `model_dir`, frozen: a quantize job's `model/`, or a full-precision one.

    Weights that are not packed, and activations, are of `dtype`. Raises `UserError` for what
    `inspect_model` refuses, but for packed weights.
    """
    if "quantization_config" in (stored := read_json(model_dir / "config.json")):
        check_architecture(stored)
    else:
        inspect_model(model_dir)
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # its reader would make dense weights of the integers
    config.attention_dropout = 0.0  # resumed is to be what went through
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
    with Checkpoint(model_dir) as source:
        _load(model, source, dtype)
    model.tie_weights()
    _check_whole(model)
    model.config.use_cache = False
    module: nn.Module = model
    module.to(device).requires_grad_(False).eval()
    return model


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    return {n: module for n, module in model.named_modules() if isinstance(module, PackedLinear)}


def packed_width(model: nn.Module) -> dict[str, Any]:
    """`bits` of a code, the mean over all packed weights, and their `group_size`; None without."""
    layers = list(packed_layers(model).values())
    if not layers:
        return {"bits": None, "group_size": None}
    counts = [layer.in_features * layer.out_features for layer in layers]
    bits = sum(n * layer.bits for n, layer in zip(counts, layers, strict=True)) / sum(counts)
    whole_rows = all(layer.group_size == layer.in_features for layer in layers)
    return {"bits": bits, "group_size": PER_CHANNEL if whole_rows else layers[0].group_size}


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def layout_of(tensors: Mapping[str, torch.Tensor]) -> ModuleType:
    """The format of a layer's tensors, or the one that a dense layer's are to become.

    Zero points are packed where all layers are of one width, and else are bytes.
    """
    zero_points = tensors.get("weight_zero_point")
    is_mixed = zero_points is not None and zero_points.dtype == torch.int8
    return compressed_tensors_mixed if is_mixed else compressed_tensors


def _load(model: nn.Module, source: Checkpoint, dtype: torch.dtype) -> None:
    dense: dict[str, torch.Tensor] = {}
    for name in source.names:
        owner, _, suffix = name.rpartition(".")
        if suffix == PACKED:
            replace_layer(model, owner, _read(source, owner, dtype))
        elif f"{owner}.{PACKED}" not in source and not name.endswith(COMPUTED):
            dense[name] = source.load(name, dtype)
    try:
        unknown = model.load_state_dict(dense, strict=False, assign=True).unexpected_keys
    except RuntimeError as error:  # of other shapes than config.json promises
        raise UserError(
            "corrupt_weights", str(error).splitlines()[-1].strip(), param="base"
        ) from None
    if unknown:
        raise UserError("corrupt_weights", f"the model has no {unknown[0]}", param="base")


def _read(source: Checkpoint, name: str, dtype: torch.dtype) -> PackedLinear:
    tensors = {suffix: source.load(f"{name}.{suffix}") for suffix in SUFFIXES}
    bits = WORD * tensors[PACKED].shape[1] // int(tensors["weight_shape"][1])
    bias = source.load(f"{name}.bias", dtype) if f"{name}.bias" in source else None
    return PackedLinear(layout_of(tensors).unpack_layer(tensors, bits), bias)


def _check_whole(model: nn.Module) -> None:
    empty = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if empty:
        raise UserError("corrupt_weights", f"the checkpoint has no {empty[0]}", param="base")
