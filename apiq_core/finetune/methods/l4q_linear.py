"""L4Q's linear layer (arXiv 2402.04902): LoRA inside the quantizer, whose grid is trained too.

Legend as in `apiq_core.quantizer`: O output channels, I input channels, N groups of a row, G group
size; R rank.

    Wc = W0 + B A,    q = round(clamp(Wc / s + z, 0, 2^b - 1)),    Wq = s (q - z),    y = x Wq^T

The paper's offset is -s z here, with z an integer, as checkpoints hold it; gradients pass straight
through the rounding of z, and that of s to fp16. With D = dL/dWq and
M = [0 <= Wc / s + z <= 2^b - 1]:

    dB = (D*M) A^T,    dA = B^T (D*M)
    ds = sum over the group of D * (q - z - M Wc / s),    dz = -s * sum of D * (1 - M)

Autograd would keep Wq and what it was rounded from, for every layer; here x and the small tensors
are kept. The rest is made again going back, for some output channels at a time, and D is contracted
at once.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from apiq_core.finetune.packed.packed_linear import PackedLinear
from apiq_core.quantizer import QuantizedWeight, round_scale, straight_through, to_integers

PART_WEIGHTS = 2**22  # that are quantized at a time: a dozen temporary tensors of as many numbers


class L4QLinear(nn.Module):
    """`base`, frozen, with a low rank added to its weight and quantized with it.

    Trained are A (R, I), B (O, R), the logarithm of each scale's factor and each zero point's shift
    (O, N); weight decay draws the last two to where they started.
    """

    start_scales: Tensor
    start_zero_points: Tensor

    def __init__(
        self,
        base: nn.Linear,  # its weight may be packed
        scales: Tensor,  # (O, N)
        zero_points: Tensor,  # (O, N)
        bits: int,
        a: Tensor,
        b: Tensor,
    ) -> None:
        super().__init__()
        self.base, self.bits = base, bits
        self.register_buffer("start_scales", scales)
        self.register_buffer("start_zero_points", zero_points)
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.log_scale_factor = nn.Parameter(torch.zeros(scales.shape, dtype=a.dtype))
        self.zero_point_shift = nn.Parameter(torch.zeros(scales.shape, dtype=a.dtype))
        self.to(device_of(base))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        out: Tensor = _QuantizedProduct.apply(x, self.a, self.b, *self.grid(), self)  # type: ignore[no-untyped-call]
        bias = self.base.bias
        return out if bias is None else out + bias.to(out.dtype)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scales and zero points (O, N) as they will be stored, with gradients."""
        scales = self.start_scales.to(self.a.dtype) * self.log_scale_factor.exp()
        scales = straight_through(scales, round_scale(scales.detach()))
        zeros = self.start_zero_points + self.zero_point_shift
        return scales, straight_through(zeros, zeros.detach().round().clamp(0, self.levels))

    @property
    def levels(self) -> int:
        return int(2**self.bits - 1)

    @torch.no_grad()
    def stored(self) -> QuantizedWeight:
        """The integers that the forward product is computed with."""
        scales, zeros = self.grid()
        codes = [
            _quantize(self, rows, self.a, self.b, scales, zeros)[0].to(torch.uint8)
            for rows in parts(self)
        ]
        return to_integers(torch.cat(codes).flatten(1), scales, zeros, self.bits)

    def packed(self) -> PackedLinear:
        """The layer as a reader of the checkpoint has it."""
        return PackedLinear(self.stored(), self.base.bias)


def device_of(base: nn.Linear) -> torch.device:
    return base.packed.device if isinstance(base, PackedLinear) else base.weight.device


def parts(layer: L4QLinear) -> Iterator[slice]:
    """Output channels that are worked on together."""
    (d_out, _), (_, d_in) = layer.b.shape, layer.a.shape
    size = max(1, PART_WEIGHTS // d_in)
    for first in range(0, d_out, size):
        yield slice(first, min(first + size, d_out))


def _quantize(
    layer: L4QLinear, rows: slice, a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes q and what they were rounded from, Wc / s + z, of some rows: (rows, N, G) each."""
    base = layer.base
    w0 = base.dequantize(rows) if isinstance(base, PackedLinear) else base.weight[rows]
    with torch.autocast(a.device.type, enabled=False):  # the codes are those that will be stored
        weight = torch.addmm(w0.to(a.dtype), b[rows], a)
    steps = weight.unflatten(1, (scales.shape[1], -1))
    steps.div_(scales[rows].unsqueeze(2)).add_(zeros[rows].unsqueeze(2))
    return steps.clamp(0, layer.levels).round_(), steps


class _QuantizedProduct(torch.autograd.Function):
    """x Wq^T, with gradients for x, A, B, s and z."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, scales: Tensor, zeros: Tensor, layer: L4QLinear
    ) -> Tensor:
        ctx.save_for_backward(x, a, b, scales, zeros)
        ctx.layer = layer
        out = []
        for rows in parts(layer):
            codes, _ = _quantize(layer, rows, a, b, scales, zeros)
            out.append(x @ _dequantize(codes, rows, scales, zeros).to(x.dtype).T)
        return torch.cat(out, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, scales, zeros = ctx.saved_tensors
        dy = gradients[0].flatten(0, -2)  # (T, O)
        inputs = x.flatten(0, -2)  # (T, I)
        dx = torch.zeros_like(inputs)
        da, db = torch.zeros_like(a), torch.empty_like(b)
        ds, dz = torch.empty_like(scales), torch.empty_like(zeros)
        with torch.autocast(x.device.type, enabled=False):
            for rows in parts(ctx.layer):
                codes, steps = _quantize(ctx.layer, rows, a, b, scales, zeros)
                dx += dy[:, rows] @ _dequantize(codes, rows, scales, zeros).to(x.dtype)
                d = (dy[:, rows].T @ inputs).to(a.dtype).view_as(codes)  # dL/dWq
                inside = (steps >= 0) & (steps <= ctx.layer.levels)
                z = zeros[rows].unsqueeze(2)
                steps.sub_(z).mul_(inside)  # M Wc / s
                ds[rows] = codes.sub_(z).sub_(steps).mul_(d).sum(2)
                d_inside = d * inside
                dz[rows] = scales[rows] * (d_inside - d).sum(2)
                d_inside = d_inside.flatten(1)
                db[rows] = d_inside @ a.T
                da.addmm_(b[rows].T, d_inside)
        return dx.view_as(x), da, db, ds, dz, None


def _dequantize(codes: Tensor, rows: slice, scales: Tensor, zeros: Tensor) -> Tensor:
    """Wq of some rows, (rows, I)."""
    q = (codes - zeros[rows].unsqueeze(2)).mul_(scales[rows].unsqueeze(2))
    return q.flatten(1)
