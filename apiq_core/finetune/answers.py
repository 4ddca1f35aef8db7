"""How many questions are answered right: the final number, greedily decoded."""

import re
from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from apiq_core.events import CheckStop
from apiq_core.finetune.examples import Example

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_number(text: str) -> float | None:
    """The last number of a text; what follows `####` is the last of GSM8K's answers."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


@torch.no_grad()
def exact_match(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    new_tokens: int,
    check_stop: CheckStop,
) -> float | None:
    """Share of `examples` whose answer ends with the right number; None if none ends with one."""
    model.eval()
    device = next(model.parameters()).device
    right = asked = 0
    for example in examples:
        check_stop()
        split = example.prompt_length
        wanted = final_number(_text(tokenizer, example.tokens[split:]))
        if wanted is None:
            continue
        asked += 1
        prompt = torch.tensor([example.tokens[:split]], device=device)
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.eos_token_id,
        )
        right += final_number(_text(tokenizer, out[0, split:].tolist())) == wanted
    return right / asked if asked else None


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
