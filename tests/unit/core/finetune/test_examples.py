"""Which tokens the model reads, and which of them carry loss."""

import json
import tracemalloc
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from apiq_core.errors import Stopped, UserError
from apiq_core.finetune.data.examples import Example, cut, to_examples, tokenize, windows
from apiq_core.finetune.data.rows import Row, parse
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a color."},
    {"role": "assistant", "content": "Blue, as the sea."},
    {"role": "user", "content": "Another one."},
    {"role": "assistant", "content": "Green."},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(model_dir)


def example(tokenizer: PreTrainedTokenizerBase, **fields: Any) -> Example:
    return tokenize(parse(json.dumps(fields)), tokenizer)


def never() -> None:
    """Nobody asks to stop."""


def chat(answer: str) -> Row:
    messages = [CHAT[1], {"role": "assistant", "content": answer}]
    return parse(json.dumps({"messages": messages}))


def learned_text(tokenizer: PreTrainedTokenizerBase, found: Example) -> str:
    pairs = zip(found.tokens, found.learned, strict=True)
    return str(tokenizer.decode([token for token, learned in pairs if learned]))


def asked_and_answered(
    tokenizer: PreTrainedTokenizerBase, found: Example
) -> tuple[str, str] | None:
    if found.answer is None:
        return None
    begin, end = found.answer
    return str(tokenizer.decode(list(found.tokens[:begin]))), str(
        tokenizer.decode(list(found.tokens[begin:end]))
    )


def test_loss_is_on_the_completion_and_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    found = example(tokenizer, prompt="The capital of France", completion=" is Paris.")
    assert learned_text(tokenizer, found) == " is Paris.</s>"
    assert str(tokenizer.decode(list(found.tokens))) == "The capital of France is Paris.</s>"
    assert asked_and_answered(tokenizer, found) == ("The capital of France", " is Paris.</s>")


def test_the_text_is_tokenized_as_a_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    found = example(tokenizer, prompt="The statem", completion="ent is a statement")
    whole = tokenizer("The statement is a statement", add_special_tokens=False)["input_ids"]
    assert list(found.tokens[:-1]) == whole


def test_loss_is_on_what_the_assistant_says(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TEMPLATE
    found = example(tokenizer, messages=CHAT)
    assert learned_text(tokenizer, found) == "Blue, as the sea.\nGreen.\n"
    whole = "".join(f"[{m['role']}]{m['content']}\n" for m in CHAT)
    assert str(tokenizer.decode(list(found.tokens))) == whole


def test_the_assistant_may_speak_first(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TEMPLATE
    found = example(tokenizer, messages=[CHAT[4], *CHAT[1:3]])
    assert learned_text(tokenizer, found) == "Green.\nBlue, as the sea.\n"
    silent = CHAT[4] | {"content": " "}
    found = example(tokenizer, messages=[silent, *CHAT[1:3]])
    assert learned_text(tokenizer, found) == "Blue, as the sea.\n"


def test_of_a_chat_the_first_question_is_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = TEMPLATE
    found = asked_and_answered(tokenizer, example(tokenizer, messages=CHAT))
    prompt = "[system]Be brief.\n[user]Name a color.\n[assistant]"
    assert found == (prompt, "Blue, as the sea.\n")


@pytest.mark.parametrize("first", [True, False], ids=["first token", "no first token"])
def test_what_asks_nothing_has_no_answer(tokenizer: PreTrainedTokenizerBase, first: bool) -> None:
    if first:
        backend: Any = tokenizer
        backend.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    assert example(tokenizer, text="There are 3.").learned[0] is not first
    assert example(tokenizer, text="There are 3.").answer is None
    assert example(tokenizer, prompt="", completion="There are 3.").answer is None
    whole = example(tokenizer, prompt="How many? ", completion="There are 3.")
    assert whole.answer is not None
    assert whole.tokens[: whole.answer[0]] == whole.tokens[: -whole.learned.count(True)]
    assert cut(whole, len(whole) - 1).answer is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, None),
        ("{{ raise_exception('No tools') if messages[-1].content == 'b' }}" + TEMPLATE, "refuses"),
        ("{{ 'twice' if messages[-1].content == 'b' }}" + TEMPLATE, "rewrites"),
    ],
)
def test_the_lines_are_named_of_chats_that_a_template_does_not_take(
    tokenizer: PreTrainedTokenizerBase, template: str | None, said: str | None
) -> None:
    tokenizer.chat_template = template
    rows = [(line, chat("b" if line % 7 == 0 else "a")) for line in range(1, 161)]

    def refused(rows: list[tuple[int, Row]]) -> UserError:
        with pytest.raises(UserError) as caught:
            to_examples(rows, tokenizer, 64, truncate=False, check_stop=never)
        assert caught.value.param == "dataset"
        return caught.value

    if said is None:
        assert refused(rows).code == "no_chat_template"
        return
    reason = {"refuses": "No tools", "rewrites": "it cannot be told"}[said]
    assert f"the chat template {said} line 7, 14: {reason}" in refused(rows[:20]).message
    error = refused(rows)
    assert error.value == [*range(7, 141, 7)]
    assert f"line {', '.join(map(str, error.value))}, ...: {reason}" in error.message


