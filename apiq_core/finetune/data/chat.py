"""Which part of a chat the assistant says, in the text that a model's chat template makes of it.

A template is a program. Some write one message after the other; others move the system's message,
or leave the thoughts out of all answers but the last (Qwen3, DeepSeek-R1). So an answer is found by
what changes in the whole chat when another stands in its place.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from apiq_core.errors import UserError
from apiq_core.finetune.data.rows import Segment

Messages = Sequence[Mapping[str, str]]

PROBE = "\ue000answer\ue000"  # stands in an answer's place: no template trims or splits it
SHOWN_CHARACTERS = 200  # of what a template says: it may repeat the chat
DOES = {"chat_template_refuses": "refuses", "unusable_chat_template": "rewrites"}


class UnfitChat(UserError):
    """A chat of which the template makes nothing to train on; `value` has the lines of such rows,
    and `named` names them, where they are known."""

    def __init__(
        self, code: str, reason: str, named: str = "a row", value: list[int] | None = None
    ) -> None:
        super().__init__(
            code,
            f"the chat template {DOES[code]} {named}: {reason}; legal: chats that it takes, or "
            "rows with prompt and completion",
            param="dataset",
            value=value,
        )
        self.reason = reason


def chat_segments(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    """A chat as the template writes it. Of an assistant's turn what is behind its header is
    learned, and the end of the turn with it.

    Raises `UserError` where there is no template, or none that writes the answers as they are.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            "no_chat_template",
            "the rows are chats (messages), and the model has no chat template; legal: rows with "
            "prompt and completion, or a model with a template",
            param="dataset",
        )
    text = _render(tokenizer, messages)
    segments: list[Segment] = []
    at = 0
    for number, message in enumerate(messages):
        # where nobody asks and nothing is said, there is nothing to learn
        if message["role"] == "assistant" and (number or message["content"].strip()):
            begin, end = _answer(tokenizer, messages, number, text)
            if not at <= begin <= end:
                raise _unusable()
            segments += [Segment(text[at:begin], False), Segment(text[begin:end], True)]
            at = end
    return [*segments, Segment(text[at:], False)]


def _answer(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, number: int, text: str
) -> tuple[int, int]:
    """Where in `text`, the whole chat, the answer begins that is message `number`, and where its
    turn ends."""
    earlier, probe = messages[:number], {"role": "assistant", "content": PROBE}
    before, found, after = _render(tokenizer, [*earlier, probe, *messages[number + 1 :]]).partition(
        PROBE
    )
    if not found or PROBE in after or not text.endswith(after):
        raise _unusable()
    # the header is what a model is given to answer behind: thoughts, if any, belong to the answer
    if earlier:
        header = _render(tokenizer, earlier, add_generation_prompt=True)
    else:  # no template can be asked for the header of an answer to nothing
        header = before[: _alike(before, text)]
    if not text.startswith(header):  # it opens thoughts that this turn has lost, or such
        header = before
    if not text.startswith(header):
        raise _unusable()
    ending = _render(tokenizer, [*earlier, probe]).partition(PROBE)[2]
    return len(header), len(text) - len(after) + _alike(ending, after)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool = False
) -> str:
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as error:  # whatever a program may raise
        said = str(error)[:SHOWN_CHARACTERS] or type(error).__name__
        raise UnfitChat("chat_template_refuses", said) from None
    return str(text)


def _alike(one: str, other: str) -> int:
    """So many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _unusable() -> UnfitChat:
    return UnfitChat("unusable_chat_template", "it cannot be told which tokens are the assistant's")
