"""Cross entropy of the learned tokens, with the logits of a few tokens in memory at a time."""

from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from apiq_core.device import matmul_dtype
from apiq_core.finetune.data.batches import IGNORED
from apiq_core.skeleton import LOGIT_TOKENS


def summed_loss(
    model: PreTrainedModel | PeftModel, tokens: Tensor, labels: Tensor
) -> tuple[Tensor, int]:
    """The summed loss of the tokens that carry some, and how many they are.

    `model` is a causal model of transformers or its PEFT wrapper; both tensors (rows, length).
    While training, the products of the head too are in the dtype that the hardware is fast in.
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    targets = labels[:, 1:].flatten()
    counted = targets != IGNORED
    states, targets = hidden[:, :-1].flatten(0, 1)[counted], targets[counted]
    total = torch.zeros((), device=tokens.device)
    gradients = []
    for part, wanted in zip(states.split(LOGIT_TOKENS), targets.split(LOGIT_TOKENS), strict=True):
        leaf = part.detach().requires_grad_(states.requires_grad)
        loss = _loss(causal, leaf, wanted)
        total += loss.detach()
        if states.requires_grad:  # at once: the logits need neither be kept nor computed again
            gradients.extend(torch.autograd.grad(loss, leaf))
    if gradients:
        total = _with_gradient(total, states, torch.cat(gradients))
    return total, len(targets)


def _loss(causal: Any, states: Tensor, targets: Tensor) -> Tensor:
    device, dtype = states.device, matmul_dtype(states.device)
    fast = causal.training and dtype != states.dtype
    with torch.autocast(device.type, dtype) if fast else nullcontext():
        logits = causal.get_output_embeddings()(states).float()
    softcap = getattr(causal.config, "final_logit_softcapping", None)
    if softcap:
        logits = torch.tanh(logits / softcap) * softcap
    return cross_entropy(logits, targets, reduction="sum")


def _with_gradient(value: Tensor, states: Tensor, gradient: Tensor) -> Tensor:
    """`value`, whose gradient at `states` is known."""
    linear = (states * gradient).sum()
    return value + (linear - linear.detach())
