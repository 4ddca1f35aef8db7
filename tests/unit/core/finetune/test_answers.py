"""Final numbers, and answers that are decoded together as they would be alone."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import apiq_core.finetune.answers as answers
from apiq_core.finetune.answers import exact_match, final_number
from apiq_core.finetune.examples import tokenize
from apiq_core.finetune.rows import parse
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
    questions = ["short", "a longer question than that", "the statement of a class"]

    def ask(answer: str) -> list[str]:
        rows = [json.dumps({"question": q, "answer": answer}) for q in questions]
        examples = [tokenize(parse(line), tokenizer) for line in rows]
        return answers._decode(peft, tokenizer, examples, 12)

    together = ask("#### 7")
    alone = [
        answers._decode(
            peft,
            tokenizer,
            [tokenize(parse(json.dumps({"question": q, "answer": "7"})), tokenizer)],
            12,
        )[0]
        for q in questions
    ]
    assert together == alone
    # what the model says is right, where the right answer is what it says
    rows = [
        json.dumps({"question": q, "answer": f"{said} #### 7"})
        for q, said in zip(questions, together, strict=True)
    ]
    examples = [tokenize(parse(line), tokenizer) for line in rows]
    says = [f"{said} #### 7" for said in together]
    monkeypatch.setattr(answers, "_decode", lambda *_: [*says[:2], "no number"])
    found = exact_match(peft, tokenizer, examples, new_tokens=99, check_stop=lambda: None)
    assert found == pytest.approx(2 / 3)
    rows = [json.dumps({"question": q, "answer": "none"}) for q in questions]
    examples = [tokenize(parse(line), tokenizer) for line in rows]
    assert exact_match(peft, tokenizer, examples, new_tokens=9, check_stop=lambda: None) is None
