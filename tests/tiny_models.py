"""Tiny random checkpoints of each supported architecture, as a hub would serve them."""

import functools
import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 512

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 48},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "smollm3": {"pad_token_id": 0},
    "gemma3_text": {
        "head_dim": 32,
        "sliding_window": 16,
        "query_pre_attn_scalar": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def make_tiny(
    directory: Path,
    architecture: str = "llama",
    *,
    layers: int = 2,
    hidden: int = 64,
    intermediate: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Write a random model with a real tokenizer to `directory`; deterministic in `seed`."""
    extra = dict(ARCHITECTURES.get(architecture, {}))
    if "layer_types" in extra:
        kinds = extra["layer_types"]
        extra["layer_types"] = [kinds[i % len(kinds)] for i in range(layers)]
    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "tie_word_embeddings": True,
            **extra,
            **overrides,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(dtype)
        for parameter in model.parameters():  # larger than the default init: layers must matter
            if parameter.dim() == 2:
                parameter.data.normal_(0, parameter.shape[1] ** -0.5)
    model.save_pretrained(directory)
    _tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "model_max_length": 512,
            }
        )
    )
    return directory


@functools.cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([topics[name] for name in sorted(topics)[:20]], trainer)
    return tokenizer
