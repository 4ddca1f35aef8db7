"""The card of a finetune job, from a report without a run."""

from typing import Any

import pytest

from apiq_core.finetune.config import FinetuneConfig
from apiq_core.finetune.reports.model_card import PLACEHOLDER, model_card
from apiq_core.finetune.reports.report import FinetuneReport, Scores


def report(*, bits: float | None = 2.0, model: str = "me/tiny", **config: Any) -> FinetuneReport:
    return FinetuneReport(
        base=model,
        model=model,
        bits=bits,
        group_size=None if bits is None else 64,
        config=FinetuneConfig.model_validate(config),
        rows={"train": 32, "validation": 8},
        tokens={"train": 320, "validation": 80},
        files={},
        overlap=0,
        trained_parameters=1000,
        validation_loss=Scores(before=2.0, after=1.0),
        perplexity=Scores(before=7.4, after=2.7),
        exact_match=None,
        best_step=1,
        points=[],
        seconds={"training": 1.0},
        peak_memory_bytes={"training": 1},
        projected_memory_bytes={},
        device="cpu",
        matmul_dtype="bfloat16",
    )


def card(made: FinetuneReport, **origin: bool) -> str:
    return model_card(made, **({"is_job": False, "is_on_hub": False, "is_mixed": False} | origin))


def test_a_base_of_the_hub_loads_by_its_id() -> None:
    text = card(report(bits=None), is_on_hub=True)
    assert text.count('from_pretrained("me/tiny")') == 2
    assert PLACEHOLDER not in text


def test_a_base_that_no_hub_need_have_loads_by_a_path() -> None:
    text = card(report(bits=None))
    assert 'from_pretrained("me/tiny")' not in text
    assert text.count(f'from_pretrained("{PLACEHOLDER}")') == 2
    assert f"in place of `{PLACEHOLDER}`" in text


@pytest.mark.parametrize(("bits", "shown"), [(2.0, "2"), (2.11111, "2.11"), (2.5, "2.5")])
def test_a_mean_width_has_two_digits(bits: float, shown: str) -> None:
    text = card(report(bits=bits, method="l4q"))
    assert f"# me/tiny at {shown} bits, finetuned by L4Q\n" in text
    assert f"- {shown}-bit\n" in text
    assert f"# An adapter for me/tiny at {shown} bits\n" in card(report(bits=bits), is_job=True)


def test_it_says_which_layers_were_trained_if_not_all() -> None:
    assert "Only layers" not in card(report())
    assert "Only layers of attention were trained." in card(report(train="attention"))
    assert "Only layers of the MLP were trained." in card(report(train="mlp"))


@pytest.mark.parametrize("is_job", [False, True])
def test_a_model_of_its_own_needs_no_base(is_job: bool) -> None:
    text = card(report(method="l4q").model_copy(update={"base": "job_1"}), is_job=is_job)
    assert text.count('from_pretrained("model")') == 2
    assert PLACEHOLDER not in text and "apiq artifacts" not in text


@pytest.mark.parametrize("base", ["job_1", "a-folder"])
def test_the_model_of_a_base_is_put_beside_the_adapter(base: str) -> None:
    """tests/e2e/test_readme.py executes these lines."""
    text = card(report().model_copy(update={"base": base}), is_job=True)
    assert text.count('from_pretrained("base/model")') == 2
    assert "put that into `base/` beside this file" in text
    fetch = "apiq artifacts download job_1 'model/*' --dir base\n"
    assert (fetch in text) == (base == "job_1")


def test_a_perplexity_can_be_read() -> None:
    made = report().model_copy(update={"perplexity": Scores(before=32894506806.95, after=2.7)})
    assert "| perplexity | 3.29·10¹⁰ | 2.700 |" in card(made)
