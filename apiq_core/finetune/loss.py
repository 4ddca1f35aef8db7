"""Cross entropy of the learned tokens, with the logits of a few tokens in memory at a time."""

from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from apiq_core.finetune.batches import IGNORED
from apiq_core.skeleton import LOGIT_TOKENS


def summed_loss(
    model: PreTrainedModel | PeftModel, tokens: Tensor, labels: Tensor
) -> tuple[Tensor, int]:
    """The summed loss of the tokens that carry some, and how many they are.

    `model` is a causal model of transformers or its PEFT wrapper; both tensors (rows, length).
    """
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    targets = labels[:, 1:].flatten()
    counted = targets != IGNORED
    states, targets = hidden[:, :-1].flatten(0, 1)[counted], targets[counted]
    head = causal.get_output_embeddings()
    softcap = getattr(causal.config, "final_logit_softcapping", None)

    def part_loss(part: Tensor, wanted: Tensor) -> Tensor:
        logits = head(part).float()
        if softcap:
            logits = torch.tanh(logits / softcap) * softcap
        return cross_entropy(logits, wanted, reduction="sum")

    total = torch.zeros((), device=tokens.device)
    for part, wanted in zip(states.split(LOGIT_TOKENS), targets.split(LOGIT_TOKENS), strict=True):
        total = total + checkpoint(part_loss, part, wanted, use_reentrant=False)
    return total, len(targets)
