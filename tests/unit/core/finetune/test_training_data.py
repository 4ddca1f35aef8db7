"""What is trained on, what is held out, and what is said of both."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from apiq_core import text_tokens
from apiq_core.errors import Stopped, UserError
from apiq_core.events import Event
from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.data import read as data
from apiq_core.finetune.data import training_data
from apiq_core.finetune.data.preview import preview_text
from apiq_core.finetune.data.training_data import TrainingData, load_data
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

ROWS = [{"question": f"What is {n}?", "answer": str(n)} for n in range(10)]
LONG = {"prompt": "a", "completion": "the module " * 40}
UNSEEN = {"prompt": "the module " * 40, "completion": "a"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(make_tiny(tmp_path_factory.mktemp("models") / "tiny"))


class Files:
    """Datasets on disk, and what was said of them."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.events: list[Event] = []

    def load(self, dataset: Any, validation: Any = None, **fields: Any) -> TrainingData:
        config = FinetuneConfig.model_validate({"max_length": 64} | fields)
        held_out = None if validation is None else self.write("held", validation)
        return load_data(
            *(self.write("data", dataset), held_out, self.tokenizer, config),
            on_event=self.events.append,
            check_stop=lambda: None,
        )

    def write(self, name: str, content: Any) -> Path:
        if isinstance(content, str):
            file = self.folder / f"{name}.txt"
            file.write_text(content)
        else:
            file = self.folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in content))
        return file


