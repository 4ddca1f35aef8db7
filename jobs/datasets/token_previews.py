"""How a dataset begins in a model's tokens, and how many it has: asked of a process of its own.

Nothing here loads transformers; `apiq_core.finetune.data.preview_process` does.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apiq_core.errors import UserError
from jobs.artifacts import ArtifactStore
from jobs.database import Database
from jobs.datasets import Dataset, tokenizers
from jobs.datasets.files import ROWS, dataset_key
from jobs.datasets.limited_process import command, environment, last_words
from jobs.datasets.previews import MAX_PREVIEW_BYTES
from jobs.settings import Settings

COUNTED_BYTES = MAX_PREVIEW_BYTES  # of a larger dataset the beginning; holds any three rows
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class TokenPreview:
    """As `apiq_core.finetune.data.preview.Preview`; `is_partial`: only the beginning was read."""

    rows: list[dict[str, Any]]
    counts: dict[str, Any]
    counted_bytes: int
    is_partial: bool


def token_preview(
    dataset: Dataset,
    base: str,
    max_length: int,
    owner: str | None,
    database: Database,
    store: ArtifactStore,
    settings: Settings,
) -> TokenPreview:
    """Read a dataset as the model `base` does: a quantize job that has succeeded, or a model id.
    Rows of more than `max_length` tokens are counted.

    Raises `UserError` as a finetune job would, and `InfraError(hub_unreachable)`.
    """
    with database.read() as connection:
        published = tokenizers.published_by(connection, base, owner)
    with tempfile.TemporaryDirectory() as folder:
        if published is None:
            model_dir = tokenizers.fetch_of_model(base, settings, Path(folder))
        else:
            model_dir = tokenizers.fetch_published(published, store, Path(folder))
        content = _beginning(store, dataset)
        answer = _ask(model_dir, dataset.kind, max_length, content)
    is_partial = len(content) < dataset.size_bytes
    return TokenPreview(answer["rows"], answer["counts"], len(content), is_partial)


def _beginning(store: ArtifactStore, dataset: Dataset) -> bytes:
    """Whole rows, if it holds rows."""
    end = min(dataset.size_bytes, COUNTED_BYTES)
    content = b"".join(store.open_range(dataset_key(dataset.id, dataset.kind), 0, end))
    if dataset.kind == ROWS and end < dataset.size_bytes:
        content = content[: content.rfind(b"\n") + 1]
    return content


def _ask(model_dir: Path, kind: str, max_length: int, content: bytes) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command(
                "apiq_core.finetune.data.preview_process", str(model_dir), kind, str(max_length)
            ),
            input=content,
            capture_output=True,
            timeout=TIMEOUT_S,
            env=environment(),
        )
    except subprocess.TimeoutExpired:
        raise _unreadable(f"it takes more than {TIMEOUT_S:.0f} s") from None
    if done.returncode not in (0, 2):
        raise _unreadable(f"it ended with {done.returncode}: {last_words(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if (error := answer.get("error")) is not None:
        known = {name: error.get(name) for name in ("param", "value", "legal")}
        raise UserError(error["code"], error["message"], **known)
    return answer


def _unreadable(reason: str) -> UserError:
    return UserError(
        "tokenizer_fails", f"the tokenizer of the base cannot read the dataset: {reason}"
    )
