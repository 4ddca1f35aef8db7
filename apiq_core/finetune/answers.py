"""How many questions are answered right: the final number, greedily decoded."""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from apiq_core.events import CheckStop, Event, OnEvent
from apiq_core.finetune.data.batches import token_batches
from apiq_core.finetune.data.examples import Example
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
    stop: int | None  # the special token that ends it, such as the end of a turn
    wanted: float


def final_number(text: str) -> float | None:
    """The last number of a text; what follows `####` is the last of GSM8K's answers."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def questions(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]
) -> Iterator[Question]:
    """Those of `examples` that ask something and have a number in their answer."""
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for example in examples:
        if example.answer is None:
            continue
        begin, end = example.answer
        answer = example.tokens[begin:end]
        wanted = final_number(_text(tokenizer, answer))
        if wanted is not None:
            stop = next((token for token in reversed(answer) if token in special), None)
            yield Question(example.tokens[:begin], len(answer), stop, wanted)


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
    stops = {question.stop for question in asked if question.stop is not None}
    limit = min(new_tokens, TIMES_AS_LONG * max(question.answer_length for question in asked))
    right = 0
    for batch in token_batches(asked, lambda q: len(q.prompt) + limit, BATCH_TOKENS):
        check_stop()
        try:
            said = _decode(model, tokenizer, [question.prompt for question in batch], limit, stops)
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
    stops: Set[int],
) -> list[str]:
    """What the model says to each prompt, up to `limit` tokens, its own end or one of `stops`."""
    model.eval()
    device = next(model.parameters()).device
    filler = tokenizer.eos_token_id or 0
    tokens, mask = _left_padded(prompts, filler)
    length = tokens.shape[1]
    causal: Any = model
    own = causal.generation_config.eos_token_id
    ends = {*stops, *(own if isinstance(own, list) else [own])} - {None}
    out = causal.generate(
        input_ids=tokens.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=limit,
        do_sample=False,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=filler,
    )
    said = (takewhile(lambda token: token not in ends, row) for row in out[:, length:].tolist())
    return [_text(tokenizer, list(answer)) for answer in said]


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
