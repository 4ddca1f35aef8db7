"""A frozen linear layer that keeps its weight in packed integers.

Legend as in `apiq_core.quantizer`: O output channels, I input channels, N groups of a row.

The dense weight exists for one layer at a time: it is made for the forward product, dropped, and
made again for the backward one. Autograd's own product would keep it in between, for all layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from apiq_core.packing import pack, unpack
from apiq_core.quantizer import QuantizedWeight


class PackedLinear(nn.Linear):
    """y = x Q^T + bias. An `nn.Linear` so that PEFT puts its adapters around it."""

    packed: Tensor
    scales: Tensor
    zero_points: Tensor

    def __init__(self, stored: QuantizedWeight, bias: Tensor | None = None) -> None:
        nn.Module.__init__(self)  # not Linear's: it would make a dense weight
        self.out_features, self.in_features = stored.shape
        self.bits = stored.bits
        self.register_buffer("packed", pack(stored.codes, stored.bits))  # int32 (O, I*b/32)
        self.register_buffer("scales", stored.scales.unsqueeze(2))  # fp16 (O, N, 1)
        self.register_buffer("zero_points", stored.zero_points.unsqueeze(2))  # uint8 (O, N, 1)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Q (O, I) in fp32, made anew."""
        return self.dequantize()

    @property
    def group_size(self) -> int:
        """Input channels that share a scale."""
        return self.in_features // self.scales.shape[1]

    def integers(self) -> QuantizedWeight:
        """What is packed."""
        codes = unpack(self.packed, self.bits)
        return QuantizedWeight(codes, self.scales[..., 0], self.zero_points[..., 0], self.bits)

    def dequantize(self, rows: slice = slice(None)) -> Tensor:
        """Q (O, I) = s (q - z), in fp32, or some rows of it."""
        codes = unpack(self.packed[rows], self.bits).unflatten(1, (self.scales.shape[1], -1))
        q: Tensor = codes.float().sub_(self.zero_points[rows]).mul_(self.scales[rows])
        return q.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        out: Tensor = _FrozenProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _FrozenProduct(torch.autograd.Function):
    """x Q^T, with a gradient for x alone: nothing is kept for it but the packed layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return x @ layer.dequantize().to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (gradient,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None
