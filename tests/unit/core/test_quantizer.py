import pytest
import torch

from apiq_core.packing import pack, unpack
from apiq_core.quantizer import (
    affine_parameters,
    extrema,
    round_to_nearest,
    search_clipping,
    to_groups,
)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group_size", [32, 64, -1])
def test_rtn_error_is_at_most_half_a_step_inside_the_range(bits: int, group_size: int) -> None:
    weight = torch.randn(16, 128)
    quantized = round_to_nearest(weight, bits, group_size)
    groups = to_groups(weight, group_size)
    steps = quantized.scales.float().unsqueeze(2)
    error = (to_groups(quantized.dequantize(), group_size) - groups).abs()
    # half a step for the value, half for the zero point, and the rounding of s itself
    assert (error <= 1.01 * steps).all()
    assert (error <= 0.51 * steps).float().mean() > 0.9


def test_group_of_zeros_has_scale_one_and_stays_zero() -> None:
    quantized = round_to_nearest(torch.zeros(4, 64), 2, 32)
    assert (quantized.scales == 1).all() and (quantized.zero_points == 0).all()
    assert (quantized.dequantize() == 0).all()


@pytest.mark.parametrize("shift", [5.0, -5.0])
def test_group_on_one_side_of_zero_keeps_its_zero_point_in_range(shift: float) -> None:
    weight = torch.rand(8, 64) + shift
    quantized = round_to_nearest(weight, 2, 64)
    assert quantized.zero_points.max() <= 3
    assert (quantized.dequantize() - weight).abs().max() < 6 / 3


def test_tiny_weights_do_not_underflow_the_stored_scale() -> None:
    quantized = round_to_nearest(1e-9 * torch.randn(4, 64), 4, 64)
    assert (quantized.scales > 0).all()
    assert torch.isfinite(quantized.dequantize()).all()


def test_clipping_search_beats_the_extrema_on_gaussian_weights() -> None:
    groups = torch.randn(64, 4, 64, generator=torch.Generator().manual_seed(0))
    importance = torch.ones(64)

    def error(scales: torch.Tensor, zeros: torch.Tensor) -> float:
        s, z = scales.unsqueeze(-1), zeros.unsqueeze(-1)
        codes = ((groups / s).round() + z).clamp(0, 3)
        return float(((codes - z) * s - groups).square().mean())

    searched = error(*search_clipping(groups, importance, 2))
    plain = error(*affine_parameters(*extrema(groups), 2))
    assert searched < 0.75 * plain  # 0.201 -> 0.131 of the variance


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packing_round_trips(bits: int) -> None:
    fields = torch.randint(0, 2**bits, (5, 96), dtype=torch.uint8)
    words = pack(fields, bits)
    assert words.shape == (5, 96 * bits // 32) and words.dtype == torch.int32
    assert (unpack(words, bits) == fields).all()


def test_packing_is_a_little_endian_bitstream() -> None:
    fields = torch.zeros(32, dtype=torch.uint8)
    fields[0], fields[10] = 0b101, 0b111  # field 10 starts at bit 30 and straddles two words
    words = pack(fields, 3).to(torch.int64) & 0xFFFFFFFF
    assert words.tolist() == [0b101 | (0b11 << 30), 0b1, 0]
