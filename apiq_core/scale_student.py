"""What `recipe: fast` trains: the scales and A, B around codes that stay as they were rounded.

GPTQ's rounding is worth more than RTN's; rounding again in every step would lose it. With the
integers fixed Q = s (q - z) is smooth in s, so nothing needs a straight-through estimator.
"""

import torch
from torch import Tensor

from apiq_core.block import Layers, QuantizedLayer
from apiq_core.lowrank import LowRank
from apiq_core.quantizer import QuantizedWeight, round_scale, to_groups, to_integers


class ScaledLinear:
    """One layer: fixed integers (O, N, G), a trained factor of each scale, trained A and B."""

    def __init__(self, start: QuantizedLayer) -> None:
        weight = start.weight
        assert isinstance(weight, QuantizedWeight)
        self.stored = weight
        zeros = weight.zero_points.float().unsqueeze(2)
        self.integers = to_groups(weight.codes.float(), weight.group_size) - zeros
        self.scales = weight.scales.float()
        self.log_factor = torch.zeros_like(self.scales).requires_grad_()
        self.a = start.adapter.a.float().requires_grad_()
        self.b = start.adapter.b.float().requires_grad_()

    def weight(self) -> Tensor:
        scales = self.scales * self.log_factor.exp()
        scales = scales + (round_scale(scales) - scales).detach()
        q = self.integers * scales.unsqueeze(2)
        return q.flatten(1) + self.b @ self.a

    def result(self) -> QuantizedLayer:
        weight = self.stored
        scales = round_scale(self.scales * self.log_factor.exp())
        return QuantizedLayer(
            to_integers(weight.codes, scales, weight.zero_points, weight.bits),
            LowRank(self.a, self.b).stored(),
        )


class ScaleStudent:
    def __init__(self, start: Layers) -> None:
        self.layers = {name: ScaledLinear(layer) for name, layer in start.items()}
        self.quantizer_parameters = [layer.log_factor for layer in self.layers.values()]
        self.adapter_parameters = [
            factor for layer in self.layers.values() for factor in (layer.a, layer.b)
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.weight() for name, layer in self.layers.items()}

    @torch.no_grad()
    def result(self) -> Layers:
        return {name: layer.result() for name, layer in self.layers.items()}
