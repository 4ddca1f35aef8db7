"""The measures of the benchmarks on tiny random models, in processes of their own."""

from pathlib import Path

import pytest

from apiq_core.checkpoint import Checkpoint
from apiq_core.config import QuantizeConfig
from apiq_core.inspect import inspect_model
from apiq_core.quantize import quantize
from benchmarks.core import models, texts
from benchmarks.core.cells import Cell, compute
from benchmarks.core.contenders import CLOSED_FORM, EVALUATION, FAST, Setting, cell
from benchmarks.core.speed import curve
from benchmarks.core.texts import CALIBRATED, SCORED
from tests.tiny_models import make_tiny


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(texts, "TEXTS_DIR", tmp_path / "texts")
    text = texts.builtin()
    return Setting(make_tiny(tmp_path / "model"), text, (text,), samples=4)


def test_a_model_read_back_scores_as_the_run_itself_says(setting: Setting, tmp_path: Path) -> None:
    asked = cell(FAST, setting, 2)
    assert asked is not None
    work_dir = tmp_path / "work"
    figures = compute(asked, work_dir)
    assert not work_dir.exists()
    evaluation = {"source": SCORED, **EVALUATION}
    config = QuantizeConfig.model_validate(asked.config["quantize"] | {"evaluation": evaluation})
    named = {CALIBRATED: setting.calibrated.calibrated, SCORED: setting.scored[0].scored}
    report = quantize(setting.model_dir, tmp_path / "out", config, texts=named)
    assert report.perplexity is not None and report.kl is not None
    score = figures["scores"]["builtin"]
    exact = report.perplexity["full_precision"]
    assert score["perplexity"] == pytest.approx(report.perplexity["quantized_with_adapter"], 1e-3)
    assert score["full_precision_perplexity"] == pytest.approx(exact, 1e-3)
    assert score["kl"] == pytest.approx(report.kl["quantized_with_adapter"], 1e-2)
    assert figures["block_errors"] == pytest.approx([b.error for b in report.blocks], rel=0.05)
    assert figures["bits_per_weight"] == report.bits_per_weight.model_dump()
    assert figures["histograms"]["mlp.down_proj"].keys() == {"Q", "A", "B"}
    assert sum(figures["histograms"]["mlp.down_proj"]["A"]["shares"]) == pytest.approx(1)
    assert len(curve(figures)) == 4  # before, two epochs, the end


def test_a_round_measures_everybody(setting: Setting, tmp_path: Path) -> None:
    asked = {name: cell(name, setting, 2) for name in (CLOSED_FORM, "rtn")}
    contenders = [
        {"name": name, "measure": one.measure, "config": one.config}
        for name, one in asked.items()
        if one
    ]
    figures = compute(Cell("speed", {"contenders": contenders}, setting.inputs), tmp_path / "work")
    assert figures.keys() == asked.keys()
    assert all(len(curve(one)) == 1 for one in figures.values())


def test_memory_is_that_of_a_process_of_its_own(setting: Setting, tmp_path: Path) -> None:
    asked = cell(CLOSED_FORM, setting, 2)
    assert asked is not None
    config = {"quantize": asked.config["quantize"] | {"evaluation": {"samples": 0}}}
    figures = compute(Cell("memory", config, setting.inputs), tmp_path / "work")
    peak = figures["peak_by_kind_bytes"]
    assert 0 < figures["before_bytes"]["anonymous"] <= peak["anonymous"] < 4e9
    assert len(figures["block_seconds"]) == 2


def test_the_first_blocks_are_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS_DIR", tmp_path / "models")
    whole = make_tiny(tmp_path / "whole", layers=3)
    cut = models.first_blocks(whole, 2)
    assert inspect_model(cut).block_count == 2
    with Checkpoint(whole) as one, Checkpoint(cut) as other:
        assert set(one.names) - set(other.names) == {n for n in one.names if ".layers.2." in n}
        assert all(one.load(name).equal(other.load(name)) for name in other.names)
    assert models.first_blocks(whole, 2) == cut


def test_a_random_model_is_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS_DIR", tmp_path / "models")
    shape = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2}
    model_dir = models.random_model(make_tiny(tmp_path / "like"), blocks=3, **shape)
    facts = inspect_model(model_dir)
    assert facts.block_count == 3
    assert facts.quantized_weight_count == 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
