"""A checkpoint's folder with other integers in it, in the layout that quantize jobs publish."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from apiq_core.checkpoint import BACKEND, disk_errors, write_tensors, write_text
from apiq_core.config import PER_CHANNEL, LayerSpec
from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.finetune.packed.packed_model import SUFFIXES, layout_of, packed_layers
from apiq_core.formats import compressed_tensors
from apiq_core.inspect import COMPANIONS, INDEX_FILE, read_json, weight_files

REPLACED = ("weight", *SUFFIXES)  # of a layer's tensors


def write_checkpoint(model: nn.Module, source_dir: Path, target: Path) -> None:
    """The checkpoint in `source_dir` with the packed layers of `model`, in `target`.

    Files keep their names, all other tensors their bytes, and a quantized base its config.json:
    bits and groups are those that it has.
    """
    layers = packed_layers(model)
    with disk_errors():
        target.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    size_bytes = 0
    for file in weight_files(source_dir):
        tensors = _replace(load_file(file, backend=BACKEND), layers)
        write_tensors(target / file.name, tensors)
        weight_map |= dict.fromkeys(tensors, file.name)
        size_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if (source_dir / INDEX_FILE).is_file():
        index = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
        write_text(target / INDEX_FILE, json.dumps(index, indent=2) + "\n")
    with disk_errors():
        for name in COMPANIONS:
            if (source_dir / name).is_file():
                shutil.copyfile(source_dir / name, target / name)
    config = _config(model, layers, source_dir)
    write_text(target / "config.json", json.dumps(config, indent=2))


def _replace(tensors: dict[str, Tensor], layers: Mapping[str, PackedLinear]) -> dict[str, Tensor]:
    """The tensors of one file with those of `layers` in their place."""
    replaced = dict(tensors)
    for name, layer in layers.items():
        names = {suffix: f"{name}.{suffix}" for suffix in REPLACED}
        old = {suffix: replaced.pop(full) for suffix, full in names.items() if full in replaced}
        if old:
            new = layout_of(old).pack_layer(layer.integers())
            replaced |= {f"{name}.{suffix}": tensor for suffix, tensor in new.items()}
    return replaced


def _config(
    model: nn.Module, layers: Mapping[str, PackedLinear], source_dir: Path
) -> dict[str, Any]:
    config = read_json(source_dir / "config.json")
    if "quantization_config" in config:
        return config
    dense = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in layers]
    return config | {
        "quantization_config": compressed_tensors.quantization_config(_specs(layers), dense)
    }


def _specs(layers: Mapping[str, PackedLinear]) -> dict[str, LayerSpec]:
    per_channel = all(layer.group_size == layer.in_features for layer in layers.values())
    return {
        name: LayerSpec(layer.bits, PER_CHANNEL if per_channel else layer.group_size, rank=0)
        for name, layer in layers.items()
    }