@pytest.fixture
def files(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Files:
    return Files(tmp_path, tokenizer)


def test_a_share_is_held_out(files: Files) -> None:
    found = files.load(ROWS, validation_fraction=0.2)
    assert (len(found.members), len(found.held_out), found.overlap) == (8, 2, 0)
    assert sorted([*found.members, *found.held_out]) == list(range(10))
    assert list(found.files) == ["dataset"]
    assert len(files.load(ROWS * 10).held_out) == 5
    assert len(files.events) == 1  # of the duplicates


def test_a_file_is_held_out(files: Files) -> None:
    found = files.load(ROWS[:7], ROWS[7:])
    assert (found.members, sorted(found.held_out)) == ([*range(7)], [7, 8, 9])
    alone = files.load(ROWS).examples
    assert found.examples == alone
    assert {name: counts.rows for name, counts in found.files.items()} == {
        "dataset": 7,
        "validation": 3,
    }
    assert (found.overlap, files.events) == (0, [])
    assert len(files.load(ROWS[:1], ROWS[1:2]).examples) == 2  # nothing need be split off


def test_the_first_of_a_validation_file_are_a_sample_of_it(files: Files) -> None:
    held_out = files.load(ROWS, ROWS * 4).held_out
    assert sorted(held_out) == [*range(10, 50)]
    assert held_out[:10] != sorted(held_out[:10])
    assert (
        held_out
        == files.load(ROWS, ROWS * 4).held_out
        != files.load(ROWS, ROWS * 4, seed=1).held_out
    )


def test_what_is_in_both_is_told(files: Files) -> None:
    again = ROWS[0] | {"source": "another field, the same tokens"}
    found = files.load(ROWS[:7], [again, *ROWS[6:]])
    assert found.overlap == 2
    (event,) = files.events
    assert (event.type, event.data["code"]) == ("warning", "validation_overlaps")
    assert event.data["message"].startswith("2 of 5 held-out rows")


def test_rows_that_were_cut_are_counted(files: Files) -> None:
    found = files.load([*ROWS, ROWS[0], LONG, UNSEEN], [LONG], truncate=True)
    assert found.files["dataset"].model_dump() == {
        "rows": 13,
        "duplicates": 1,
        "cut": 2,
        "left_out": 1,
    }
    assert found.files["validation"].cut == 1
    assert (len(found.members), len(found.held_out)) == (12, 1)


def test_texts(files: Files) -> None:
    found = files.load("the module " * 100, "another one " * 30)
    counts = found.files["dataset"]
    assert (counts.rows, counts.duplicates) == (len(found.members), None)
    assert found.files["validation"].rows == len(found.held_out) > 1


@pytest.mark.parametrize(
    ("dataset", "validation", "code", "param"),
    [
        (ROWS, [{"text": 3}], "bad_rows", "validation"),
        ([{"text": 3}], ROWS, "bad_rows", "dataset"),
        (ROWS, [], "empty_dataset", "validation"),
        (ROWS, [LONG], "rows_too_long", "validation"),
        ([LONG], ROWS, "rows_too_long", "max_length"),
        (
            ROWS,
            [{"messages": [{"role": "assistant", "content": "Hi"}]}],
            "no_chat_template",
            "validation",
        ),
        ("the module", "", "too_little_data", "validation"),
        ("", "the module", "too_little_data", "dataset"),
        ("a", None, "too_little_data", "dataset"),
        (ROWS[:1], None, "too_little_data", "dataset"),
    ],
)
def test_the_file_at_fault_is_named(
    files: Files, dataset: Any, validation: Any, code: str, param: str
) -> None:
    with pytest.raises(UserError) as caught:
        files.load(dataset, validation)
    assert (caught.value.code, caught.value.param) == (code, param)
    if param == "validation":
        assert caught.value.message.startswith("validation: ")


@pytest.mark.parametrize(
    ("dataset", "value", "said"),
    [
        ("", 0, "the text has no token; legal: two or more"),
        ("a", 1, "the text has a single token; legal: two or more"),
        ("a a", 2, "the text has 2 tokens to train on, a single window; legal: two windows or "),
        ("a" + " a" * 7, 8, "the text has 8 tokens to train on, a single window; legal: two"),
    ],
)
def test_a_text_of_one_window(files: Files, dataset: str, value: int, said: str) -> None:
    with pytest.raises(UserError) as caught:
        files.load(dataset, max_length=8)
    assert caught.value.message.startswith(said)
    assert (caught.value.param, caught.value.value) == ("dataset", value)
    if value > 1:
        assert ": 10 tokens, or a max_length smaller than 8, or " in caught.value.message
        assert caught.value.legal == {"at_least": 10}
        assert len(files.load("a" + " a" * 9, max_length=8).examples) == 2


def test_a_text_is_utf8(files: Files) -> None:
    dataset = files.write("latin", "")
    dataset.write_bytes("caf\u00e9 ".encode("latin-1") * 200)
    with pytest.raises(UserError) as caught:
        load_data(
            *(dataset, None, files.tokenizer, FinetuneConfig()),
            on_event=files.events.append,
            check_stop=lambda: None,
        )
    error = caught.value
    assert (error.code, error.param, error.value) == ("not_utf8", "dataset", "0xe9")


def test_a_text_is_read_as_previews_show_it(files: Files) -> None:
    content = b"\xef\xbb\xbf" + b"the module\r\n" * 20  # as editors on Windows write it
    file = files.folder / "data.txt"
    file.write_bytes(content)
    config = FinetuneConfig(max_length=16)
    read = load_data(file, None, files.tokenizer, config, files.events.append, lambda: None)
    ids = [token for example in read.examples for token in example.tokens]
    (shown,) = preview_text(content, files.tokenizer, config.max_length).rows
    assert [token.id for token in shown.tokens] == ids
    assert files.tokenizer.decode(ids) == "the module\r\n" * 20


@pytest.mark.parametrize("dataset", ["a text\n", ROWS])
def test_a_stop_order_is_heard_while_a_file_is_read(
    files: Files, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def check_stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Stopped

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("all was read")

    monkeypatch.setattr(text_tokens, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(data, "CHUNK_BYTES", 100)
    monkeypatch.setattr(training_data, "to_examples", never)
    monkeypatch.setattr(training_data, "windows", never)
    file = files.write("data", dataset * 100)
    config = FinetuneConfig()
    with pytest.raises(Stopped):
        load_data(file, None, files.tokenizer, config, files.events.append, check_stop)
