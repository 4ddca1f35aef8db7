"""What a run leaves on disk: per block while it works, `model/` and `adapter/` at the end.

    out_dir/blocks/00007.safetensors    its packed weights become
                                        model/model-00008-of-00031.safetensors, its adapters
                                        go into adapter/adapter_model.safetensors

A block's file is renamed into place when all of it is written, so it is whole or not there.
Its metadata holds what a later run needs to take the block over: its report and its identity.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from apiq_core.adapters import ADAPTERS, PEFT_PREFIX
from apiq_core.adapters.lora import no_adapter
from apiq_core.block import BlockResult, Layers, QuantizedLayer
from apiq_core.budget.plan import Plan
from apiq_core.checkpoint import BACKEND, Checkpoint, disk_errors, write_tensors, write_text
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.formats import FORMATS, MIXED
from apiq_core.inspect import COMPANIONS, INDEX_FILE, read_json
from apiq_core.layout import block_file, blocks_dir, polished_dir, polished_file
from apiq_core.skeleton import Skeleton, Weights


@dataclass
class Artifact:
    """The files of one run. `config` is resolved."""

    out_dir: Path
    skeleton: Skeleton
    config: QuantizeConfig
    plan: Plan

    def __post_init__(self) -> None:
        self.adapter_bytes = 0  # of the adapter's tensors, once it is written
        formats = FORMATS if self.config.bits_per_weight is None else MIXED
        self._format = formats[self.config.main_format()]
        self._adapter = ADAPTERS[self.config.adapter]
        self._polished = False  # the blocks to read are those that the polish left

    def write_block(
        self,
        index: int,
        teacher: Weights,
        source: Checkpoint,
        result: BlockResult,
        metadata: Mapping[str, str],
    ) -> None:
        """Pack one block; what is not a quantized weight keeps the source's dtype and, unless it
        was rescaled, bytes."""
        prefix = self.skeleton.block_name(index)
        layers, rescaled = result.layers, result.rescaled or teacher
        quantized = {f"{name}.weight" for name in layers}
        tensors: dict[str, Tensor] = {}
        for name in teacher:
            if name in quantized:
                continue
            tensor = source.load(f"{prefix}.{name}")
            if rescaled[name] is not teacher[name]:
                tensor = rescaled[name].to(tensor.dtype)
            tensors[f"{prefix}.{name}"] = tensor
        tensors |= self._layer_tensors(prefix, layers)
        with disk_errors():
            blocks_dir(self.out_dir).mkdir(parents=True, exist_ok=True)
        write_tensors(block_file(self.out_dir, index), tensors, metadata)

    def read_block(self, index: int) -> Layers:
        """The layers as they were stored: what is evaluated is what will be loaded."""
        prefix = self.skeleton.block_name(index)
        stored = load_file(self._file(index), device=str(self.skeleton.device), backend=BACKEND)
        layers: Layers = {}
        for name in self.skeleton.linears:
            start = f"{prefix}.{name}."
            tensors = {k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)}
            weight = self._format.unpack_layer(tensors, self.plan[index][name].bits)
            if tensors.keys() >= set(self._adapter.SUFFIXES):
                layers[name] = QuantizedLayer(weight, self._adapter.read(tensors))
            else:
                none = no_adapter(torch.empty(weight.shape, device=self.skeleton.device))
                layers[name] = QuantizedLayer(weight, none)
        return layers

    def read_rest(self, index: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The block's other tensors as they were stored, in `dtype`."""
        prefix = self.skeleton.block_name(index) + "."
        linear = tuple(f"{name}." for name in self.skeleton.linears)
        with safe_open(self._file(index), framework="pt", backend=BACKEND) as stored:
            names = [key.removeprefix(prefix) for key in stored.keys()]  # noqa: SIM118
            return {
                name: stored.get_tensor(prefix + name).to(self.skeleton.device, dtype)
                for name in names
                if not name.startswith(linear) or name.endswith(".bias")
            }

    def replace_layers(self, layers_of: Callable[[int], Layers]) -> None:
        """Put other layers in the place of every block's.

        The blocks' own files stay until the end: an interrupted run goes on from them.
        """
        with disk_errors():
            polished_dir(self.out_dir).mkdir(parents=True, exist_ok=True)
        for index in range(len(self.skeleton.blocks)):
            tensors = load_file(block_file(self.out_dir, index), backend=BACKEND)
            tensors |= self._layer_tensors(self.skeleton.block_name(index), layers_of(index))
            write_tensors(polished_file(self.out_dir, index), tensors)
        self._polished = True

    def _file(self, index: int) -> Path:
        place = polished_file if self._polished else block_file
        return place(self.out_dir, index)

    def _layer_tensors(self, prefix: str, layers: Layers) -> dict[str, Tensor]:
        """Packed weights and factors, by their full name."""
        tensors: dict[str, Tensor] = {}
        for name, layer in layers.items():
            parts = self._format.pack_layer(layer.weight)
            parts |= layer.adapter.tensors()
            tensors |= {f"{prefix}.{name}.{suffix}": tensor for suffix, tensor in parts.items()}
        return tensors

    def finish(self, model_dir: Path, source: Checkpoint) -> None:
        """Turn the blocks' files into `model/` and `adapter/`, in place of any that are there."""
        with disk_errors():
            for name in ("model", "adapter"):
                shutil.rmtree(self.out_dir / name, ignore_errors=True)
            self._write_adapter()
            self._write_model(model_dir, source)
            shutil.rmtree(blocks_dir(self.out_dir))
            shutil.rmtree(polished_dir(self.out_dir), ignore_errors=True)

    def _write_model(self, model_dir: Path, source: Checkpoint) -> None:
        target = self.out_dir / "model"
        target.mkdir()
        count = len(self.skeleton.blocks)
        inside = tuple(f"{self.skeleton.block_name(index)}." for index in range(count))
        outside = [name for name in source.names if not name.startswith(inside)]
        shards = [f"model-{n + 1:05d}-of-{count + 1:05d}.safetensors" for n in range(count + 1)]
        weight_map: dict[str, str] = {}
        size_bytes = 0
        for index, shard in enumerate(shards):
            if index == 0:
                tensors = {name: source.load(name) for name in outside}
            else:
                tensors, _ = self._split_block(index - 1)
            write_tensors(target / shard, tensors)
            weight_map |= dict.fromkeys(tensors, shard)
            size_bytes += sum(tensor.nbytes for tensor in tensors.values())
        index_content = {"metadata": {"total_size": size_bytes}, "weight_map": weight_map}
        write_text(target / INDEX_FILE, json.dumps(index_content, indent=2) + "\n")
        for name in COMPANIONS:
            if (model_dir / name).is_file():
                shutil.copyfile(model_dir / name, target / name)
        write_text(target / "config.json", json.dumps(self._model_config(model_dir), indent=2))

    def _split_block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A block's packed weights, as a reader of the checkpoint wants them, and its adapters."""
        stored = load_file(self._file(index), backend=BACKEND)
        suffixes = self._adapter.SUFFIXES
        adapters = {k: stored.pop(k) for k in list(stored) if k.endswith(suffixes)}
        return stored, adapters

    def _model_config(self, model_dir: Path) -> dict[str, Any]:
        """The source's own config.json; files re-saved by another version are misread by older."""
        quantization = self._format.quantization_config(self._layers(), self.skeleton.dense_linears)
        config = read_json(model_dir / "config.json")
        return config | ({"quantization_config": quantization} if quantization else {})

    def _layers(self) -> dict[str, LayerSpec]:
        """Every quantized layer by its name inside the model, in the order of the blocks."""
        return {
            f"{self.skeleton.block_name(index)}.{name}": spec
            for index, specs in enumerate(self.plan)
            for name, spec in specs.items()
        }

    def _write_adapter(self) -> None:
        tensors: dict[str, Tensor] = {}
        for index in range(len(self.skeleton.blocks)):
            _, adapters = self._split_block(index)
            tensors |= adapters
        if not tensors:
            return
        target = self.out_dir / "adapter"
        target.mkdir()
        write_tensors(
            target / "adapter_model.safetensors",
            {PEFT_PREFIX + name: tensor for name, tensor in tensors.items()},
        )
        config = self._adapter.peft_config(tensors, len(self._layers()))
        write_text(target / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True))
        self.adapter_bytes = sum(tensor.nbytes for tensor in tensors.values())


def without_adapter(layers: Layers) -> Layers:
    """The same quantized weights alone."""
    return {
        name: QuantizedLayer(layer.weight, no_adapter(layer.weight.dequantize()))
        for name, layer in layers.items()
    }
