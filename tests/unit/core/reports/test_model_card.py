import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from apiq_core.config import QuantizeConfig
from apiq_core.quantize import quantize
from apiq_core.reports.model_card import UNPACK, model_card
from tests.tiny_models import make_tiny
from tests.unit.core.reports.sample_report import rtn_report, sample_report


def _at(bits: int, rank: int = 4) -> dict[str, Any]:
    report = sample_report()
    report["config"] |= {"bits": bits, "rank": rank}
    return report


def _front_matter(card: str) -> dict[str, Any]:
    return {k: v for k, v in vars(ModelCard(card).data).items() if v is not None}


def _code(card: str, language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return str(code)


def test_front_matter_is_what_hubs_read() -> None:
    data = _front_matter(model_card(sample_report()))

    assert data["base_model"] == "org/tiny"
    assert data["base_model_relation"] == "quantized"
    assert {"apiq", "compressed-tensors", "2-bit"} <= set(data["tags"])
    assert "license" not in data  # the base model's, which is not known here


@pytest.mark.parametrize(
    "name", ["a folder", "x: y", "a\n---\nlicense: mit", "../up", "/abs/path", "naïve", "a/b/c"]
)
def test_a_name_that_no_hub_has_stays_out_of_the_front_matter(name: str) -> None:
    data = _front_matter(model_card(sample_report(model=name)))

    assert "base_model" not in data and "license" not in data


@pytest.mark.parametrize("name", ["null", "1.5", "yes", "0x10"])
def test_a_name_that_yaml_could_misread_stays_text(name: str) -> None:
    assert _front_matter(model_card(sample_report(model=name)))["base_model"] == name


def test_the_table_and_what_it_was_measured_on() -> None:
    card = model_card(sample_report())

    assert "| this model, with adapter | 25.00 | 0.2500 | 2.73 | 172 kB |" in card
    assert "| round to nearest, 2 bits | 4,321 | 5.500 | 2.28 | — |" in card
    assert "measured on 256 tokens of WikiText-2" in card
    assert "not the text that was calibrated on" in card


@pytest.mark.parametrize(
    ("bits", "group_size", "own", "rounded"), [(2, 64, 2.25, "2.28"), (4, -1, 4.2, "4.25")]
)
def test_rounding_has_zero_points_beside_a_normal_float_that_has_none(
    bits: int, group_size: int, own: float, rounded: str
) -> None:
    report = sample_report()
    report["config"] |= {"method": "qlora", "bits": bits, "group_size": group_size}
    report["bits_per_weight"]["weights"] = own
    card = model_card(report)

    assert f"| round to nearest, {bits} bits | 4,321 | 5.500 | {rounded} | — |" in card
    assert f"| this model, without adapter | 40.00 | 0.7500 | {own:.2f} | " in card


def test_names_and_warnings_cannot_write_markup() -> None:
    hostile = "x](javascript:1) <script> **b** `c` | d\n# e"
    card = model_card(sample_report(model=hostile, warnings=[hostile]))

    assert "<script>" not in card and "**b**" not in card and "`c`" not in card
    assert r"- x\](javascript:1) &lt;script&gt; \*\*b\*\* \`c\` \| d \# e" in card


def test_vllm_is_named_where_it_loads_the_files() -> None:
    assert "vllm" not in model_card(_at(2))
    assert "--max-lora-rank 64 " in model_card(_at(4, rank=33))
    assert "--max-lora-rank 8 " in model_card(_at(4, rank=4))
    assert "vllm serve ./model\n" in model_card(rtn_report())


def test_the_adapter_is_spoken_of_only_where_there_is_one() -> None:
    assert "Merging" in model_card(sample_report())
    assert "adapter" not in model_card(rtn_report()).replace("no adapter", "")


@pytest.mark.parametrize(
    ("fields", "with_adapter", "is_fresh"),
    [
        ({}, 25.0, False),
        ({"method": "gptq-lora"}, None, True),  # not measured
        ({"adapter": "ia3"}, 40.0, True),  # as without: its start was kept
        ({"adapter": "ia3"}, None, False),
    ],
)
def test_an_adapter_that_changes_nothing_yet_corrects_nothing(
    fields: dict[str, Any], with_adapter: float | None, is_fresh: bool
) -> None:
    report = sample_report()
    report["config"] |= fields
    if with_adapter is None:
        report["perplexity"] = None
    else:
        report["perplexity"]["quantized_with_adapter"] = with_adapter
    card = model_card(report)

    assert ("that changes nothing yet: it is to be finetuned" in card) is is_fresh
    assert ("corrects what rounding lost" in card) is not is_fresh
    assert ("Merging" in card) is not is_fresh


def test_plain_weights_are_not_called_packed() -> None:
    report = sample_report()
    report["config"]["formats"] = ["dense"]
    card = model_card(report)

    assert "compressed-tensors" not in _front_matter(card)["tags"]
    assert "packed" not in card and "values of quantized weights in bf16" in card
    assert "unpacks" not in card and "as large as the original's" in card


def test_without_evaluation() -> None:
    card = model_card(sample_report(evaluation=None, perplexity=None, kl=None))

    assert "were not measured" in card
    assert "|" not in card


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own
@pytest.mark.parametrize(
    ("fields", "has_adapter"),
    [
        ({"bits": 2, "method": "apiq-lw"}, True),
        ({"bits": 2, "method": "rtn"}, False),
        ({"bits": 2, "method": "qlora"}, True),
        ({"bits_per_weight": 2.5}, False),  # which leaves no room for factors
        ({"bits_per_weight": 5.5}, True),
    ],
    ids=str,
)
def test_its_lines_load_the_artifact(
    fields: dict[str, Any],
    has_adapter: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = QuantizeConfig.model_validate(
        {
            **fields,
            "calibration": {"samples": 4, "held_out": 1, "length": 32},
            "evaluation": {"samples": 0},
        }
    )
    quantize(make_tiny(tmp_path / "tiny", layers=1), tmp_path / "out", config)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    lines = _code(card, "python")
    assert (tmp_path / "out" / "adapter").exists() == ("PeftModel" in lines) == has_adapter
    assert (UNPACK in lines) == ("bits_per_weight" in fields and has_adapter)
    monkeypatch.chdir(tmp_path / "out")

    exec(lines, {})

    assert capsys.readouterr().out.strip()
    assert "compressed-tensors==0.20.0" in _code(card, "sh")
