"""What a run writes, read by stock tools: the same figures as in the report."""

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

from apiq_core.adapters import ADAPTERS
from apiq_core.budget.plan import Plan
from apiq_core.config import LayerSpec, QuantizeConfig
from apiq_core.events import Event
from apiq_core.quantize import quantize
from apiq_core.reports.report import Report
from tests.integration.core.small import SMALL, small_config
from tests.tiny_models import ARCHITECTURES, make_tiny


@torch.no_grad()
def stock_perplexity(model: nn.Module, windows: list[list[int]]) -> float:
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
    model: nn.Module = AutoModelForCausalLM.from_pretrained(out_dir / "model", dtype=torch.float32)
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
    assert bits is not None
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
    assert isinstance(model.hf_quantizer, CompressedTensorsHfQuantizer)
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
