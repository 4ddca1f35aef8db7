"""What `recipe: paper` trains: clipping logits gamma and beta per group, and the adapter.

ApiQ section 3 and the public code's defaults: logits start at 4, A at kaiming-uniform(sqrt 5),
B at 0, alpha = 16; another adapter than LoRA starts where it changes nothing of that. Rounding
passes gradients straight through.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from apiq_core.adapters import Adapter, trainable
from apiq_core.adapters.lora import LowRank, random_start
from apiq_core.block import Block, Layers, QuantizedLayer
from apiq_core.config import LayerSpec
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

Adapt = Callable[[Tensor, LowRank], Adapter]  # Q and the start of a LoRA adapter -> an adapter


class ClippedLinear:
    """Fake-quantized weight of one layer, (O, I) as (O, N, G) groups, in its adapter."""

    def __init__(
        self, weight: Tensor, spec: LayerSpec, adapt: Adapt = lambda q, low_rank: low_rank
    ) -> None:
        self.bits = spec.bits
        self.groups = to_groups(weight, spec.group_size)
        self.low, self.high = extrema(self.groups)  # (O, N)
        self.gamma = torch.full_like(self.high, LOGIT_START).requires_grad_()
        self.beta = torch.full_like(self.low, LOGIT_START).requires_grad_()
        scaling = LORA_ALPHA / max(spec.rank, 1)
        low_rank = random_start(weight, spec.rank, scaling=scaling)
        self.adapter = trainable(adapt(self.dequantized().detach(), low_rank))

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

    def dequantized(self) -> Tensor:
        """Q (O, I)."""
        codes, scales, zeros = self.fake_quantize()
        return ((codes - zeros.unsqueeze(2)) * scales.unsqueeze(2)).flatten(1)

    def weight(self) -> Tensor:
        return self.adapter.apply(self.dequantized())

    def result(self) -> QuantizedLayer:
        """The integers that the graph computed, and an adapter that needs no further scaling."""
        codes, scales, zeros = self.fake_quantize()
        integers = to_integers(codes.flatten(1), scales, zeros, self.bits)
        return QuantizedLayer(integers, self.adapter.stored())


class ClippingStudent:
    def __init__(self, block: Block, adapter: type[Adapter] = LowRank) -> None:
        self.layers = {
            name: ClippedLinear(
                weight,
                block.specs[name],
                partial(adapter.start, name=name, has_bias=block.has_bias(name)),
            )
            for name, weight in block.linear_weights.items()
        }
        self.quantizer_parameters = [
            logit for layer in self.layers.values() for logit in (layer.gamma, layer.beta)
        ]
        self.rounding_parameters: list[Tensor] = []  # clipping decides
        self.adapter_parameters = [
            tensor for layer in self.layers.values() for tensor in layer.adapter.parameters()
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.weight() for name, layer in self.layers.items()}

    @torch.no_grad()
    def result(self) -> Layers:
        return {name: layer.result() for name, layer in self.layers.items()}
