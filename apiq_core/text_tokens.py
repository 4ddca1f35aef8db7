"""A text as token ids, piece by piece: a tokenizer keeps some 500 bytes for each token of what it
is given at once, and hears no order to stop meanwhile."""

from array import array
from collections.abc import Iterator
from typing import TextIO

from transformers import PreTrainedTokenizerBase

from apiq_core.events import CheckStop

PIECE_CHARACTERS = 2**20


def text_tokens(
    text: TextIO, tokenizer: PreTrainedTokenizerBase, check_stop: CheckStop
) -> "array[int]":
    """The ids, 4 bytes each, without special tokens. Raises what `check_stop` does, which is asked
    before every piece."""
    ids = array("i")
    for piece in _pieces(text):
        check_stop()
        ids.extend(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])
    return ids


def _pieces(text: TextIO) -> Iterator[str]:
    """They end with a line; within one that is too long before a space, to which the word behind
    it belongs; without a space anywhere."""
    rest = ""
    while more := text.read(PIECE_CHARACTERS):
        held = rest + more
        end = held.rfind("\n") + 1 or max(held.rfind(" "), 0) or len(held)
        yield held[:end]
        rest = held[end:]
    if rest:
        yield rest
