"""What `recipe: fast` trains: scales and adapter around codes that stay as they were rounded.

GPTQ's rounding is worth more than RTN's; rounding again in every step would lose it. With the
integers fixed Q = s (q - z) is smooth in s, so nothing needs a straight-through estimator.
"""

import torch
from torch import Tensor

from apiq_core.adapters import trainable
from apiq_core.block import Layers, QuantizedLayer
from apiq_core.quantizer import round_scale, to_groups, to_integers


class ScaledLinear:
    """One layer: fixed integers (O, N, G), a trained factor of each scale, a trained adapter."""

    def __init__(self, start: QuantizedLayer) -> None:
        weight = start.weight
        self.start = start
        zeros = weight.zero_points.float().unsqueeze(2)
        self.integers = to_groups(weight.codes.float(), weight.group_size) - zeros
        self.scales = weight.scales.float()
        self.log_factor = torch.zeros_like(self.scales).requires_grad_()
        self.adapter = trainable(start.adapter)

    def weight(self) -> Tensor:
        scales = self.scales * self.log_factor.exp()
        scales = scales + (round_scale(scales) - scales).detach()
        q = self.integers * scales.unsqueeze(2)
        return self.adapter.apply(q.flatten(1))

    def result(self) -> QuantizedLayer:
        weight = self.start.weight
        scales = round_scale(self.scales * self.log_factor.exp())
        return QuantizedLayer(
            to_integers(weight.codes, scales, weight.zero_points, weight.bits),
            self.adapter.stored(),
        )


class ScaleStudent:
    def __init__(self, start: Layers) -> None:
        self.layers = {name: ScaledLinear(layer) for name, layer in start.items()}
        self.quantizer_parameters = [layer.log_factor for layer in self.layers.values()]
        self.adapter_parameters = [
            tensor for layer in self.layers.values() for tensor in layer.adapter.parameters()
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.weight() for name, layer in self.layers.items()}

    @torch.no_grad()
    def result(self) -> Layers:
        return {name: layer.result() for name, layer in self.layers.items()}
