import math
from typing import Any

import pytest

from apiq_core.reports.html.charts import kept_epoch
from apiq_core.reports.html.text import duration, number, size
from apiq_core.reports.report_html import report_html
from tests.unit.core.reports.pages import Page
from tests.unit.core.reports.sample_report import LAYERS, rtn_report, sample_report

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"


def _numbers_of(page: Page) -> list[float]:
    names = {"x", "y", "width", "height", "cx", "cy", "r", "x1", "x2", "y1", "y2", "fill-opacity"}
    return [
        float(value)
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in names and value is not None
    ]


def test_the_table_shows_every_network_and_what_it_was_measured_on() -> None:
    text = Page(report_html(sample_report())).text

    row = "this model, with adapter|25.00|1.250|0.2500|2.73|172 kB"
    assert row in text
    assert "round to nearest, 2 bits|4,321|216.1|5.500|2.28|—" in text
    assert "full precision|20.00|1.000|0|16.00|362 kB" in text
    assert "measured on 256 tokens of WikiText-2, in 4 windows of 64: not the text" in text
    assert "Calibrated on 1,024 tokens of Python's language reference (builtin)" in text


def test_in_domain_figures_say_so() -> None:
    report = sample_report()
    report["evaluation"]["in_domain"] = True

    assert "in-domain" in Page(report_html(report)).text


def test_nothing_is_loaded_and_nothing_runs() -> None:
    html = report_html(sample_report(blocks=3))
    page = Page(html)

    loading = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "use"}
    assert {tag for tag, _ in page.tags}.isdisjoint(loading)
    assert not any(
        name.startswith("on") or name in ("src", "href") for _, attrs in page.tags for name in attrs
    )
    assert "url(" not in html and "@import" not in html and "://" not in html
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


def test_hostile_names_stay_text() -> None:
    report = sample_report(model=HOSTILE, warnings=[HOSTILE], device=HOSTILE)
    report["versions"][HOSTILE] = HOSTILE
    report["evaluation"]["source"] = report["calibration"]["source"] = HOSTILE
    report["config"]["formats"] = [HOSTILE]
    report["seconds"] = {HOSTILE: 1.0, "total": 1.0}
    for block in report["blocks"]:
        for layer in block["layers"]:
            layer["name"] = HOSTILE
    plain, hostile = Page(report_html(sample_report())), Page(report_html(report))

    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in plain.tags} | {"li"}
    assert not any(name.startswith("on") for _, attrs in hostile.tags for name in attrs)
    assert hostile.text.count(HOSTILE) >= 9


@pytest.mark.parametrize("blocks", [0, 1, 2, 80])
def test_any_number_of_blocks_stays_within_its_picture(blocks: int) -> None:
    page = Page(report_html(sample_report(blocks=blocks)))

    assert len(page.of_class("kept")) == blocks
    assert len([a for a in page.of_class("heat") if a.get("height") == "19"]) == blocks * len(
        LAYERS
    )
    assert all(0 <= x <= 720 for x in _numbers_of(page))


def test_a_larger_error_is_drawn_higher_and_deeper() -> None:
    report = sample_report(blocks=3)
    page = Page(report_html(report))

    heights = [float(a["cy"] or "nan") for a in page.of_class("a") if a.get("r") == "4.0"]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 3
    first_layer = [a for a in page.of_class("heat") if a.get("y") == "0"]
    depths = [float(a["fill-opacity"] or "nan") for a in first_layer]
    assert depths == sorted(depths) and len(set(depths)) == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, 0.0, 1e-300, 1e300])
