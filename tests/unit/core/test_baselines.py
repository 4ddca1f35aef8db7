"""The baselines on one small block: each is better at what it is about than plain rounding."""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apiq_core.adapters.lora import LowRank
from apiq_core.block import Block, BlockResult, QuantizedLayer, student_weights
from apiq_core.closed_form.gram import own_gram
from apiq_core.config import Method, QuantizeConfig
from apiq_core.methods import METHODS, awq
from apiq_core.quantizer import QuantizedWeight, round_to_nearest
from apiq_core.reports.layer_errors import layer_errors
from apiq_core.rescaling import divide, producers
from apiq_core.training_defaults import TRAINING_DEFAULTS
from tests.tiny_models import ARCHITECTURES
from tests.unit.core.small_block import small_block


def run(method: Method, block: Block, **training: Any) -> BlockResult:
    config = QuantizeConfig.model_validate({"bits": 2, "method": method})
    if training:
        filled = TRAINING_DEFAULTS[method].model_copy(update=training)
        config = config.model_copy(update={"training": filled})
    return METHODS[method](block, config, lambda: None)


def weight_errors(block: Block, result: BlockResult) -> dict[str, float]:
    return {name: error.weight for name, error in layer_errors(block, result).items()}


def output_errors(block: Block, result: BlockResult) -> dict[str, float]:
    return {name: error.output for name, error in layer_errors(block, result).items()}


def held_out_loss(block: Block, weights: Mapping[str, Tensor]) -> float:
    held_out = slice(block.stream.train_count, None)
    out = block.run(weights, block.stream.xq[held_out])
    return float((out - block.stream.y[held_out]).square().mean())


def low_rank(layer: QuantizedLayer) -> LowRank:
    assert isinstance(layer.adapter, LowRank)
    return layer.adapter


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_beats_rtn_in_the_loss_of_its_layer(bits: int, tmp_path: Path) -> None:
    block = small_block(tmp_path, bits=bits)
    h = own_gram(block, block.teacher, block.input_groups[0][0], 0.01)
    layers, plain = run("gptq", block).layers, run("rtn", block).layers
    for name in block.input_groups[0]:  # what comes before them is not quantized
        weight = block.linear_weights[name]
        losses = []
        for layer in (layers[name], plain[name]):
            difference = weight - layer.weight.dequantize()
            losses.append(float(((difference @ h) * difference).sum()))
        assert losses[0] < 0.9 * losses[1], name


def test_gptq_as_published_searches_no_clipping(tmp_path: Path) -> None:
    block = small_block(tmp_path)
    for name, layer in run("gptq", block).layers.items():
        assert isinstance(layer.weight, QuantizedWeight)
        plain = round_to_nearest(block.linear_weights[name], 2, 32)
        # nothing has been moved into the first group when its grid is laid
        assert torch.equal(layer.weight.scales[:, 0], plain.scales[:, 0])
        assert not torch.equal(layer.weight.scales[:, 1], plain.scales[:, 1])


