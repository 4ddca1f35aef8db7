import math
from typing import Any

import pytest

from apiq_core.finetune.reports.projection import LLAMAS, Shape, Training, training_bytes
from apiq_core.finetune.reports.report_html import report_html
from tests.unit.core.reports.pages import Page

HOSTILE = "</title><script>alert(1)</script>"


def point(step: int, train: float | None, held_out: float) -> dict[str, Any]:
    speed = None if train is None else 1234.5
    return {
        "step": step,
        "train_loss": train,
        "validation_loss": held_out,
        "lr": 1e-3,
        "tokens_per_s": speed,
    }


def sample(**changes: Any) -> dict[str, Any]:
    return {
        "base": "job_1",
        "model": "org/name",
        "bits": 2.0,
        "group_size": 64,
        "config": {"lr": 1e-3, "patience": None},
        "rows": {"train": 1200, "validation": 60},
        "tokens": {"train": 90_000, "validation": 4_000},
        "trained_parameters": 162_816,
        "validation_loss": {"before": 2.62, "after": 1.33},
        "perplexity": {"before": 13.7, "after": 3.78},
        "exact_match": 0.125,
        "best_step": 20,
        "points": [point(0, None, 2.62), point(10, 2.0, 1.5), point(20, 1.4, 1.33)],
        "seconds": {"training": 60.0, "evaluating": 3.0},
        "peak_memory_bytes": {"training": 10**9, "evaluating": 9 * 10**8},
        "projected_memory_bytes": {"Llama-2-7B": 6 * 10**9},
        "device": "cpu",
        "matmul_dtype": "bfloat16",
        "versions": {"apiq_core": "0.1.0", "peft": "0.18.7"},
    } | changes


def held_out_dots(page: Page) -> list[tuple[float, float]]:
    dots = [dot for dot in page.of_class("a") if "cx" in dot]  # a bar has the same class
    return [(float(str(dot["cx"])), float(str(dot["cy"]))) for dot in dots]


def test_it_shows_what_was_won_and_the_curves() -> None:
    page = Page(report_html(sample()))
    for shown in (
        "1.3300",
        "3.78",
        "12.5 %",
        "162,816",
        "Llama-2-7B",
        "6 GB",
        "1,200 rows",
        "0.18.7",
    ):
        assert shown in page.text
    assert len(page.of_class("a-line")) == len(page.of_class("b-line")) == 1
    (kept,) = page.of_class("kept")
    assert (float(str(kept["cx"])), float(str(kept["cy"]))) == held_out_dots(page)[-1]
    assert "patience" not in page.text


def test_a_lower_loss_is_drawn_lower() -> None:
    dots = held_out_dots(Page(report_html(sample())))
    assert len(dots) == 3
    for places in zip(*dots, strict=True):
        assert list(places) == sorted(set(places))


@pytest.mark.parametrize("loss", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_left_out(loss: float) -> None:
    points = [point(0, None, 2.0), point(10, 1.9, loss)]
    page = Page(report_html(sample(points=points, best_step=0, exact_match=None)))
    assert len(held_out_dots(page)) == 1
    assert "Right final numbers" not in page.text


def test_names_are_escaped() -> None:
    page = Page(report_html(sample(model=HOSTILE, base=HOSTILE)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert HOSTILE in page.text


def test_packed_weights_and_a_smaller_adapter_take_less() -> None:
    llama = LLAMAS["Llama-2-7B"]
    assert llama.block_weights == 4 * 4096**2 + 3 * 4096 * 11008
    dense = Training(16, 64, 2048, 2, is_checkpointed=True)
    packed = Training(2.3, 64, 2048, 2, is_checkpointed=True)
    kept = Training(2.3, 64, 2048, 2, is_checkpointed=False)
    part = Training(2.3, 16, 2048, 2, is_checkpointed=True)
    weights = 32 * llama.block_weights
    saved = training_bytes(llama, dense) - training_bytes(llama, packed)
    assert saved == pytest.approx(weights * (16 - 2.3) / 8)
    assert training_bytes(llama, kept) > training_bytes(llama, packed)
    less = training_bytes(llama, packed) - training_bytes(llama, part)
    assert less == pytest.approx(48 * 32 * llama.channels * 20)


def test_grouped_queries_have_smaller_projections() -> None:
    whole, grouped = Shape(1, 64, 128, 100), Shape(1, 64, 128, 100, kv_share=0.5)
    assert whole.block_weights - grouped.block_weights == 64 * 64
    assert whole.channels - grouped.channels == 64
    assert Shape(1, 64, 128, 100, is_tied=True).embedding_weights == 6400
