"""Final numbers, and answers that are decoded together as they would be alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import apiq_core.finetune.answers as answers
from apiq_core.events import Event
from apiq_core.finetune.answers import Question, exact_match, final_number, questions
from apiq_core.finetune.data.examples import tokenize
from apiq_core.finetune.data.rows import parse
from apiq_core.tokenizer import load_tokenizer
from tests.tiny_models import make_tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("24 clips.\n#### 72", 72),
        ("it costs $1,234.50", 1234.5),
        ("-3 degrees", -3),
        ("4 or 5.", 5),
        ("nothing", None),
        ("", None),
    ],
)
def test_final_number(text: str, number: float | None) -> None:
    assert final_number(text) == number


def test_answers_decoded_together_are_those_decoded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = make_tiny(tmp_path / "m")
    tokenizer = load_tokenizer(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    topics = ["short", "a longer question than that", "the statement of a class"]

    def asked(*right: str) -> list[Question]:
        pairs = zip(topics, right, strict=True)
        rows = [json.dumps({"question": q, "answer": answer}) for q, answer in pairs]
        return list(questions(tokenizer, [tokenize(parse(line), tokenizer) for line in rows]))

    prompts = [question.prompt for question in asked("7", "7", "7")]
    together = answers._decode(peft, tokenizer, prompts, 12, set())
    assert together == [answers._decode(peft, tokenizer, [p], 12, set())[0] for p in prompts]

    def matched(found: list[Question]) -> float | None:
        return exact_match(
            *(peft, tokenizer, found), new_tokens=99, on_event=print, check_stop=lambda: None
        )

    # what the model says is right, where the right answer is what it says
    says = [f"{said} #### 7" for said in together]
    monkeypatch.setattr(answers, "_decode", lambda *_: [*says[:2], "no number"])
    assert matched(asked(*says)) == pytest.approx(2 / 3)
    assert asked("none", "none", "none") == []
    assert matched([]) is None


def test_an_answer_ends_with_the_turn(tmp_path: Path) -> None:
    """Which need not be the token that the model's config ends texts with."""
    model_dir = make_tiny(tmp_path / "m")
    tokenizer = load_tokenizer(model_dir)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}<s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    turns = {"user": "What is 1 and 1?", "assistant": "It is 2"}
    messages = [{"role": role, "content": content} for role, content in turns.items()]
    example = tokenize(parse(json.dumps({"messages": messages})), tokenizer)
    (question,) = questions(tokenizer, [example])
    assert question.stop == tokenizer.bos_token_id

    # Any: mypy finds no model of transformers to be one that its `generate` takes
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    prompt = torch.tensor([question.prompt])
    said = model.generate(input_ids=prompt, max_new_tokens=12, do_sample=False, pad_token_id=1)
    tokens = said[0, prompt.shape[1] :].tolist()
    stop = tokens[5]
    shorter = answers._decode(model, tokenizer, [question.prompt], 12, {stop})
    assert shorter == [tokenizer.decode(tokens[: tokens.index(stop)])]


def test_a_chat_is_asked_its_first_question(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny(tmp_path / "m"))
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    turns = ["What is 1 and 1?", "It is 2", "And 1?", "It is 3"]
    roles = ["user", "assistant"] * 2
    messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]
    example = tokenize(parse(json.dumps({"messages": messages})), tokenizer)
    text = tokenize(parse('{"text": "There are 7."}'), tokenizer)
    (question,) = questions(tokenizer, [text, example])
    assert tokenizer.decode(list(question.prompt)) == "[user]What is 1 and 1?[assistant]"
    assert question.wanted == 2


def test_long_answers_are_decoded_in_parts_and_may_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nobody: Any = None
    decoded: list[int] = []
    events: list[Event] = []

    def decode(
        _model: Any, _tokenizer: Any, prompts: list[tuple[int, ...]], limit: int, _: Any
    ) -> Any:
        decoded.append(len(prompts))
        assert len(prompts) * (max(map(len, prompts)) + limit) <= 100
        if max(map(len, prompts)) == 25:
            raise torch.OutOfMemoryError("the GPU is full")
        return ["7"] * len(prompts)

    def matched(lengths: list[int]) -> float | None:
        asked = [Question((5,) * n, 3, None, 7.0) for n in lengths]
        return exact_match(
            *(nobody, nobody, asked),
            new_tokens=99,
            on_event=events.append,
            check_stop=lambda: None,
        )

    monkeypatch.setattr(answers, "_decode", decode)
    monkeypatch.setattr(answers, "BATCH_TOKENS", 100)
    assert matched([4, 19, 4, 14, 4, 4]) == 1.0
    assert (decoded, events) == ([4, 2], [])  # four of 25 tokens, with those of the answer
    assert matched([4, 25]) is None
    (event,) = events
    assert (event.type, event.data["code"]) == ("warning", "out_of_memory")
