"""A training step on packed weights beside PEFT's LoRA on the same weights, dense."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from apiq_core.device import compute_dtype
from apiq_core.finetune.loss import summed_loss
from apiq_core.finetune.mixed_precision import use_matmul_dtype
from apiq_core.finetune.packed.packed_model import load_model
from benchmarks.core.measure.memory import largest

WORDS = 500  # any ids that every vocabulary has
CPU = torch.device("cpu")
Step = Callable[[Tensor], float]


def figures(config: dict[str, Any], inputs: dict[str, Path], work_dir: Path) -> dict[str, Any]:
    """With `weights` the largest memory of steps on these alone; else the times of both."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, WORDS, (config["rows"], config["length"]), generator=generator)
    if "weights" in config:
        with largest() as peak:
            step = stepper(config["weights"], inputs)
            for _ in range(config["rounds"]):
                step(tokens)
        return {"peak_bytes": peak}
    steps = {weights: stepper(weights, inputs) for weights in LOADED}
    losses = {weights: step(tokens) for weights, step in steps.items()}  # and everything is warm
    rounds = [
        {weights: _seconds(step, tokens) for weights, step in steps.items()}
        for _ in range(config["rounds"])
    ]
    ratios = [found["packed"] / found["dense"] for found in rounds]
    return {"losses": losses, "seconds": rounds, "ratio": median(ratios)}


def stepper(weights: str, inputs: dict[str, Path], *, gradient_checkpointing: bool = True) -> Step:
    """What computes the gradients of a step on tokens, (rows, length), and gives back its loss."""
    base = LOADED[weights](inputs["base"])
    base.config.use_cache = False
    base.requires_grad_(False)
    use_matmul_dtype(base, CPU)
    model = PeftModel.from_pretrained(base, str(inputs["adapter"]), is_trainable=True)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()

    def step(tokens: Tensor) -> float:
        loss, count = summed_loss(model, tokens, tokens)
        (loss / count).backward()
        model.zero_grad()
        return float(loss.detach()) / count

    return step


def dense_model(model_dir: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=compute_dtype(CPU), local_files_only=True
    )
    return model


def packed_model(model_dir: Path) -> PreTrainedModel:
    return load_model(model_dir, CPU, compute_dtype(CPU))


LOADED: dict[str, Callable[[Path], PreTrainedModel]] = {
    "packed": packed_model,
    "dense": dense_model,
}


def _seconds(step: Step, tokens: Tensor) -> float:
    start = perf_counter()
    step(tokens)
    return perf_counter() - start
