"""Tiny random models through the whole core, read back with stock tools."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from apiq_core.adapters import ADAPTERS
from apiq_core.block import Block, BlockResult
from apiq_core.budget.plan import Plan
from apiq_core.calibration import draw_windows
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.errors import InfraError, Stopped, UserError
from apiq_core.events import Event
from apiq_core.methods import apiq_bw
from apiq_core.optimise import Student, train_block
from apiq_core.quantize import quantize
from apiq_core.report import Report
from apiq_core.tokenizer import load_tokenizer
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
    assert_stock_tools_agree(model_dir, tmp_path / "out", report)
    assert report.kl is not None
    assert report.kl["quantized_with_adapter"] < report.kl["rtn"]


def assert_stock_tools_agree(model_dir: Path, out_dir: Path, report: Report) -> None:
    assert report.perplexity is not None and report.evaluation is not None
    windows = report.evaluation.token_ids
    assert windows is not None
    full = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    assert stock_perplexity(full, windows) == pytest.approx(
        report.perplexity["full_precision"], rel=1e-4
    )
    model = AutoModelForCausalLM.from_pretrained(out_dir / "model", dtype=torch.float32)
    assert stock_perplexity(model, windows) == pytest.approx(
        report.perplexity["quantized"], rel=5e-3
    )
    if report.config.rank:
        model = PeftModel.from_pretrained(model, out_dir / "adapter")
    assert (out_dir / "adapter").exists() == bool(report.config.rank)
    assert stock_perplexity(model, windows) == pytest.approx(
        report.perplexity["quantized_with_adapter"], rel=5e-3
    )


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize(
    ("fields", "architecture"),
    [
        ({"method": "apiq-lw", "recipe": "paper", "rank": 4, "training": {"epochs": 1}}, "llama"),
        ({"method": "gptq", "formats": ["dense"]}, "llama"),
        # the norms of gemma, the biases of qwen2
        ({"method": "awq"}, "gemma3_text"),
        ({"method": "awq"}, "qwen2"),
        ({"method": "omniquant", "training": {"epochs": 1}}, "llama"),
        ({"method": "loftq", "rank": 4}, "llama"),
        ({"method": "qlora", "rank": 4, "bits": 4}, "llama"),
        ({"method": "qlora", "rank": 4, "bits": 2}, "llama"),
        ({"method": "gptq-lora", "rank": 4}, "llama"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_every_method_is_read_by_stock_tools(
    fields: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    model_dir = make_tiny(tmp_path / "source", architecture, num_key_value_heads=4)
    report = quantize(model_dir, tmp_path / "out", small_config(**fields))
    assert_stock_tools_agree(model_dir, tmp_path / "out", report)
    stored = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert ("quantization_config" in stored) == (report.config.formats != ["dense"])
    bits = report.config.bits
    zero_bits = 0 if fields["method"] == "qlora" else bits
    stored_bits = bits + (16 + zero_bits) / 64  # whatever the format
    assert report.bits_per_weight.weights == pytest.approx(stored_bits, abs=1e-4)
    assert report.kl is not None
    if fields["method"] in ("gptq-lora", "qlora"):  # an adapter that does nothing yet
        assert report.kl["quantized_with_adapter"] == report.kl["quantized"]
    if fields["method"] != "qlora":
        assert report.kl["quantized_with_adapter"] < report.kl["rtn"]


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_awq_stores_the_norms_that_belong_to_its_weights(architecture: str, tmp_path: Path) -> None:
    model_dir = make_tiny(tmp_path / "source", architecture)
    tensors = load_file(model_dir / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("input_layernorm.weight", "pre_feedforward_layernorm.weight")):
            tensor[::7] = 20.0  # channels worth to be scaled
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})

    report = quantize(model_dir, tmp_path / "out", small_config(method="awq", bits=3))

    assert report.kl is not None and report.kl["quantized"] < 0.9 * report.kl["rtn"]
    stored = load_file(tmp_path / "out" / "model" / "model-00002-of-00003.safetensors")
    norm = "model.layers.0.input_layernorm.weight"
    assert stored[norm].dtype == tensors[norm].dtype
    assert (stored[norm][::7] < 0.8 * tensors[norm][::7]).all()


def test_dense_weights_are_the_values_of_the_packed_ones(tiny: Path, tmp_path: Path) -> None:
    for name in ("dense", "compressed-tensors"):
        quantize(tiny, tmp_path / name, small_config(method="rtn", formats=[name]))
    dense, packed = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "model", dtype=torch.float32)
        for name in ("dense", "compressed-tensors")
    )
    for (name, one), other in zip(dense.named_parameters(), packed.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16().float()), name


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("adapter", ["dora", "ia3"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])  # qwen2 has biases
def test_stock_peft_reads_every_adapter(
    architecture: str,
    adapter: Literal["dora", "ia3"],
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model_dir = make_tiny(tmp_path / "source", architecture)
    give_biases(model_dir)
    start = ADAPTERS[adapter].start
    generator = torch.Generator().manual_seed(0)

    def far_from_the_start(*args: Any, **kwargs: Any) -> Any:
        def move(x: torch.Tensor) -> torch.Tensor:
            return x * (1 + 0.3 * torch.randn(x.shape, generator=generator))

        return start(*args, **kwargs).each(move)

    monkeypatch.setattr(ADAPTERS[adapter], "start", far_from_the_start)
    config = small_config(adapter=adapter, recipe=recipe, training={"epochs": 0})
    report = quantize(model_dir, tmp_path / "out", config)
    assert report.perplexity is not None and report.evaluation is not None
    windows = report.evaluation.token_ids
    assert windows is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    perplexity = report.perplexity["quantized_with_adapter"]
    assert stock_perplexity(adapted, windows) == pytest.approx(perplexity, rel=5e-3)
    assert report.kl is not None  # of a random model, perplexity may stay the same by chance
    assert report.kl["quantized_with_adapter"] != pytest.approx(report.kl["quantized"], rel=0.05)
    stored = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    stored_bits = 8 * sum(tensor.nbytes for tensor in stored.values())
    assert report.bits_per_weight.adapter == pytest.approx(
        stored_bits / report.quantized_weight_count, abs=1e-4
    )


def mixed_plan(*args: Any) -> Plan:
    """Every width, ranks that differ, and layers without adapter; on a random model of this size
    rank is hardly ever worth its bytes."""
    widths = {"self_attn.o_proj": 4, "mlp.gate_proj": 3, "mlp.up_proj": 3, "mlp.down_proj": 8}
    ranks = {"self_attn.k_proj": 2, "self_attn.o_proj": 1, "mlp.up_proj": 8}
    layers = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", *widths]
    first = {name: LayerSpec(widths.get(name, 2), 32, ranks.get(name, 0)) for name in layers}
    second = {name: LayerSpec(3, 32, 2 if name.endswith("down_proj") else 0) for name in layers}
    return [first, second]


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize("method", ["apiq-bw", "apiq-lw"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text"])
def test_stock_tools_read_layers_of_different_widths(
    architecture: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = make_tiny(tmp_path / "source", architecture)
    monkeypatch.setattr("apiq_core.quantize.make_plan", mixed_plan)
    config = QuantizeConfig.model_validate(SMALL | {"bits_per_weight": 6.0, "method": method})
    report = quantize(model_dir, tmp_path / "out", config)
    assert [
        {layer.name: (layer.bits, layer.rank) for layer in block.layers} for block in report.blocks
    ] == [{name: (spec.bits, spec.rank) for name, spec in specs.items()} for specs in mixed_plan()]
    assert report.perplexity is not None and report.evaluation is not None
    windows = report.evaluation.token_ids
    assert windows is not None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "model.hf_quantizer.compressor.decompress_model(model)" in card
    model.hf_quantizer.compressor.decompress_model(model)
    assert stock_perplexity(model, windows) == pytest.approx(
        report.perplexity["quantized"], rel=5e-3
    )
    adapted = PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    assert stock_perplexity(adapted, windows) == pytest.approx(
        report.perplexity["quantized_with_adapter"], rel=5e-3
    )
    # what the report counts is what the files hold
    stored = stored_tensors(tmp_path / "out")
    packed = ("weight_packed", "weight_scale", "weight_zero_point", "lora_A.weight")
    size_bits = 8 * sum(
        tensor.nbytes for name, tensor in stored.items() if name.endswith((*packed, "B.weight"))
    )
    assert report.bits_per_weight.total == pytest.approx(
        size_bits / report.quantized_weight_count, abs=1e-3
    )


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_a_budget_is_kept_and_beats_rounding_at_its_widths(tiny: Path, tmp_path: Path) -> None:
    config = QuantizeConfig.model_validate(SMALL | {"bits_per_weight": 3.6, "method": "apiq-lw"})
    events: list[Event] = []
    report = quantize(tiny, tmp_path / "out", config, on_event=events.append)
    assert 3.5 < report.bits_per_weight.total <= 3.6
    assert len({layer.bits for block in report.blocks for layer in block.layers}) > 1
    assert report.kl is not None
    assert report.kl["quantized_with_adapter"] < report.kl["rtn"]
    phases = [event.data["phase"] for event in events if event.type == "phase"]
    assert phases == ["calibrating", "planning", "quantizing", "evaluating", "packaging"]
    assert "How the budget was spent" in (tmp_path / "out" / "report.html").read_text()


def stored_tensors(out_dir: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in out_dir.rglob("*.safetensors") for k, v in load_file(file).items()}


def give_biases(model_dir: Path) -> None:
    """A new model's biases are 0, which would hide what an adapter does to them."""
    tensors = load_file(model_dir / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if name.endswith(".bias"):
            tensors[name] = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})


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


