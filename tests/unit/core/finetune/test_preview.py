"""What a preview shows is what training reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from apiq_core.finetune.data.examples import tokenize
from apiq_core.finetune.data.preview import SHOWN_TOKENS, preview_rows, preview_text
from apiq_core.finetune.data.rows import parse
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
ROWS: list[dict[str, Any]] = [
    {"question": "Wie heißt der Fuchs? 🦊", "answer": "Viktor 🦊"},
    {"prompt": "The ", "completion": "module"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    {"text": "the module " * 40},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tiny(tmp_path_factory.mktemp("models") / "tiny")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture
def tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(model_dir)


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_tokens_are_those_of_training(tokenizer: PreTrainedTokenizerBase) -> None:
    found = preview_rows(jsonl(*ROWS), tokenizer, 64)
    examples = [tokenize(parse(json.dumps(row)), tokenizer) for row in ROWS]
    for row, example in zip(found.rows, examples[:3], strict=True):
        assert [token.id for token in row.tokens] == list(example.tokens)
        assert [token.learned for token in row.tokens][1:] == list(example.learned)[1:]
        assert (row.length, row.learned) == (len(example), sum(example.learned[1:]))
    counts = found.counts
    assert (counts.rows, counts.max_length) == (4, 64)
    assert counts.tokens == sum(map(len, examples))
    assert counts.learned == sum(sum(example.learned[1:]) for example in examples)
    assert counts.longest == len(examples[3]) > 64
    assert counts.too_long == 1
    assert preview_rows(jsonl(*ROWS), tokenizer, counts.longest).counts.too_long == 0


def test_the_texts_of_the_tokens_make_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    question, prompt, chat = preview_rows(jsonl(*ROWS), tokenizer, 512).rows
    text = "Question: Wie heißt der Fuchs? 🦊\nAnswer: Viktor 🦊</s>"
    assert "".join(token.text for token in question.tokens) == text
    learned = [token.text for token in question.tokens if token.learned]
    assert "".join(learned) == " Viktor 🦊</s>"
    assert "".join(token.text for token in chat.tokens) == "<s>user: Hi</s><s>assistant: Ho</s>"
    assert prompt.tokens[-1].text == "</s>"


def test_nothing_predicts_the_first_token(tokenizer: PreTrainedTokenizerBase) -> None:
    (row,) = preview_rows(jsonl({"text": "the module"}), tokenizer, 512).rows
    assert [token.learned for token in row.tokens] == [False] + [True] * (row.length - 1)
    assert row.learned == row.length - 1


def test_a_long_row_is_shown_in_part(tokenizer: PreTrainedTokenizerBase) -> None:
    (row,) = preview_rows(jsonl({"text": "x " * 3000}), tokenizer, 512).rows
    assert len(row.tokens) == SHOWN_TOKENS < row.length


def test_a_text(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "Grüße, the module. " * 100
    found = preview_text(text.encode()[:-1], tokenizer, 64)  # cut anywhere
    ids = tokenizer(text[:-1], add_special_tokens=False)["input_ids"]
    assert (found.counts.rows, found.counts.tokens) == (1, len(ids))
    assert found.counts.too_long is None
    assert "".join(token.text for token in found.rows[0].tokens) == text[:1000]


def run(model_dir: Path, content: bytes) -> "subprocess.CompletedProcess[bytes]":
    command = [
        sys.executable,
        "-m",
        "apiq_core.finetune.data.preview_process",
        str(model_dir),
        "rows",
    ]
    command.append("512")
    return subprocess.run(command, input=content, capture_output=True)


def test_the_process_says_the_same_without_torch(
    model_dir: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    done = run(model_dir, jsonl(*ROWS))
    assert done.returncode == 0, done.stderr.decode()
    assert b"PyTorch was not found" in done.stderr
    found = preview_rows(jsonl(*ROWS), tokenizer, 512)
    answer = json.loads(done.stdout)
    assert answer["counts"] == vars(found.counts)
    assert answer["rows"][0]["tokens"] == [vars(token) for token in found.rows[0].tokens]


def test_the_process_says_what_is_wrong(tmp_path: Path) -> None:
    directory = make_tiny(tmp_path / "no-template")
    done = run(directory, jsonl(ROWS[2]))
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "no_chat_template"
