"""Rows as tokens, each with whether it carries loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from apiq_core.errors import UserError
from apiq_core.events import CheckStop
from apiq_core.finetune.data.chat import UnfitChat, chat_segments
from apiq_core.finetune.data.rows import Row, Segment

SHOWN_LINES = 20
POLLED_ROWS = 10  # are tokenized between two questions whether to stop: long chats take seconds


@dataclass(frozen=True)
class Example:
    """Token ids of one example; `learned[i]`: the loss of predicting token i counts."""

    tokens: tuple[int, ...]
    learned: tuple[bool, ...]
    # where the answer to what is asked first begins and ends; None: nothing is asked, or it was cut
    answer: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Examples:
    """What became of rows."""

    kept: list[Example]
    cut: int  # rows that lost their end, left out or not
    left_out: int  # rows in whose first tokens nothing carries loss


def to_examples(
    rows: Iterable[tuple[int, Row]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    truncate: bool,
    check_stop: CheckStop,
) -> Examples:
    """Tokenize `rows` (line numbers and rows).

    A row longer than `max_length` loses its end with `truncate`, and is left out where nothing
    that carries loss remains. Raises `UserError`: `rows_too_long` without `truncate`,
    `no_chat_template`, `chat_template_refuses`, `unusable_chat_template`, `nothing_to_learn`.
    """
    examples: list[Example] = []
    left_out = 0
    too_long: list[int] = []
    unfit: list[tuple[int, UnfitChat]] = []
    for number, (line, row) in enumerate(rows):
        if number % POLLED_ROWS == 0:
            check_stop()
        try:
            example = tokenize(row, tokenizer)
        except UnfitChat as error:
            unfit.append((line, error))
            if len(unfit) > SHOWN_LINES:
                break
            continue
        if len(example) > max_length:
            too_long.append(line)
            example = cut(example, max_length)
        if any(example.learned[1:]):  # nothing predicts the first token
            examples.append(example)
        else:
            left_out += 1
    if unfit:
        first = unfit[0][1]
        alike = [line for line, error in unfit if error.code == first.code]
        raise UnfitChat(first.code, first.reason, _lines(alike), alike[:SHOWN_LINES])
    if too_long and not truncate:
        rows_have = "1 row has" if len(too_long) == 1 else f"{len(too_long)} rows have"
        raise UserError(
            "rows_too_long",
            f"{rows_have} more than {max_length} tokens: {_lines(too_long)}; legal: shorter rows, "
            "a larger max_length, or truncate: true",
            param="max_length",
            value=max_length,
        )
    if not examples:
        raise UserError(
            "nothing_to_learn",
            f"no row has a token that carries loss within its first {max_length}; legal: a larger "
            "max_length, or rows that carry loss earlier",
            param="max_length",
            value=max_length,
        )
    return Examples(examples, len(too_long), left_out)


@dataclass(frozen=True)
class Reading:
    """A row as text and as tokens, and where in the text each token ends."""

    text: str
    example: Example
    ends: tuple[int, ...]


def tokenize(row: Row, tokenizer: PreTrainedTokenizerBase) -> Example:
    """One row as `read` reads it."""
    return read(row, tokenizer).example


def read(row: Row, tokenizer: PreTrainedTokenizerBase) -> Reading:
    """One row. The text is tokenized as a whole, as it will be when the model is used.

    A token that lies across a border is learned if its end is. Raises `UserError`.
    """
    if row.shape == "messages":
        segments = chat_segments(row.messages, tokenizer)
        first: list[int] = []  # the template writes its own
        last: list[int] = []
    else:
        segments = list(row.segments)
        first = first_tokens(tokenizer)
        last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    text = "".join(segment.text for segment in segments)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    learned = _learned(segments, encoded["offset_mapping"])
    ids = [*first, *encoded["input_ids"], *last]
    flags = [False] * len(first) + learned + [True] * len(last)
    ends = (
        [0] * len(first) + [end for _, end in encoded["offset_mapping"]] + [len(text)] * len(last)
    )
    example = Example(tuple(ids), tuple(flags), _first_answer(flags, len(first)))
    return Reading(text, example, tuple(ends))


def cut(example: Example, length: int) -> Example:
    """The first `length` tokens."""
    return Example(example.tokens[:length], example.learned[:length])


def windows(tokens: Sequence[int], length: int, first: Sequence[int]) -> list[Example]:
    """A plain text as examples of `length` tokens: `first`, then tokens that follow each other,
    all of which are learned.

    What is left at the end is an example too, if it is long enough to predict anything. Each token
    takes 8 bytes: equal numbers are one object, and windows of one length share what is learned.
    """
    step = length - len(first)
    learned = (False,) * len(first) + (True,) * step
    known: dict[int, int] = {}
    starts = range(0, len(tokens) - 1, step)
    parts = ((*first, *(known.setdefault(t, t) for t in tokens[i : i + step])) for i in starts)
    return [Example(p, learned if len(p) == length else learned[: len(p)]) for p in parts]


def first_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a model that was trained with a first token (BOS) sees first."""
    ids: list[int] = tokenizer("", verbose=False)["input_ids"][:1]
    return ids if ids and ids[0] == tokenizer.bos_token_id else []


def _first_answer(learned: Sequence[bool], first: int) -> tuple[int, int] | None:
    """The first run of learned tokens, if anything but the `first` special ones is before it."""
    begin = next((i for i, flag in enumerate(learned) if flag), 0)
    if begin <= first:
        return None
    end = next((i for i in range(begin, len(learned)) if not learned[i]), len(learned))
    return begin, end


def _lines(numbers: Sequence[int]) -> str:
    more = ", ..." if len(numbers) > SHOWN_LINES else ""
    return "line " + ", ".join(map(str, numbers[:SHOWN_LINES])) + more


def _learned(segments: Sequence[Segment], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    borders: list[tuple[int, bool]] = []  # where each segment ends
    end = 0
    for segment in segments:
        end += len(segment.text)
        borders.append((end, segment.learned))
    flags: list[bool] = []
    at = 0
    for _, token_end in offsets:
        while at < len(borders) - 1 and borders[at][0] < token_end:
            at += 1
        flags.append(borders[at][1] if borders else False)
    return flags
