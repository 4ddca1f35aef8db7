"""What `recipe: paper` trains: clipping logits gamma and beta per group, and A, B.

ApiQ section 3 and the public code's defaults: logits start at 4, A at kaiming-uniform(sqrt 5),
B at 0, alpha = 16. Rounding passes gradients straight through.
"""

import math

import torch
from torch import Tensor, nn

from apiq_core.block import Block, Layers, QuantizedLayer
from apiq_core.config import LayerSpec
from apiq_core.lowrank import LowRank
from apiq_core.quantizer import (
    MAX_SCALE,
    MIN_SCALE,
    extrema,
    round_scale,
    straight_through,
    to_groups,
    to_integers,
)

LOGIT_START = 4.0
LORA_ALPHA = 16.0


class ClippedLinear:
    """Fake-quantized weight of one layer, (O, I) as (O, N, G) groups, plus its adapter."""

    def __init__(self, weight: Tensor, spec: LayerSpec) -> None:
        d_out, d_in = weight.shape
        self.bits = spec.bits
        self.groups = to_groups(weight, spec.group_size)
        self.low, self.high = extrema(self.groups)  # (O, N)
        self.gamma = torch.full_like(self.high, LOGIT_START).requires_grad_()
        self.beta = torch.full_like(self.low, LOGIT_START).requires_grad_()
        self.a = weight.new_empty(spec.rank, d_in)
        if spec.rank:
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.a.requires_grad_()
        self.b = weight.new_zeros(d_out, spec.rank).requires_grad_()
        self.scaling = LORA_ALPHA / max(spec.rank, 1)

    def fake_quantize(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (O, N, G), scales and zero points (O, N), as floats with gradients."""
        levels = 2**self.bits - 1
        high = torch.sigmoid(self.gamma) * self.high
        low = torch.sigmoid(self.beta) * self.low
        exact = (high - low) / levels
        empty = exact.detach() <= 0
        exact = torch.where(empty, torch.ones_like(exact), exact).clamp(MIN_SCALE, MAX_SCALE)
        scales = straight_through(exact, round_scale(exact.detach()))
        zeros = -low / scales
        zeros = straight_through(zeros, zeros.detach().round()).clamp(0, levels)
        ratio = self.groups / scales.unsqueeze(2)
        codes = straight_through(ratio, ratio.detach().round()) + zeros.unsqueeze(2)
        return codes.clamp(0, levels), scales, zeros

    def weight(self) -> Tensor:
        """Q + (alpha / r) B A."""
        codes, scales, zeros = self.fake_quantize()
        q = (codes - zeros.unsqueeze(2)) * scales.unsqueeze(2)
        return q.flatten(1) + self.scaling * (self.b @ self.a)

    def result(self) -> QuantizedLayer:
        """The integers that the graph computed, and factors that need no further scaling."""
        codes, scales, zeros = self.fake_quantize()
        root = math.sqrt(self.scaling)
        return QuantizedLayer(
            to_integers(codes.flatten(1), scales, zeros, self.bits),
            LowRank(self.a * root, self.b * root).stored(),
        )


class ClippingStudent:
    def __init__(self, block: Block) -> None:
        self.layers = {
            name: ClippedLinear(weight, block.specs[name])
            for name, weight in block.linear_weights.items()
        }
        self.quantizer_parameters = [
            logit for layer in self.layers.values() for logit in (layer.gamma, layer.beta)
        ]
        self.rounding_parameters: list[Tensor] = []  # clipping decides
        self.adapter_parameters = [
            factor for layer in self.layers.values() for factor in (layer.a, layer.b)
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.weight() for name, layer in self.layers.items()}

    @torch.no_grad()
    def result(self) -> Layers:
        return {name: layer.result() for name, layer in self.layers.items()}
