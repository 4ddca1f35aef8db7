"""Whole models in fp32, read from disk by stock tools, and how far one is from another.

Every method, ours and others', is judged here by the same code: perplexity, KL and block errors.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from apiq_core.calibration import Windows, draw_windows
from apiq_core.config import Evaluation, QuantizeConfig
from apiq_core.tokenizer import load_tokenizer
from benchmarks.core.texts import CALIBRATED, SCORED


def windows(
    model_dir: Path, config: QuantizeConfig, calibrated: Path, scored: Path | None, evaluation: Any
) -> Windows:
    """The windows of a run, drawn as `quantize` draws them; `evaluation` are those to score."""
    source = SCORED if scored else CALIBRATED
    drawn_from = config.model_copy(update={"evaluation": Evaluation(source=source, **evaluation)})
    texts = {CALIBRATED: calibrated} | ({SCORED: scored} if scored else {})
    return draw_windows(load_tokenizer(model_dir), drawn_from, texts)


def load(model_dir: Path, adapter_dir: Path | None = None) -> PreTrainedModel:
    """A checkpoint, packed or not, with its adapter merged in if that is there."""
    logging.disable_progress_bar()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True
    )
    if adapter_dir is not None and adapter_dir.is_dir():
        model = PeftModel.from_pretrained(model, adapter_dir).merge_and_unload()
    model.eval()
    return model


def judge(
    model: PreTrainedModel,
    config: QuantizeConfig,
    inputs: Mapping[str, Path],
    evaluation: Mapping[str, int],
) -> dict[str, Any]:
    """On held-out calibration windows and on every text that the cell names `scored.NAME`."""
    reference = load(inputs["model"])
    drawn = windows(inputs["model"], config, inputs["calibrated"], None, {"samples": 0})
    scores = {
        name.removeprefix("scored."): score(
            model,
            reference,
            windows(inputs["model"], config, inputs["calibrated"], path, evaluation).evaluation,
        )
        for name, path in inputs.items()
        if name.startswith("scored.")
    }
    return {"block_errors": block_errors(model, reference, drawn.held_out), "scores": scores}


@torch.no_grad()
def score(model: PreTrainedModel, reference: PreTrainedModel, tokens: Tensor) -> dict[str, float]:
    """Perplexity of both and KL(reference || model) in nats a token, on `tokens` (windows, length).

    One window at a time: logits are wide.
    """
    nll = nll_reference = kl = 0.0
    for window in tokens:
        log_p = log_softmax(model(window[None]).logits[0, :-1].float(), dim=-1)
        wanted = log_softmax(reference(window[None]).logits[0, :-1].float(), dim=-1)
        nll += float(cross_entropy(log_p, window[1:], reduction="sum"))
        nll_reference += float(cross_entropy(wanted, window[1:], reduction="sum"))
        kl += float(kl_div(log_p, wanted, reduction="sum", log_target=True))
    count = tokens[:, 1:].numel()
    return {
        "perplexity": math.exp(min(nll / count, 700)),
        "full_precision_perplexity": math.exp(min(nll_reference / count, 700)),
        "kl": kl / count,
        "tokens": tokens.numel(),
    }


@torch.no_grad()
def block_errors(model: PreTrainedModel, reference: PreTrainedModel, tokens: Tensor) -> list[float]:
    """||F(X) - Fq(Xq)||^2 / ||F(X)||^2 of each block's output."""
    count = len(reference.model.layers)
    wrong, right = [0.0] * count, [0.0] * count
    for window in tokens:
        given, wanted = _block_outputs(model, window), _block_outputs(reference, window)
        for index in range(count):
            wrong[index] += float((given[index] - wanted[index]).square().sum())
            right[index] += float(wanted[index].square().sum())
    return [a / max(b, 1e-30) for a, b in zip(wrong, right, strict=True)]


def _block_outputs(model: PreTrainedModel, window: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        outputs.append(out[0] if isinstance(out, tuple) else out)

    hooks = [block.register_forward_hook(keep) for block in model.model.layers]
    try:
        model.model(window[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
