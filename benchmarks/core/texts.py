"""The texts: of each one a part that may be calibrated on, and a part that is only scored."""

import json
from dataclasses import dataclass
from pathlib import Path

from apiq_core.calibration import builtin_text
from benchmarks.report import RESULTS_DIR

TEXTS_DIR = RESULTS_DIR / "texts"
# what a run calls its two texts; which files these are is the cell's business
CALIBRATED, SCORED = "wikitext2", "dataset:ds_" + 32 * "0"


@dataclass(frozen=True)
class Text:
    name: str
    calibrated: Path
    scored: Path


def wikitext(path: Path) -> Text:
    """The two halves of WikiText-2's validation text, cut at the middle character."""
    return _cut("wikitext", path.read_text(encoding="utf-8"), 0.5)


def builtin() -> Text:
    """Python's language reference: its last quarter is scored."""
    return _cut("builtin", builtin_text(), 0.75)


def gsm8k(path: Path) -> Text:
    """Questions and answers of GSM8K, one JSON object a line."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return _cut("gsm8k", "\n\n".join(f"{r['question']}\n{r['answer']}" for r in rows), 0.5)


def gsm8k_rows(path: Path, count: int = 1000) -> Path:
    """The first rows of GSM8K as they are, to finetune on."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return _written("gsm8k-rows.jsonl", "".join(lines[:count]))


def _cut(name: str, text: str, share: float) -> Text:
    middle = int(len(text) * share)
    return Text(
        name,
        calibrated=_written(f"{name}-calibrated.txt", text[:middle]),
        scored=_written(f"{name}-scored.txt", text[middle:]),
    )


def _written(name: str, content: str) -> Path:
    TEXTS_DIR.mkdir(parents=True, exist_ok=True)
    path = TEXTS_DIR / name
    path.write_text(content, encoding="utf-8")
    return path
