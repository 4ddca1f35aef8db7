"""The uniform affine quantizer (ApiQ, section 3) and the search for its clipping.

Legend: O output channels, I input channels, N groups of a row, G group size (I = N G).

One linear layer's weight W_OI, as PyTorch stores it, becomes codes, scales and zero points:
    Q = s (q - z),   q and z integers in 0 .. 2^b - 1,   s in fp16, one s and z per group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SCALE_DTYPE = torch.float16
MIN_SCALE = torch.finfo(SCALE_DTYPE).tiny  # below it fp16 loses precision
MAX_SCALE = torch.finfo(SCALE_DTYPE).max
CLIP_GRID = tuple(1.0 - 0.05 * step for step in range(14))  # 1.00 .. 0.35


@dataclass
class QuantizedWeight:
    """The one truth of a quantized layer; every checkpoint format is an export of it."""

    codes: Tensor  # uint8 (O, I)
    scales: Tensor  # fp16 (O, N)
    zero_points: Tensor  # uint8 (O, N)
    bits: int

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def group_size(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    def split(self, sizes: list[int]) -> "list[QuantizedWeight]":
        """The same, cut along the output channels."""
        parts = zip(
            self.codes.split(sizes),
            self.scales.split(sizes),
            self.zero_points.split(sizes),
            strict=True,
        )
        return [QuantizedWeight(*part, bits=self.bits) for part in parts]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Q_OI = s (q - z), computed in `dtype` as a reader of the checkpoint would."""
        codes = to_groups(self.codes.to(dtype), self.group_size)
        zero_points = self.zero_points.to(dtype).unsqueeze(2)
        q = (codes - zero_points) * self.scales.to(dtype).unsqueeze(2)
        return q.flatten(1)


def to_groups(weight: Tensor, group_size: int) -> Tensor:
    """(O, I) -> (O, N, G); a `group_size` of -1 makes one group a row."""
    d_out, d_in = weight.shape
    return weight.reshape(d_out, -1, group_size if group_size > 0 else d_in)


def round_scale(scales: Tensor) -> Tensor:
    """Scales as the checkpoint will hold them: fp16, in its normal range; same dtype out."""
    return scales.clamp(MIN_SCALE, MAX_SCALE).to(SCALE_DTYPE).to(scales.dtype)


def affine_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point that cover [low, high]; both the shape of `low`, which is <= 0.

    A group of zeros gets s = 1, z = 0.
    """
    levels = 2**bits - 1
    scales = (high - low) / levels
    empty = scales <= 0
    scales = round_scale(torch.where(empty, torch.ones_like(scales), scales))
    zero_points = (-low / scales).round().clamp(0, levels)
    return scales, torch.where(empty, torch.zeros_like(zero_points), zero_points)


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` going forward, the gradient of `exact` going back."""
    return exact + (rounded - exact).detach()


def quantize_codes(weight: Tensor, scales: Tensor, zero_points: Tensor, bits: int) -> Tensor:
    """Codes nearest to `weight`, as floats; shapes broadcast."""
    return ((weight / scales).round() + zero_points).clamp(0, 2**bits - 1)


def extrema(groups: Tensor) -> tuple[Tensor, Tensor]:
    """min <= 0 <= max over the last dimension: with 0 inside, z is in range."""
    return groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)


def search_clipping(groups: Tensor, importance: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of each group by a grid search over the clipping ratio.

    `groups` (..., G) weights, `importance` (G) weights of the squared error, such as a diagonal
    of H. Replaces epochs of drift of the clipping logits. Returns two tensors (...).
    """
    levels = 2**bits - 1
    low, high = extrema(groups)
    best_error = torch.full_like(low, torch.inf)
    best_scales, best_zeros = torch.ones_like(low), torch.zeros_like(low)
    for ratio in CLIP_GRID:
        scales, zeros = affine_parameters(low * ratio, high * ratio, bits)
        steps = groups * scales.reciprocal().unsqueeze(-1)  # W / s
        floor = -zeros.unsqueeze(-1)
        residual = steps.round().clamp_(floor, floor + levels).sub_(steps)  # (q - z) - W / s
        error = (residual.square_() @ importance) * scales.square()
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scales = torch.where(better, scales, best_scales)
        best_zeros = torch.where(better, zeros, best_zeros)
    return best_scales, best_zeros


def round_to_nearest(weight: Tensor, bits: int, group_size: int) -> QuantizedWeight:
    """Plain RTN from each group's extrema. `weight` (O, I); `group_size` -1 for one a row."""
    groups = to_groups(weight, group_size)
    scales, zeros = affine_parameters(*extrema(groups), bits)
    codes = quantize_codes(groups, scales.unsqueeze(2), zeros.unsqueeze(2), bits)
    return to_integers(codes.flatten(1), scales, zeros, bits)


def to_integers(codes: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> QuantizedWeight:
    """Pack float-valued integers into the storage types; values are not changed."""
    return QuantizedWeight(
        codes.to(torch.uint8), scales.to(SCALE_DTYPE), zeros.to(torch.uint8), bits
    )
