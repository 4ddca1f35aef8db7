"""What can be known of a checkpoint without loading it.

Reads config.json, the file list and the safetensors headers; never imports torch, so that the
service refuses at POST what would otherwise fail an hour later.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from apiq_core.errors import UserError

# model types whose blocks hold plain nn.Linear layers in the Llama layout
SUPPORTED_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "smollm3")

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
# what belongs to a checkpoint beside config.json and weights; carried along as it is
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    CHAT_TEMPLATE,
    "chat_template.json",
)
INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
PICKLE_PATTERN = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)")
BLOCK_WEIGHT = re.compile(r"model\.layers\.(?P<index>\d+)\.(?P<layer>.+)\.weight")

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class LinearShape:
    """One linear layer of a block; `name` is relative to the block (`self_attn.q_proj`)."""

    name: str
    d_in: int
    d_out: int


@dataclass(frozen=True)
class ModelFacts:
    """A checkpoint as its headers describe it."""

    model_type: str
    architecture: str
    max_length: int  # tokens of its context
    block_count: int
    linears: tuple[LinearShape, ...]  # of one block; all blocks are alike
    parameter_count: int
    size_bytes: int  # of all tensors

    @property
    def quantized_weight_count(self) -> int:
        return self.block_count * sum(layer.d_in * layer.d_out for layer in self.linears)

    @property
    def narrowest_channels(self) -> int:
        """Of its narrowest layer, in or out: no adapter can have a larger rank."""
        return min(min(layer.d_in, layer.d_out) for layer in self.linears)


@dataclass(frozen=True)
class TensorHeader:
    dtype: str  # as safetensors spells it: BF16, F16, F32, ...
    shape: tuple[int, ...]


def inspect_model(model_dir: Path) -> ModelFacts:
    """Read the facts of a local checkpoint.

    Raises `UserError` where the checkpoint cannot be quantized: `missing_config`,
    `unsupported_architecture`, `remote_code`, `already_quantized`, `pickle_weights`,
    `missing_weights`, `corrupt_weights`, `missing_tokenizer`.
    """
    names = [path.name for path in model_dir.iterdir()] if model_dir.is_dir() else []
    if "config.json" not in names:
        raise UserError("missing_config", f"{model_dir.name} has no config.json", param="model")
    config = read_json(model_dir / "config.json")
    check_files(names, config)
    tensors: dict[str, TensorHeader] = {}
    for file in weight_files(model_dir):
        tensors |= read_headers(file)
    _check_index(model_dir, tensors)
    return facts_from(config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            "corrupt_config", f"{path.name} is not readable JSON: {error}", param="model"
        ) from None
    if not isinstance(content, dict):
        raise UserError("corrupt_config", f"{path.name} is not a JSON object", param="model")
    return content


def check_architecture(config: Mapping[str, Any]) -> None:
    """Refuse code of the model's own and layouts that are not known: losses of others would be
    computed without what theirs has, such as a scale of the logits."""
    model_type = str(config.get("model_type"))
    if "auto_map" in config:
        raise UserError(
            "remote_code",
            "config.json names code of its own (auto_map); remote code is never run",
            param="model",
        )
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise UserError(
            "unsupported_architecture",
            f"model_type {model_type!r} is not supported; supported are "
            + ", ".join(SUPPORTED_MODEL_TYPES),
            param="model",
            value=model_type,
            legal=list(SUPPORTED_MODEL_TYPES),
        )


def check_files(names: Iterable[str], config: Mapping[str, Any]) -> None:
    """Refuse by file names and config.json alone: pickles, remote code, no tokenizer, layout."""
    names = list(names)
    check_architecture(config)
    if "quantization_config" in config:
        raise UserError(
            "already_quantized",
            "the checkpoint is quantized already; give the full-precision model",
            param="model",
        )
    if not any(name.endswith(".safetensors") for name in names):
        pickles = sorted(name for name in names if PICKLE_PATTERN.fullmatch(name))
        if pickles:
            raise UserError(
                "pickle_weights",
                f"only pickle weights ({pickles[0]}); only safetensors are loaded",
                param="model",
                legal="*.safetensors",
            )
        raise UserError(
            "missing_weights", "there is no .safetensors file", param="model", legal=WEIGHTS_FILE
        )
    if not any(name in names for name in TOKENIZER_FILES):
        raise UserError(
            "missing_tokenizer",
            "there is no tokenizer: one of " + ", ".join(TOKENIZER_FILES) + " is needed",
            param="model",
            legal=list(TOKENIZER_FILES),
        )


def weight_files(model_dir: Path) -> list[Path]:
    """The safetensors files that make up the checkpoint, in name order."""
    if (model_dir / INDEX_FILE).is_file():
        weight_map = read_json(model_dir / INDEX_FILE).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError("corrupt_weights", f"{INDEX_FILE} has no weight_map", param="model")
        files = sorted({str(name) for name in weight_map.values()})
    elif (model_dir / WEIGHTS_FILE).is_file():
        files = [WEIGHTS_FILE]
    else:
        raise UserError(
            "missing_weights", f"there is neither {WEIGHTS_FILE} nor {INDEX_FILE}", param="model"
        )
    for name in files:
        if "/" in name or "\\" in name or not (model_dir / name).is_file():
            raise UserError(
                "missing_weights", f"{INDEX_FILE} names {name!r}, which is not there", param="model"
            )
    return [model_dir / name for name in files]


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Dtype and shape of each tensor; opening also checks that the file is not cut short."""
    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: TensorHeader(part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise UserError(
            "corrupt_weights", f"{file.name} is truncated or corrupt: {error}", param="model"
        ) from None


def _check_index(model_dir: Path, tensors: Mapping[str, TensorHeader]) -> None:
    if not (model_dir / INDEX_FILE).is_file():
        return
    missing = sorted(set(read_json(model_dir / INDEX_FILE)["weight_map"]) - set(tensors))
    if missing:
        raise UserError(
            "corrupt_weights", f"no file holds {missing[0]}, which the index names", param="model"
        )


def facts_from(config: Mapping[str, Any], tensors: Mapping[str, TensorHeader]) -> ModelFacts:
    """The facts of a checkpoint whose config and headers are at hand (local or from a hub)."""
    blocks: dict[int, dict[str, TensorHeader]] = {}
    for name, header in tensors.items():
        match = BLOCK_WEIGHT.fullmatch(name)
        if match and len(header.shape) == 2:
            blocks.setdefault(int(match["index"]), {})[match["layer"]] = header
    expected = config.get("num_hidden_layers")
    if sorted(blocks) != list(range(int(expected or 0))) or not blocks:
        raise UserError(
            "corrupt_weights",
            f"config.json promises {expected} blocks, the weights hold {len(blocks)} "
            "as model.layers",
            param="model",
        )
    for index, layers in blocks.items():
        for name, header in layers.items():
            if name not in blocks[0] or header.shape != blocks[0][name].shape:
                raise UserError(
                    "unsupported_architecture",
                    f"block {index} has another {name} than block 0",
                    param="model",
                )
            if header.dtype not in FLOAT_DTYPES:
                raise UserError(
                    "unsupported_dtype",
                    f"{name} of block {index} is stored as {header.dtype}",
                    param="model",
                    value=header.dtype,
                    legal=list(FLOAT_DTYPES),
                )
        if len(layers) != len(blocks[0]):
            raise UserError(
                "corrupt_weights", f"block {index} lacks layers that block 0 has", param="model"
            )
    item_bytes = {"F64": 8, "F32": 4}
    sizes = {name: _count(header.shape) for name, header in tensors.items()}
    return ModelFacts(
        model_type=str(config["model_type"]),
        architecture=str((config.get("architectures") or ["unknown"])[0]),
        max_length=int(config.get("max_position_embeddings") or 2**31),
        block_count=len(blocks),
        linears=tuple(
            LinearShape(name, d_in=header.shape[1], d_out=header.shape[0])
            for name, header in sorted(blocks[0].items())
        ),
        parameter_count=sum(sizes.values()),
        size_bytes=sum(sizes[name] * item_bytes.get(tensors[name].dtype, 2) for name in sizes),
    )


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
