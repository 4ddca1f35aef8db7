"""`recipe: paper` of `apiq-lw`: the loss from sums is the loss, and training lowers it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apiq_core.block import Block, BlockResult
from apiq_core.closed_form.gram import layer_input
from apiq_core.config import QuantizeConfig
from apiq_core.gradient.gram_loss import input_sums
from apiq_core.methods import METHODS
from apiq_core.reports.layer_errors import layer_errors
from apiq_core.training_defaults import TRAINING_DEFAULTS
from tests.unit.core.small_block import small_block


def run(block: Block, **training: Any) -> BlockResult:
    filled = TRAINING_DEFAULTS["paper"].model_copy(update=training)
    config = QuantizeConfig.model_validate({"bits": 2, "method": "apiq-lw", "recipe": "paper"})
    return METHODS["apiq-lw"](block, config.model_copy(update={"training": filled}), lambda: None)


def from_activations(block: Block, name: str, part: slice, weight: Tensor) -> Tensor:
    """Mean squared error of the layer's output, in fp64 from the activations themselves."""
    x = layer_input(block, block.teacher, name, block.stream.x[part]).double()
    xq = layer_input(block, block.teacher, name, block.stream.xq[part]).double()
    wanted = x @ block.linear_weights[name].double().T
    return (wanted - xq @ weight.double().T).square().mean()


@pytest.mark.parametrize("part", ["train", "held_out"])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
def test_the_loss_from_sums_is_the_loss(size: float, part: Any, tmp_path: Path) -> None:
    """Also where it is a 1e-8th of the output, which plain sums in fp32 could not tell from 0."""
    block = small_block(tmp_path)
    stream = block.stream
    stream.xq = stream.x + size * (stream.xq - stream.x)
    windows = slice(stream.train_count) if part == "train" else slice(stream.train_count, None)
    for name in block.linear_weights:
        weight = block.linear_weights[name]
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
        effective = (weight + size * weight.std() * noise).requires_grad_()
        exact = effective.detach().double().requires_grad_()
        loss = input_sums(block, block.teacher, name, part).loss(weight)(effective)
        expected = from_activations(block, name, windows, exact)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-3), name
        loss.backward()
        expected.backward()
        assert effective.grad is not None and exact.grad is not None
        assert float((effective.grad - exact.grad).norm() / exact.grad.norm()) < 1e-3, name


def test_training_lowers_the_loss_of_every_layer(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    start = layer_errors(block, run(block, epochs=0))
    result = run(block, epochs=5)
    assert len(result.train_loss) == 5 and len(result.held_out_loss) == 6
    assert result.train_loss[-1] < 0.95 * result.train_loss[0]
    assert result.held_out_loss[-1] < 0.95 * result.held_out_loss[0]
    assert result.warning is None
    for name, error in layer_errors(block, result).items():
        assert error.output < start[name].output, name


def test_later_layers_are_trained_on_what_the_earlier_ones_give(tmp_path: Path) -> None:
    """What is reported of the last layer is its error behind the block as it is stored."""
    block = small_block(tmp_path, rank=4)
    result = run(block, epochs=1)
    losses = 0.0
    held_out = slice(block.stream.train_count, None)
    errors = layer_errors(block, result)
    for name, weight in block.linear_weights.items():
        inputs = layer_input(block, block.teacher, name, block.stream.x[held_out])
        losses += errors[name].output * float((inputs @ weight.T).square().mean())
    # the adapter is stored in fp16
    assert min(result.held_out_loss) == pytest.approx(losses, rel=1e-3)


def test_the_start_is_kept_where_training_only_hurts(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    start, result = run(block, epochs=0), run(block, epochs=2, lr_quantizer=1.0, lr_adapter=1.0)
    assert min(result.held_out_loss) == result.held_out_loss[0]
    for name, layer in result.layers.items():
        assert torch.equal(layer.weight.dequantize(), start.layers[name].weight.dequantize())


def test_a_loss_that_is_not_finite_is_reported_and_the_start_kept(tmp_path: Path) -> None:
    block = small_block(tmp_path, rank=4)
    start = run(block, epochs=0)
    result = run(block, epochs=3, lr_adapter=1e30)
    assert result.warning is not None and "self_attn.q_proj" in result.warning
    for name, layer in result.layers.items():
        assert torch.isfinite(layer.merged(torch.float32)).all()
        assert torch.equal(layer.weight.dequantize(), start.layers[name].weight.dequantize())
