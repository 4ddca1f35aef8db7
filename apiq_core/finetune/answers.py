"""How many questions are answered right: the final number, greedily decoded."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from apiq_core.events import CheckStop
from apiq_core.finetune.examples import Example

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
BATCH_ROWS = 32  # decoded together: packed weights are unpacked for every token, not for every row
TIMES_AS_LONG = 2  # as the right answer may an answer be


def final_number(text: str) -> float | None:
    """The last number of a text; what follows `####` is the last of GSM8K's answers."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def exact_match(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    new_tokens: int,
    check_stop: CheckStop,
) -> float | None:
    """Share of `examples` whose answer ends with the right number; None if none ends with one.

    An answer has at most `new_tokens`, and at most twice as many as the longest right one.
    """
    wanted = [final_number(_text(tokenizer, e.tokens[e.prompt_length :])) for e in examples]
    asked = [(e, n) for e, n in zip(examples, wanted, strict=True) if n is not None]
    if not asked:
        return None
    longest = max(len(example) - example.prompt_length for example, _ in asked)
    limit = min(new_tokens, TIMES_AS_LONG * longest)
    asked.sort(key=lambda pair: pair[0].prompt_length)  # less padding
    right = 0
    for first in range(0, len(asked), BATCH_ROWS):
        check_stop()
        batch = asked[first : first + BATCH_ROWS]
        said = _decode(model, tokenizer, [example for example, _ in batch], limit)
        right += sum(final_number(text) == n for text, (_, n) in zip(said, batch, strict=True))
    return right / len(asked)


@torch.no_grad()
def _decode(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    limit: int,
) -> list[str]:
    """What the model says to each prompt, up to `limit` tokens."""
    model.eval()
    device = next(model.parameters()).device
    filler = tokenizer.eos_token_id or 0
    prompts, mask = _left_padded([e.tokens[: e.prompt_length] for e in examples], filler)
    causal: Any = model
    out = causal.generate(
        input_ids=prompts.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=limit,
        do_sample=False,
        use_cache=True,
        pad_token_id=filler,
    )
    return [_text(tokenizer, row.tolist()) for row in out[:, prompts.shape[1] :]]


def _left_padded(prompts: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Tokens and attention mask, (rows, length) each: what is decoded follows every prompt."""
    length = max(map(len, prompts))
    tokens = torch.full((len(prompts), length), filler)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return tokens, mask


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
