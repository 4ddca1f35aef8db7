"""The trainable rounding of `recipe: best`."""

from pathlib import Path

import torch

from apiq_core.adapters.lora import LowRank, no_adapter
from apiq_core.block import QuantizedLayer
from apiq_core.config import Training
from apiq_core.gradient.optimise import Objective, train_block
from apiq_core.gradient.rounding_student import RoundedLinear, RoundingStudent
from apiq_core.quantizer import round_to_nearest
from tests.unit.core.small_block import small_block


def layer(d_out: int = 8, d_in: int = 64, rank: int = 2) -> QuantizedLayer:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(d_out, d_in, generator=generator)
    adapter = LowRank(
        torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator)
    )
    return QuantizedLayer(round_to_nearest(weight, 2, 32), adapter.stored())


def test_it_starts_at_the_layer_as_it_was_rounded() -> None:
    start = layer()
    student = RoundedLinear(start)
    assert torch.allclose(student.weight(), start.merged(torch.float32), atol=1e-6)
    result = student.result()
    assert torch.equal(result.integers.codes, start.integers.codes)
    assert torch.equal(result.integers.zero_points, start.integers.zero_points)
    assert torch.equal(result.integers.scales, start.integers.scales)
    assert isinstance(result.adapter, LowRank) and isinstance(start.adapter, LowRank)
    assert torch.equal(result.adapter.a, start.adapter.a)


def test_what_is_stored_is_what_the_graph_computed_after_training() -> None:
    start = layer()
    student = RoundedLinear(start)
    steps = start.integers.scales.float().repeat_interleave(32, dim=1)
    wanted = start.merged(torch.float32) + 0.7 * steps  # nearer to the next code than to its own
    parameters = [student.u, student.zeros, student.log_factor, *student.adapter.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses = []
    for _ in range(60):
        loss = (student.weight() - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    result = student.result()
    assert (result.integers.codes != start.integers.codes).any()
    assert result.integers.codes.max() <= 3 and result.integers.zero_points.max() <= 3
    # A and B are stored in fp16; codes, scales and zero points are exact
    assert torch.allclose(result.merged(torch.float32), student.weight(), atol=1e-2)
    q = student.weight() - student.adapter.apply(torch.zeros(8, 64))
    assert torch.allclose(result.weight.dequantize(), q, atol=1e-5)


def test_weight_decay_leaves_codes_and_zero_points_where_they_are(tmp_path: Path) -> None:
    block = small_block(tmp_path)
    start = {
        name: QuantizedLayer(round_to_nearest(weight, 2, 32), no_adapter(weight))
        for name, weight in block.linear_weights.items()
    }
    training = Training(
        epochs=2, lr_quantizer=0.0, lr_adapter=0.0, lr_rounding=0.1, weight_decay=1.0
    )
    objective = Objective(False, False, False, lambda out, target: 0 * (out - target).sum())
    student = RoundingStudent(start)
    train_block(block, student, training, objective, seed=0, check_stop=lambda: None)
    for name, layer in student.result().items():
        assert torch.equal(layer.integers.codes, start[name].integers.codes)
        assert torch.equal(layer.integers.zero_points, start[name].integers.zero_points)


def test_a_code_flips_only_after_half_a_step() -> None:
    start = layer()
    student = RoundedLinear(start)
    with torch.no_grad():
        student.u.add_(0.49)
    assert torch.equal(student.result().integers.codes, start.integers.codes)
    with torch.no_grad():
        student.u.add_(0.02)
    moved = student.result().integers.codes
    assert torch.equal(moved, (start.integers.codes + 1).clamp(max=3))
