"""Text to token windows: which are calibrated on, which are held out, which are scored.

The three sets never overlap. Where scoring uses the calibration text too, its last part is set
aside for that before any window is drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from apiq_core.config import DATA_FREE, Calibration, Evaluation, QuantizeConfig
from apiq_core.errors import UserError
from apiq_core.events import CheckStop
from apiq_core.text_tokens import text_tokens
from apiq_core.too_little_text import too_little_text

BUILTIN = "builtin"
MAX_TEXT_BYTES = 64 * 2**20  # of a longer text only the first part is tokenized


@dataclass
class Windows:
    """Token ids, each (windows, length)."""

    train: Tensor
    held_out: Tensor
    evaluation: Tensor
    in_domain: bool  # the evaluation windows come from the text that was calibrated on


def draw_windows(
    tokenizer: PreTrainedTokenizerBase,
    config: QuantizeConfig,
    texts: Mapping[str, Path],
    check_stop: CheckStop = lambda: None,
) -> Windows:
    """Tokenize the sources and draw the windows of a run; deterministic in `calibration.seed`.

    `texts` names the file of every source but `builtin`. Raises `UserError(too_little_text)`, and
    what `check_stop` does, which is asked between pieces of a text.
    """
    calibration, evaluation = config.calibration, config.evaluation
    source = calibration.source or BUILTIN
    evaluation_source = evaluation.source or source
    in_domain = evaluation_source == source
    tokens = _tokenize(tokenizer, source, texts, "calibration", check_stop)
    scored_count = evaluation.samples * evaluation.length
    if in_domain:
        if len(tokens) < scored_count:
            raise _too_little(evaluation, evaluation.samples, source, tokens)
        scored = tokens[len(tokens) - scored_count :]
        tokens = tokens[: len(tokens) - scored_count]
    else:
        scored = _tokenize(tokenizer, evaluation_source, texts, "evaluation", check_stop)
        scored = scored[:scored_count]
        if len(scored) < scored_count:
            raise _too_little(evaluation, evaluation.samples, evaluation_source, scored)
    samples = 0 if config.method in DATA_FREE else calibration.samples
    wanted = samples + calibration.held_out
    available = len(tokens) // calibration.length
    if available < wanted:
        raise _too_little(calibration, samples, source, tokens)
    windows = tokens[: available * calibration.length].view(available, calibration.length)
    order = torch.randperm(available, generator=torch.Generator().manual_seed(calibration.seed))
    drawn = _begin(windows[order[:wanted]], tokenizer)
    return Windows(
        train=drawn[calibration.held_out :],
        held_out=drawn[: calibration.held_out],
        evaluation=_begin(scored.view(evaluation.samples, evaluation.length), tokenizer),
        in_domain=in_domain,
    )


def builtin_text() -> str:
    """About 115k tokens of English that come with Python: its language reference."""
    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def _tokenize(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    texts: Mapping[str, Path],
    part: str,
    check_stop: CheckStop,
) -> Tensor:
    if source == BUILTIN:
        text = builtin_text()
    elif source in texts:
        with texts[source].open("rb") as file:
            text = file.read(MAX_TEXT_BYTES).decode("utf-8-sig", errors="ignore")
    else:
        raise UserError(
            "text_not_available",
            f"the text of {source!r} is not at hand; legal: {', '.join([BUILTIN, *texts])}",
            param=f"{part}.source",
            value=source,
            legal=[BUILTIN, *texts],
        )
    return torch.tensor(text_tokens(StringIO(text), tokenizer, check_stop), dtype=torch.long)


def _begin(windows: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """A model that was trained with a first token (BOS) sees it in every window."""
    first = tokenizer("", verbose=False)["input_ids"][:1]
    if first and first[0] == tokenizer.bos_token_id and windows.numel():
        windows = windows.clone()
        windows[:, 0] = first[0]
    return windows


def _too_little(
    part: Calibration | Evaluation, samples: int, source: str, tokens: Tensor
) -> UserError:
    return too_little_text(
        type(part).__name__.lower(),
        samples=samples,
        held_out=part.held_out if isinstance(part, Calibration) else 0,
        length=part.length,
        available=len(tokens) // part.length,
        there_is=f"{source} has {len(tokens)} tokens left for that,",
    )