def test_nothing_is_left_of_an_earlier_run(tiny: Path, tmp_path: Path) -> None:
    longer = make_tiny(tmp_path / "longer", layers=3)
    quantize(longer, tmp_path / "out", small_config(method="loftq", rank=4))
    config = small_config(method="rtn")
    assert quantize(tiny, tmp_path / "out", config).bytes["adapter"] == 0
    quantize(tiny, tmp_path / "alone", config)
    again, alone = (
        {file.relative_to(folder) for file in folder.rglob("*")}
        for folder in (tmp_path / "out", tmp_path / "alone")
    )
    assert again == alone


def test_rotary_tables_in_a_checkpoint_are_left_out(tiny: Path, tmp_path: Path) -> None:
    """Checkpoints as old as Llama-2's hold them, in every block."""
    model_dir = Path(shutil.copytree(tiny, tmp_path / "source"))
    tensors = load_file(model_dir / "model.safetensors")
    for index in range(2):
        tensors[f"model.layers.{index}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, model_dir / "model.safetensors", metadata={"format": "pt"})
    config = small_config(method="rtn")
    found, wanted = (
        quantize(model_dir, tmp_path / "out", config),
        quantize(tiny, tmp_path / "a", config),
    )
    assert found.perplexity == wanted.perplexity
    index_text = (tmp_path / "out/model/model.safetensors.index.json").read_text()
    assert "up_proj" in index_text and "rotary" not in index_text


def test_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        quantize(tiny, tmp_path / name, small_config())
    for file in (tmp_path / "one").rglob("*.safetensors"):
        twin = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == twin.read_bytes(), file.name


@pytest.mark.parametrize(
    ("recipe", "adapter"),
    [("fast", "lora"), ("paper", "lora"), ("fast", "dora"), ("fast", "ia3"), ("paper", "ia3")],
)
def test_the_gradient_phase_lowers_the_held_out_loss(
    recipe: str, adapter: str, tiny: Path, tmp_path: Path
) -> None:
    config = small_config(
        recipe=recipe,
        adapter=adapter,
        rank=0 if adapter == "ia3" else 4,
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
    broken = dataclasses.replace(
        apiq_bw.FROM_CLOSED_FORM, distance=lambda out, target: out.sum() * math.nan
    )
    monkeypatch.setattr(apiq_bw, "FROM_CLOSED_FORM", broken)
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
        ({"calibration": {"held_out": 1024, "length": 512}}, "calibration.held_out"),
        (
            {"calibration": {"held_out": 1024, "length": 512}, "method": "rtn"},
            "calibration.held_out",
        ),
        ({"evaluation": {"samples": 1024, "length": 512}}, "evaluation.samples"),
    ],
)
def test_too_little_text_says_what_there_is_enough_for(
    fields: dict[str, Any], param: str, tiny: Path, tmp_path: Path
) -> None:
    config = small_config(**fields)
    with pytest.raises(UserError) as caught:
        quantize(tiny, tmp_path / "out", config)
    part, name = param.split(".")
    error = caught.value
    assert (error.code, error.param) == ("too_little_text", param)
    assert error.value == fields[part][name]
    assert 0 < error.legal["at_most"] < error.value
    tokenizer = load_tokenizer(tiny)
    fewer = {name: error.legal["at_most"]} | ({"samples": 1} if name == "held_out" else {})
    enough = small_config(**fields | {part: fields[part] | fewer})
    if part == "calibration":
        assert draw_windows(tokenizer, enough, {}).held_out.shape[0] == enough.calibration.held_out
    else:
        with pytest.raises(UserError) as caught:  # the same text is calibrated on
            draw_windows(tokenizer, enough, {})
        assert str(caught.value.param).startswith("calibration.")


