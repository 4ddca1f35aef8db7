"""What a tiny model is quantized to, and a dataset that it can learn."""

import json
from pathlib import Path

import pytest

from tests.integration.core.finetune.support import quantized


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions and answers that a tiny model can learn."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"question": f"What is {n % 7} and {n % 5}?", "answer": f"It is #### {n % 7 + n % 5}"}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized(tmp_path_factory.mktemp("base"))