def test_figures_that_are_no_figures(value: float | None) -> None:
    """NaN and infinity arrive as they are from `quantize`, and as null from report.json."""
    report: dict[str, Any] = sample_report(blocks=3)
    report["perplexity"] = dict.fromkeys(report["perplexity"], value)
    report["kl"] = dict.fromkeys(report["kl"], value)
    report["seconds"] = dict.fromkeys(report["seconds"], 0.0)
    block = report["blocks"][1]
    block["error"] = value
    block["train_loss"], block["held_out_loss"] = [value, value], [value, value, value]
    for layer in block["layers"]:
        layer["output_error"] = layer["weight_error"] = value
    page = Page(report_html(report))

    assert all(math.isfinite(x) for x in _numbers_of(page))
    is_finite = value is not None and math.isfinite(value)
    assert ("not finite" in page.text) is not is_finite
    assert len(page.of_class("bad-line")) == (0 if is_finite else 1)
    assert len(page.of_class("bad")) == (0 if is_finite else len(LAYERS))
    assert "nan" not in page.text and "None" not in page.text


def test_nothing_finite_at_all() -> None:
    report = sample_report(blocks=2)
    for block in report["blocks"]:
        block |= {"error": None, "held_out_loss": [None], "train_loss": [None]}
        for layer in block["layers"]:
            layer["output_error"] = None
    page = Page(report_html(report))

    assert page.of_class("heat") != [] and len(page.of_class("bad-line")) == 2


def test_without_evaluation() -> None:
    report = sample_report(evaluation=None, perplexity=None, kl=None)
    text = Page(report_html(report)).text

    assert "were not measured" in text
    assert "this model, with adapter|—|—|—|2.73|172 kB" in text


def test_of_the_baseline_there_is_neither_adapter_nor_gradient_phase() -> None:
    text = Page(report_html(rtn_report())).text

    assert "this model|40.00|2.000|0.7500|4.62|155 kB" in text
    results = text.partition("Settings")[0]
    assert "|adapter" not in results and "round to nearest, 4 bits|" not in results
    assert "Gradient phase" not in text
    assert "Nothing was calibrated" in text


def test_warnings_come_before_the_results() -> None:
    text = Page(report_html(sample_report(warnings=["block 3 diverged"]))).text

    assert 0 < text.index("block 3 diverged") < text.index("|Results|")
    assert "Warnings" not in Page(report_html(sample_report())).text


@pytest.mark.parametrize(
    ("train", "held_out", "kept"),
    [
        ([], [1.0], 0),
        ([0.5, 0.4], [1.0, 0.8, 0.9], 1),
        ([0.5, 0.4], [1.0, 0.8, 0.8], 2),  # of equals the later
        ([0.5, 0.4], [1.0, 1.1, 1.2], 0),
        ([0.5, math.nan], [1.0, 0.9, 0.1], 1),  # the phase ended there
        ([0.5, None], [1.0, 0.9, None], 1),
        ([0.5], [math.nan, 0.5], 0),
        ([0.5], [math.inf, 0.5], 1),
    ],
)
def test_kept_epoch(train: list[float], held_out: list[float], kept: int) -> None:
    assert kept_epoch(train, held_out) == kept


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (number(0.33089), "0.3309"),
        (number(12.3456), "12.35"),
        (number(1234.5), "1,234"),
        (number(1.2e8), "1.20·10⁸"),
        (number(4.2e-7), "4.20·10⁻⁷"),
        (number(0), "0"),
        (number(True), "1.000"),
        (size(999), "999 B"),
        (size(155_482), "155 kB"),
        (size(87_400_000), "87.4 MB"),
        (size(269_000_000), "269 MB"),
        (size(999_900_000), "1 GB"),
        (size(141e9), "141 GB"),
        (duration(0.038), "0.038 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(552), "9 min 12 s"),
        (duration(53_600), "14 h 53 min"),
    ],
)
def test_figures_in_words(written: str, expected: str) -> None:
    assert written == expected


def test_the_polish_is_shown_with_the_state_that_was_kept() -> None:
    assert "Polish of the whole model" not in report_html(sample_report())
    polish = {"train_loss": [0.75, 0.5], "held_out_loss": [0.9, 0.8, 0.85], "warning": None}
    page = report_html(sample_report(polish=polish))
    _, found = page.split("Polish of the whole model")
    kept = found.split('<tr class="ours">')[1].split("</tr>")[0]
    assert "epoch 1" in kept and "0.75" in kept and "0.8" in kept
