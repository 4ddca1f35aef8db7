"""Tiny random models through the whole core, read back with stock tools."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from apiq_core.config import QuantizeConfig
from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.methods import apiq_bw
from apiq_core.quantize import quantize
from tests.tiny_models import ARCHITECTURES, make_tiny

SMALL = {
    "calibration": {"samples": 8, "length": 32, "held_out": 2},
    "evaluation": {"samples": 4, "length": 64},
}


def small_config(**fields: Any) -> QuantizeConfig:
    return QuantizeConfig.model_validate({"bits": 2} | SMALL | fields)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "llama")


@torch.no_grad()
def stock_perplexity(model: torch.nn.Module, windows: list[list[int]]) -> float:
    tokens = torch.tensor(windows)
    logits = model(tokens).logits[:, :-1].float()
    return math.exp(cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bits", [2, 3])
def test_stock_tools_read_what_the_report_says(
    architecture: str, bits: int, tmp_path: Path
) -> None:
    model_dir = make_tiny(tmp_path / "source", architecture)
    report = quantize(model_dir, tmp_path / "out", small_config(bits=bits, rank=4))
    assert report.perplexity is not None and report.evaluation is not None
    windows = report.evaluation.token_ids
    assert windows is not None
    full = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    assert stock_perplexity(full, windows) == pytest.approx(
        report.perplexity["full_precision"], rel=1e-4
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    assert stock_perplexity(model, windows) == pytest.approx(
        report.perplexity["quantized"], rel=5e-3
    )
    adapted = PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    assert stock_perplexity(adapted, windows) == pytest.approx(
        report.perplexity["quantized_with_adapter"], rel=5e-3
    )
    assert report.kl is not None
    assert report.kl["quantized_with_adapter"] < report.kl["rtn"]


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_every_width_and_group_size_loads(bits: int, group_size: int, tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source", hidden=128, intermediate=256, layers=1)
    config = small_config(bits=bits, group_size=group_size, method="rtn")
    report = quantize(model_dir, tmp_path / "out", config)
    assert report.perplexity is not None and report.evaluation is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    assert report.evaluation.token_ids is not None
    assert stock_perplexity(model, report.evaluation.token_ids) == pytest.approx(
        report.perplexity["rtn"], rel=5e-3
    )
    assert report.perplexity["quantized"] == pytest.approx(report.perplexity["rtn"], rel=1e-9)
    assert not (tmp_path / "out" / "adapter").exists()


def test_artifact_has_the_promised_files_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    quantize(tiny, tmp_path / "out", small_config(), on_event=events.append)
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert {"report.json", "report.html", "README.md"} <= found
    assert {p for p in found if "/" not in p} == {
        "model",
        "adapter",
        "report.json",
        "report.html",
        "README.md",
    }
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= found
    assert {"model/config.json", "model/tokenizer.json"} <= found
    phases = [event.data["phase"] for event in events if event.type == "phase"]
    assert phases == ["calibrating", "quantizing", "evaluating", "packaging"]
    percents = [event.data["percent"] for event in events if event.type == "progress"]
    assert percents == sorted(percents) and percents[-1] == 100.0
    source = json.loads((tiny / "config.json").read_text())
    stored = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert stored.pop("quantization_config")["config_groups"]["group_0"]["weights"]["num_bits"] == 2
    assert stored == source


def test_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize(tiny, tmp_path / name, small_config())
    for file in (tmp_path / "one").rglob("*.safetensors"):
        twin = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == twin.read_bytes(), file.name


@pytest.mark.parametrize("recipe", ["fast", "paper"])
def test_the_gradient_phase_lowers_the_held_out_loss(
    recipe: str, tiny: Path, tmp_path: Path
) -> None:
    config = small_config(
        recipe=recipe,
        rank=4,
        training={"epochs": 4, "lr_adapter": 1e-3},
        # enough text that what is learned holds for text that was not seen: by 1% or more
        calibration={"samples": 128, "length": 64, "held_out": 16},
    )
    report = quantize(tiny, tmp_path / "out", config)
    for block in report.blocks:
        assert len(block.train_loss) == 4 and len(block.held_out_loss) == 5
        assert block.train_loss[-1] < block.train_loss[0]
        assert min(block.held_out_loss) < block.held_out_loss[0]
        assert len(block.held_out_error) == len(block.held_out_seconds) == 5
        assert block.held_out_seconds == sorted(block.held_out_seconds)
        assert block.held_out_seconds[-1] <= block.seconds
        kept = block.held_out_loss.index(min(block.held_out_loss))
        assert block.held_out_error[kept] == pytest.approx(block.error, rel=0.05)


def test_a_diverging_block_keeps_its_start_and_the_run_goes_on(tiny: Path, tmp_path: Path) -> None:
    training = {"epochs": 2, "lr_adapter": 1.0, "lr_quantizer": 1.0}
    report = quantize(tiny, tmp_path / "out", small_config(training=training))
    start = quantize(tiny, tmp_path / "lw", small_config(method="apiq-lw"))
    assert report.blocks[0].held_out_loss[0] == min(report.blocks[0].held_out_loss)
    assert report.blocks[0].error == pytest.approx(start.blocks[0].error)


def test_a_loss_that_is_not_finite_is_reported(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = dataclasses.replace(apiq_bw.FAST, distance=lambda out, target: out.sum() * math.nan)
    monkeypatch.setattr(apiq_bw, "FAST", broken)
    events: list[Event] = []
    report = quantize(tiny, tmp_path / "out", small_config(), on_event=events.append)
    assert len(report.warnings) == 2 and "block 0" in report.warnings[0]
    assert [e.data["code"] for e in events if e.type == "warning"] == ["diverged", "diverged"]
    assert report.kl is not None and math.isfinite(report.kl["quantized_with_adapter"])


def test_stops_at_a_safe_point(tiny: Path, tmp_path: Path) -> None:
    calls = 0

    def stop_later() -> bool:
        nonlocal calls
        calls += 1
        return calls > 9

    with pytest.raises(Stopped):
        quantize(tiny, tmp_path / "out", small_config(), should_stop=stop_later)
    assert not list(tmp_path.rglob("*.tmp"))


def test_text_of_a_file_is_used_and_out_of_domain_is_said(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All work and no play makes a dull model. " * 400)
    source = "dataset:ds_" + "0" * 32
    config = small_config(evaluation={"samples": 2, "length": 64, "source": source})
    report = quantize(tiny, tmp_path / "out", config, texts={source: text})
    assert report.evaluation is not None and not report.evaluation.in_domain
    assert report.calibration is not None and report.calibration.source == "builtin"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"calibration": {"samples": 8192, "length": 256}}, "calibration.samples"),
        ({"evaluation": {"samples": 1024, "length": 512}}, "evaluation.samples"),
    ],
)
def test_too_little_text_says_how_much_there_is(
    fields: dict[str, Any], param: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        quantize(tiny, tmp_path / "out", small_config(**fields))
    assert caught.value.code == "too_little_text" and caught.value.param == param
    available = caught.value.legal["at_most"]
    assert 0 < available < caught.value.value and str(available) in caught.value.message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source")
    tensors = load_file(model_dir / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        quantize(model_dir, tmp_path / "out", small_config())
    assert caught.value.code == "corrupt_weights"
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source", layers=6, hidden=128, intermediate=256)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(InfraError) as caught:
            quantize(model_dir, disk / "out", small_config(method="rtn"))
        assert caught.value.code == "disk_full"
        assert not (disk / "out" / "model").exists()
        blocks = sorted((disk / "out" / "blocks").iterdir())
        assert blocks
        for block in blocks:
            load_file(block)  # whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_command_line_runs_without_any_service(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apiq_core", str(tiny), str(tmp_path / "out"), "--bits", "4"]
    options = ["--method", "rtn", "--evaluation-samples", "2", "--evaluation-length", "32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bits_per_weight"]["adapter"] == 0
    bad = subprocess.run([*command[:-1], "5"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2 and "bits" in bad.stderr and "5" in bad.stderr
    shutil.rmtree(tmp_path / "out")