@pytest.mark.parametrize("method", ["gptq-lora", "qlora"])
def test_an_adapter_that_starts_at_zero(method: Method, tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    layers, again = run(method, block).layers, run(method, block).layers
    for name, layer in layers.items():
        a, b = low_rank(layer).a.float(), low_rank(layer).b
        d_in = block.linear_weights[name].shape[1]
        assert a.shape == (4, d_in) and (b == 0).all()
        # uniform within 1 / sqrt(fan in), which is what kaiming(a = sqrt 5) comes to
        assert 0.9 < float(a.abs().max()) * d_in**0.5 <= 1.001
        assert torch.equal(low_rank(layer).a, low_rank(again[name]).a)
    block.index = 1
    other = run(method, block).layers
    a, others = (low_rank(some["mlp.up_proj"]).a for some in (layers, other))
    assert not torch.equal(a, others)


def test_gptq_lora_has_the_weights_of_gptq(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    plain = run("gptq", block).layers
    for name, layer in run("gptq-lora", block).layers.items():
        assert torch.equal(layer.weight.dequantize(), plain[name].weight.dequantize())


def test_loftq_is_nearer_to_the_weights_than_rounding_and_one_svd(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    errors, plain = (weight_errors(block, run(method, block)) for method in ("loftq", "rtn"))
    for name, weight in block.linear_weights.items():
        assert errors[name] < plain[name], name
        difference = weight - round_to_nearest(weight, 2, 32).dequantize()
        left = torch.linalg.svdvals(difference)[4:].square().sum() / weight.square().sum()
        assert errors[name] < float(left), name


def test_omniquant_clips_for_text_it_has_not_seen(tmp_path: Path) -> None:
    block = small_block(tmp_path)
    result = run("omniquant", block, epochs=4)
    assert all(low_rank(layer).a.numel() == 0 for layer in result.layers.values())
    assert min(result.held_out_loss) < result.held_out_loss[0]
    plain = student_weights(block.teacher, run("rtn", block).layers)
    clipped = student_weights(block.teacher, result.layers)
    assert held_out_loss(block, clipped) < held_out_loss(block, plain)


@pytest.mark.parametrize("bits", [2, 3])
def test_awq_keeps_outputs_better_than_rtn(bits: int, tmp_path: Path) -> None:
    block = small_block(tmp_path, bits=bits, num_key_value_heads=4)
    errors, plain = (output_errors(block, run(method, block)) for method in ("awq", "rtn"))
    for names in block.input_groups:
        assert sum(errors[x] for x in names) < 0.95 * sum(plain[x] for x in names), names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_awq_rescales_is_the_same_block(architecture: str, tmp_path: Path) -> None:
    block = small_block(tmp_path, architecture, num_key_value_heads=4)  # as many as heads: v -> o
    weights = run("awq", block).rescaled
    assert weights is not None
    changed = {name for name in weights if weights[name] is not block.teacher[name]}
    assert {"input_layernorm.weight", "self_attn.o_proj.weight", "mlp.down_proj.weight"} <= changed
    out = block.run(weights, block.stream.x)
    assert float((out - block.stream.y).norm() / block.stream.y.norm()) < 1e-5
    for name in changed:
        assert not torch.equal(weights[name], block.teacher[name]), name


def test_what_awq_knows_of_a_rescaled_input_is_what_it_becomes(tmp_path: Path) -> None:
    block = small_block(tmp_path, num_key_value_heads=4)
    before = awq.input_statistics(block)
    for names in block.input_groups:
        weights = dict(block.teacher)
        inputs = copy.deepcopy(before[names[0]])
        awq.rescale(block, weights, names, producers(block)[names[0]], inputs)
        after = awq.input_statistics(dataclasses.replace(block, teacher=weights))[names[0]]
        assert torch.allclose(inputs.h, after.h, rtol=1e-3, atol=1e-4 * float(after.h.max())), names
        assert not torch.allclose(inputs.h, before[names[0]].h, rtol=0.05), names


def test_with_grouped_queries_v_produces_no_input_of_o(tmp_path: Path) -> None:
    found = producers(small_block(tmp_path, num_key_value_heads=2))
    assert "self_attn.o_proj" not in found
    assert found["self_attn.q_proj"] == "input_layernorm"
    assert found["mlp.down_proj"] == "mlp.up_proj"


def test_a_channel_that_its_norm_shuts_is_left_alone(tmp_path: Path) -> None:
    block = small_block(tmp_path)
    norm = block.teacher["input_layernorm.weight"]
    norm[3] = 0.0
    changed, scales = divide(block, dict(block.teacher), "input_layernorm", 3 * torch.ones(64))
    assert changed["input_layernorm.weight"][3] == 0 and scales[3] == 1
    assert torch.isfinite(scales).all() and scales.median() == pytest.approx(3, rel=0.01)


def test_the_scales_of_awq_are_powers_of_the_activations() -> None:
    magnitude = torch.tensor([0.25, 1.0, 4.0])
    candidates = awq.candidate_scales(magnitude)
    assert candidates[0].tolist() == [1, 1, 1]
    assert candidates[10].tolist() == pytest.approx([0.5, 1.0, 2.0])
