"""What is trained without `lr_rounding` (`recipe: fast`): scales and adapters around fixed codes.

GPTQ's rounding is worth more than RTN's; rounding again in every step would lose it. With the
integers fixed Q = s (q - z) is smooth in s, so nothing needs a straight-through estimator.
"""

import torch
from torch import Tensor

from apiq_core.adapters import trainable
from apiq_core.block import Layers, QuantizedLayer
from apiq_core.quantizer import (
    QuantizedWeight,
    round_scale,
    straight_through,
    to_groups,
    to_integers,
)


class ScaledLinear:
    """One layer's trained parts: a factor of each scale (O, N), an adapter. The codes are lent."""

    def __init__(self, start: QuantizedLayer) -> None:
        self.start_scales = start.integers.scales.float()
        self.log_factor = torch.zeros_like(self.start_scales).requires_grad_()
        self.adapter = trainable(start.adapter)

    def weight(self, codes: QuantizedWeight) -> Tensor:
        """The effective weight (O, I) with the codes and zero points of `codes`."""
        scales = self.start_scales * self.log_factor.exp()
        scales = straight_through(scales, round_scale(scales.detach()))
        integers = to_groups(codes.codes.float(), codes.group_size)
        q = (integers - codes.zero_points.float().unsqueeze(2)) * scales.unsqueeze(2)
        return self.adapter.apply(q.flatten(1))

    def result(self, codes: QuantizedWeight) -> QuantizedLayer:
        scales = round_scale(self.start_scales * self.log_factor.exp())
        return QuantizedLayer(
            to_integers(codes.codes, scales, codes.zero_points, codes.bits),
            self.adapter.stored(),
        )


class ScaleStudent:
    """A block's layers, with the codes of `start`."""

    def __init__(self, start: Layers) -> None:
        self.start = start
        self.layers = {name: ScaledLinear(layer) for name, layer in start.items()}
        self.quantizer_parameters = [layer.log_factor for layer in self.layers.values()]
        self.rounding_parameters: list[Tensor] = []  # the codes stay
        self.adapter_parameters = [
            tensor for layer in self.layers.values() for tensor in layer.adapter.parameters()
        ]

    def weights(self) -> dict[str, Tensor]:
        return {
            name: layer.weight(self.start[name].integers) for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def result(self) -> Layers:
        return {
            name: layer.result(self.start[name].integers) for name, layer in self.layers.items()
        }
