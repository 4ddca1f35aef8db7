"""Small quantize jobs, what trains on them, and how a stock reader scores what came of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from apiq_core.config import QuantizeConfig
from apiq_core.events import Event
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.data.batches import pad
from apiq_core.finetune.data.examples import tokenize
from apiq_core.finetune.data.read import read_rows
from apiq_core.finetune.finetune import finetune
from apiq_core.finetune.reports.report import FinetuneReport
from apiq_core.quantize import quantize
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

SMALL: dict[str, Any] = {
    "batch_size": 4,
    "micro_batch_size": 2,
    "max_length": 64,
    "epochs": 2,
    "lr": 1e-2,
    "validation_fraction": 0.2,
    "answered_rows": 2,
    "answer_tokens": 4,
}


def config(**fields: Any) -> FinetuneConfig:
    return FinetuneConfig.model_validate(SMALL | fields)


def quantized(folder: Path, **fields: Any) -> Path:
    """The artifacts of a quantize job."""
    source = make_tiny(folder / "source")
    settings = {
        "bits": 2,
        "rank": 4,
        "calibration": {"samples": 8, "length": 32, "held_out": 2},
        "evaluation": {"samples": 0},
    }
    quantize(source, folder / "base", QuantizeConfig.model_validate(settings | fields))
    return folder / "base"


def run(base: Path, data: Path, out: Path, settings: FinetuneConfig, **more: Any) -> FinetuneReport:
    adapter = base / "adapter" if (base / "adapter").exists() else None
    return finetune(base / "model", adapter, data, out, settings, **more)


def stock_loss(base: Path, data: Path, adapter: Path | None) -> float:
    """Of the answers of all rows, with transformers, compressed-tensors and PEFT alone."""
    tokens, labels = rows_of(base, data)
    logits = stock_logits(base, tokens, adapter)[:, :-1]
    return float(cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))


def rows_of(base: Path, data: Path) -> tuple[Tensor, Tensor]:
    """Tokens and labels, (rows, length) each."""
    tokenizer = load_tokenizer(base / "model")
    rows, _ = read_rows(data)
    return pad([tokenize(row, tokenizer) for _, row in rows], 512, torch.device("cpu"))


@torch.no_grad()
def stock_logits(base: Path, tokens: Tensor, adapter: Path | None = None) -> Tensor:
    """Of `base`/model with an adapter, if any."""
    model: nn.Module = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    logits: Tensor = model(tokens).logits
    return logits


def stop_after(step: int) -> tuple[Callable[[], bool], Callable[[Event], None]]:
    done: list[int] = []

    def on_event(event: Event) -> None:
        if event.type == "progress":
            done.append(event.data["done"])

    return lambda: bool(done) and done[-1] >= step, on_event
