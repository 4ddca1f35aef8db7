"""What a model reads of a dataset: the first rows token by token, and how many tokens there are.

Needs transformers for the tokenizer, and no torch.
"""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from apiq_core.finetune.data.chat import UnfitChat
from apiq_core.finetune.data.examples import Example, Reading, first_tokens, read
from apiq_core.finetune.data.read import Findings, Lines

SHOWN_ROWS = 3
SHOWN_TOKENS = 1000  # of a row
SHOWN_CHARACTERS = 1000  # of a text


@dataclass(frozen=True)
class Token:
    """What a token adds to the text; empty where the token before wrote a part of a character."""

    id: int
    text: str
    learned: bool  # its loss counts


@dataclass(frozen=True)
class ReadRow:
    """A row as the model reads it."""

    tokens: list[Token]  # the first of them
    length: int  # tokens
    learned: int  # of them, those that carry loss


@dataclass
class TokenCounts:
    """Of every row that was read."""

    max_length: int  # the most tokens that a job takes
    rows: int = 0  # a text is one
    tokens: int = 0
    learned: int = 0
    longest: int = 0  # tokens of the longest row
    too_long: int | None = 0  # rows of more; None of a text, which is cut into windows

    def add(self, example: Example) -> None:
        self.rows += 1
        self.tokens += len(example)
        self.learned += sum(example.learned[1:])  # nothing predicts the first token
        self.longest = max(self.longest, len(example))
        if self.too_long is not None:
            self.too_long += len(example) > self.max_length


@dataclass
class Preview:
    counts: TokenCounts
    rows: list[ReadRow] = field(default_factory=list)


def preview_rows(content: bytes, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Preview:
    """Of JSONL. Raises `UserError` as a job does: `bad_rows`, `no_chat_template` and such."""
    found = Preview(TokenCounts(max_length))
    findings = Findings()
    lines = Lines()
    for number, line in (*lines.feed(content), *lines.end()):
        row = findings.add(number, line)
        assert row is not None
        try:
            reading = read(row, tokenizer)
        except UnfitChat as error:
            raise UnfitChat(error.code, error.reason, f"line {number}", [number]) from None
        found.counts.add(reading.example)
        if len(found.rows) < SHOWN_ROWS:
            found.rows.append(_shown(reading, tokenizer))
    return found


def preview_text(content: bytes, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Preview:
    """Of plain text, which training cuts into windows: no row is too long."""
    text = content.decode("utf-8-sig", "ignore")  # its end may be cut
    found = Preview(TokenCounts(max_length, too_long=None))
    found.counts.add(_read_text(text, tokenizer).example)
    found.rows.append(_shown(_read_text(text[:SHOWN_CHARACTERS], tokenizer), tokenizer))
    return found


def _read_text(text: str, tokenizer: PreTrainedTokenizerBase) -> Reading:
    first = first_tokens(tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    learned = (*(False for _ in first), *(True for _ in ids))
    ends = (*(0 for _ in first), *(end for _, end in offsets))
    return Reading(text, Example((*first, *ids), learned), ends)


def _shown(reading: Reading, tokenizer: PreTrainedTokenizerBase) -> ReadRow:
    example = reading.example
    tokens: list[Token] = []
    at = 0
    special = set(tokenizer.all_special_ids)
    for i, (token, end) in enumerate(zip(example.tokens, reading.ends, strict=True)):
        text = reading.text[at:end]
        if not text and token in special:  # one that no text asked for: first, last
            text = str(tokenizer.convert_ids_to_tokens(token))
        at = max(at, end)
        tokens.append(Token(token, text, example.learned[i] and i > 0))
        if len(tokens) == SHOWN_TOKENS:
            break
    return ReadRow(tokens, len(example), sum(example.learned[1:]))
