"""How many questions are answered right: the final number, greedily decoded."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from apiq_core.events import CheckStop, Event, OnEvent
from apiq_core.finetune.batches import token_batches
from apiq_core.finetune.examples import Example
from apiq_core.finetune.memory import is_out_of_memory

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
# that are decoded together: packed weights are unpacked for every token, not for every row. Of
# those before the last one only keys and values are in memory
BATCH_TOKENS = 16_384
TIMES_AS_LONG = 2  # as the right answer may an answer be


@dataclass(frozen=True)
class Question:
    """What the model is asked, and the number that is right."""

    prompt: tuple[int, ...]
    answer_length: int  # tokens of the right answer
    wanted: float


def final_number(text: str) -> float | None:
    """The last number of a text; what follows `####` is the last of GSM8K's answers."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def questions(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]
) -> Iterator[Question]:
    """Those of `examples` that ask something and have a number in their answer."""
    for example in examples:
        if example.answer is None:
            continue
        begin, end = example.answer
        wanted = final_number(_text(tokenizer, example.tokens[begin:end]))
        if wanted is not None:
            yield Question(example.tokens[:begin], end - begin, wanted)


def exact_match(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Iterable[Question],
    *,
    new_tokens: int,
    on_event: OnEvent,
    check_stop: CheckStop,
) -> float | None:
    """Share of questions in whose answer the last number is the right one.

    None if none is asked, or if memory runs out, which a warning tells: it is no reason to lose
    what was trained. An answer has at most `new_tokens`, and at most twice as many as the longest
    right one.
    """
    asked = list(asked)
    if not asked:
        return None
    limit = min(new_tokens, TIMES_AS_LONG * max(question.answer_length for question in asked))
    right = 0
    for batch in token_batches(asked, lambda q: len(q.prompt) + limit, BATCH_TOKENS):
        check_stop()
        try:
            said = _decode(model, tokenizer, [question.prompt for question in batch], limit)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            message = f"out of memory while {len(batch)} answers were decoded; exact_match is null"
            on_event(Event("warning", {"code": "out_of_memory", "message": message}))
            return None
        right += sum(final_number(text) == q.wanted for text, q in zip(said, batch, strict=True))
    return right / len(asked)


@torch.no_grad()
def _decode(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    limit: int,
) -> list[str]:
    """What the model says to each prompt, up to `limit` tokens."""
    model.eval()
    device = next(model.parameters()).device
    filler = tokenizer.eos_token_id or 0
    tokens, mask = _left_padded(prompts, filler)
    causal: Any = model
    out = causal.generate(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=limit,
        do_sample=False,
        use_cache=True,
        pad_token_id=filler,
    )
    return [_text(tokenizer, row.tolist()) for row in out[:, tokens.shape[1] :]]


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