def test_a_text_that_is_not_there_is_named_by_who_asks_for_it(tiny: Path, tmp_path: Path) -> None:
    for part in ("calibration", "evaluation"):
        config = small_config(**{part: {"source": "wikitext2"}})
        with pytest.raises(UserError) as caught:
            quantize(tiny, tmp_path / "out", config)
        assert (caught.value.code, caught.value.param) == ("text_not_available", f"{part}.source")


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


def test_rounding_needs_no_text_but_for_its_report(tiny: Path, tmp_path: Path) -> None:
    seen: dict[int, dict[str, bytes]] = {}
    for held_out in (1, 4):
        config = small_config(method="rtn")
        calibration = config.calibration.model_copy(update={"held_out": held_out})
        config = config.model_copy(update={"calibration": calibration})
        report = quantize(tiny, tmp_path / str(held_out), config)
        assert report.calibration is not None
        assert (report.calibration.train_windows, report.calibration.tokens) == (0, 0)
        assert all(0 < block.error < 10 for block in report.blocks)
        weights = (tmp_path / str(held_out) / "model").glob("*.safetensors")
        seen[held_out] = {file.name: file.read_bytes() for file in weights}
    assert seen[1] == seen[4] != {}


def test_the_command_line_runs_without_any_service(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "apiq_core", str(tiny), str(tmp_path / "out"), "--bits", "4"]
    options = ["--method", "rtn", "--evaluation-samples", "2", "--evaluation-length", "32"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bits_per_weight"]["adapter"] == 0
    bad = subprocess.run([*command[:-1], "5"], capture_output=True, text=True, timeout=120)
    assert bad.returncode == 2 and "bits" in bad.stderr and "5" in bad.stderr
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(("lr_rounding", "trained"), [(0.0, False), (0.03, True)])
def test_rounding_is_trained_where_it_has_a_learning_rate(
    lr_rounding: float, trained: bool, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = set()

    def count(block: Block, student: Student, *args: Any, **kwargs: Any) -> BlockResult:
        counts.add(len(student.rounding_parameters))
        return train_block(block, student, *args, **kwargs)

    monkeypatch.setattr(apiq_bw, "train_block", count)
    config = small_config(recipe="fast", training={"epochs": 1, "lr_rounding": lr_rounding})
    quantize(tiny, tmp_path / "out", config)
    assert [bool(n) for n in counts] == [trained]
