"""Coordinate descent and the refit of the scales, on small random problems."""

import pytest
import torch

from apiq_core.closed_form import refine as module
from apiq_core.closed_form.gptq import gptq, inverse_factor
from apiq_core.closed_form.refine import refine
from apiq_core.quantizer import QuantizedWeight, to_groups
from tests.unit.core.closed_form.test_closed_form import correlated, damped_gram

GROUP_SIZE = 32


def problem(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, QuantizedWeight]:
    gram = damped_gram(correlated(500, 128, seed=seed))
    target = torch.randn(48, 128, generator=torch.Generator().manual_seed(seed + 1))
    return target, gram, gptq(target, inverse_factor(gram), 2, GROUP_SIZE)


def loss(target: torch.Tensor, quantized: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Of every output channel."""
    difference = (target - quantized).double()
    return ((difference @ gram.double()) * difference).sum(1)


def test_every_round_lowers_what_gptq_left() -> None:
    target, gram, quantized = problem()
    losses = [loss(target, quantized.dequantize(), gram).sum()]
    for _ in range(3):
        quantized = refine(target, quantized, gram)
        losses.append(loss(target, quantized.dequantize(), gram).sum())
    assert losses[1] < 0.9 * losses[0]
    assert losses[3] < losses[2] < losses[1]


def test_in_the_end_no_other_code_is_better() -> None:
    target, gram, quantized = problem()
    for _ in range(30):
        quantized = refine(target, quantized, gram)
    least = loss(target, quantized.dequantize(), gram)
    for column in range(0, 128, 9):
        for change in (-1, 1):
            codes = quantized.codes.clone().int()
            codes[:, column] = (codes[:, column] + change).clamp(0, 3)
            other = QuantizedWeight(codes, quantized.scales, quantized.zero_points, 2)
            assert (loss(target, other.dequantize(), gram) >= 0.999 * least).all()


def test_scales_are_the_least_squares_solution_for_the_codes() -> None:
    target, gram, quantized = problem()
    steps = to_groups(quantized.codes.float(), GROUP_SIZE) - quantized.zero_points.unsqueeze(2)
    scales = quantized.scales.float()
    gradient = gram @ (target - quantized.dequantize()).T
    layout = steps.permute(1, 2, 0)  # (N, G, O)
    found = module._refit_scales(layout, gradient, scales.T, gram).T
    factor = torch.linalg.cholesky(gram)
    for channel in range(0, 48, 11):
        columns = torch.zeros(128, 4)
        for n in range(4):
            columns[n * GROUP_SIZE : (n + 1) * GROUP_SIZE, n] = steps[channel, n]
        wanted = torch.linalg.lstsq(factor.T @ columns, (factor.T @ target[channel]).unsqueeze(1))
        kept = wanted.solution.squeeze(1)
        usable = kept > module.MIN_SCALE_FACTOR * scales[channel]
        assert torch.allclose(found[channel][usable], kept[usable], rtol=2e-2)


def test_channels_are_refined_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    target, gram, quantized = problem()
    whole = refine(target, quantized, gram)
    monkeypatch.setattr(module, "CHUNK_WEIGHTS", 7 * 128)
    parts = refine(target, quantized, gram)
    assert (whole.codes == parts.codes).float().mean() > 0.99  # sums are rounded otherwise
    assert torch.allclose(whole.scales.float(), parts.scales.float(), rtol=1e-2)


def test_a_group_of_zeros_stays_zero() -> None:
    target, gram, _ = problem()
    target[:5, :GROUP_SIZE] = 0
    target[7] = 0
    quantized = refine(target, gptq(target, inverse_factor(gram), 2, GROUP_SIZE), gram)
    assert torch.isfinite(quantized.dequantize()).all()
    assert quantized.dequantize()[7].abs().max() == 0