def test_a_stop_order_is_heard_though_a_template_refuses(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ 1 / 0 }}"

    def check_stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        to_examples([(1, chat("a"))], tokenizer, 16, truncate=False, check_stop=check_stop)


def test_long_rows_are_listed_or_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    long = "the module " * 40
    lines = [
        {"prompt": "a", "completion": long},
        {"text": "short enough"},
        {"prompt": long, "completion": "never seen"},
    ]
    rows = [(number, parse(json.dumps(line))) for number, line in enumerate(lines, 1)]
    with pytest.raises(UserError) as caught:
        to_examples(rows, tokenizer, 16, truncate=False, check_stop=never)
    assert caught.value.code == "rows_too_long"
    assert "2 rows have more than 16 tokens: line 1, 3;" in caught.value.message
    found = to_examples(rows, tokenizer, 16, truncate=True, check_stop=never)
    assert (found.cut, found.left_out) == (2, 1)
    first, second = found.kept
    assert len(first) == 16
    assert learned_text(tokenizer, second) == "short enough</s>"
    with pytest.raises(UserError, match="no row has a token that carries loss") as caught:
        to_examples(rows[2:], tokenizer, 16, truncate=True, check_stop=never)
    assert (caught.value.param, caught.value.value) == ("max_length", 16)
    assert "within its first 16; legal: a larger max_length, or " in caught.value.message


def test_a_stop_order_is_heard_between_rows(tokenizer: PreTrainedTokenizerBase) -> None:
    read = 0

    def rows() -> Iterator[tuple[int, Row]]:
        nonlocal read
        for read in range(1, 1000):
            yield read, parse('{"text": "a b c"}')

    def check_stop() -> None:
        if read > 155:
            raise Stopped

    with pytest.raises(Stopped):
        to_examples(rows(), tokenizer, 16, truncate=False, check_stop=check_stop)
    assert read == 161


def test_windows_of_a_plain_text_follow_each_other() -> None:
    found = windows(range(10), 4, [])
    assert [w.tokens for w in found] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert [w.learned for w in found] == [(True,) * 4, (True,) * 4, (True,) * 2]
    assert windows(range(9), 4, [])[-1].tokens == (4, 5, 6, 7)  # a single token predicts nothing
    found = windows(range(5), 4, [9])
    assert [w.tokens for w in found] == [(9, 0, 1, 2), (9, 3, 4)]
    assert [w.learned for w in found] == [(False, True, True, True), (False, True, True)]
    assert windows([5], 4, [9]) == windows([], 4, [9]) == []


def test_a_token_of_a_plain_text_takes_a_few_bytes() -> None:
    tokens = array("i", (1000 + i % 300 for i in range(100_000)))
    tracemalloc.start()
    found = windows(tokens, 500, [])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 200
    assert size < 10 * len(tokens)
