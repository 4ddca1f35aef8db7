"""What is trained on and what is held out: one dataset that is split, or two."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from transformers import PreTrainedTokenizerBase

from apiq_core.errors import UserError
from apiq_core.events import CheckStop, Event, OnEvent
from apiq_core.finetune.config import HELD_OUT_FRACTION, FinetuneConfig
from apiq_core.finetune.data.batches import random_order, split
from apiq_core.finetune.data.examples import Example, first_tokens, to_examples, windows
from apiq_core.finetune.data.read import read_rows
from apiq_core.finetune.data.too_little_data import too_few_windows, too_little_data
from apiq_core.text_tokens import text_tokens

PLAIN_TEXT = ".txt"


class FileCounts(BaseModel):
    """What was found in a file."""

    rows: int  # of a text: windows
    duplicates: int | None  # rows that are word for word an earlier one; null of a text
    cut: int  # rows longer than max_length, which lost their end
    left_out: int  # rows in whose first max_length tokens nothing carries loss


@dataclass(frozen=True)
class TrainingData:
    """Examples, and by index which of them are trained on and which are held out."""

    examples: list[Example]
    members: list[int]
    held_out: list[int]  # in a random order
    files: dict[str, FileCounts]  # by `dataset` and, if it is a file, `validation`
    overlap: int  # held-out examples that are trained on too, token for token


def load_data(
    dataset: Path,
    validation: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    config: FinetuneConfig,
    on_event: OnEvent,
    check_stop: CheckStop,
) -> TrainingData:
    """Read, tokenize and divide. Warns of an overlap. Raises `UserError`, which names `dataset` or
    `validation`, and `Stopped`."""
    examples, counts = _read(dataset, tokenizer, config, "dataset", check_stop)
    files = {"dataset": counts}
    if validation is None:
        members, held_out = _split(examples, config, is_text=dataset.suffix == PLAIN_TEXT)
    else:
        more, files["validation"] = _read_validation(validation, tokenizer, config, check_stop)
        members = list(range(len(examples)))
        held_out = [len(examples) + i for i in random_order(len(more), config.seed)]
        examples = [*examples, *more]
    trained = {examples[i].tokens for i in members}
    overlap = sum(examples[i].tokens in trained for i in held_out)
    if overlap:
        message = f"{overlap} of {len(held_out)} held-out rows are among those trained on too"
        on_event(Event("warning", {"code": "validation_overlaps", "message": message}))
    return TrainingData(examples, members, held_out, files, overlap)


def _read(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: FinetuneConfig,
    param: str,
    check_stop: CheckStop,
) -> tuple[list[Example], FileCounts]:
    if file.suffix == PLAIN_TEXT:
        examples = _read_text(file, tokenizer, config, param, check_stop)
        return examples, FileCounts(rows=len(examples), duplicates=None, cut=0, left_out=0)
    rows, findings = read_rows(file, param, check_stop)
    found = to_examples(
        rows, tokenizer, config.max_length, truncate=config.truncate, check_stop=check_stop
    )
    return found.kept, FileCounts(
        rows=findings.rows,
        duplicates=findings.duplicates,
        cut=found.cut,
        left_out=found.left_out,
    )


def _read_text(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: FinetuneConfig,
    param: str,
    check_stop: CheckStop,
) -> list[Example]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:  # as it is, but for the mark
            ids = text_tokens(text, tokenizer, check_stop)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise UserError(
            "not_utf8",
            f"the text has a byte {byte} that is not UTF-8: {error.reason}; legal: text in UTF-8",
            param=param,
            value=byte,
        ) from None
    found = windows(ids, config.max_length, first_tokens(tokenizer))
    if not found:
        raise UserError(
            "too_little_data",
            f"the text has {'a single token' if ids else 'no token'}; legal: two or more, so that "
            "one predicts the next",
            param=param,
            value=len(ids),
            legal={"at_least": 2},
        )
    return found


def _read_validation(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: FinetuneConfig,
    check_stop: CheckStop,
) -> tuple[list[Example], FileCounts]:
    """As `_read`; an error says that it is not about the dataset."""
    try:
        return _read(file, tokenizer, config, "validation", check_stop)
    except UserError as error:
        error.param = "validation"
        error.message = f"validation: {error.message}"
        raise


def _split(
    examples: list[Example], config: FinetuneConfig, *, is_text: bool
) -> tuple[list[int], list[int]]:
    try:
        return split(examples, config.validation_fraction or HELD_OUT_FRACTION, config.seed)
    except ValueError:
        if not is_text:
            raise too_little_data(len(examples)) from None
    (window,) = examples
    step = config.max_length - window.learned.count(False)
    raise too_few_windows(sum(window.learned), config.max_length, at_least=step + 2)
