"""The tokenizer of a checkpoint. Needs no torch."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from apiq_core.errors import UserError


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """As transformers reads it, chat template included. Raises `UserError(corrupt_tokenizer)`."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_dir, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "corrupt_tokenizer", f"the tokenizer does not load: {error}", param="model"
        ) from None
    return tokenizer


def check_ids(largest: int, vocabulary: int) -> None:
    """Refuse a token for which the model's embedding, of so many rows, has none: tokens were added
    and the model was not resized. Raises `UserError(corrupt_tokenizer)`."""
    if largest >= vocabulary:
        raise UserError(
            "corrupt_tokenizer",
            f"the tokenizer makes token {largest} of the text, and the model's embedding has "
            f"{vocabulary} rows; legal: tokens below {vocabulary}",
            param="model",
            value=largest,
            legal={"at_most": vocabulary - 1},
        )
