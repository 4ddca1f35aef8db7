"""What `lr_rounding` trains in a block (`recipe: best`): rounding and zero points too.

A weight is a real number u of quantizer steps, rounded anew in every step with a straight-through
estimator (as EfficientQAT trains W, arXiv 2407.11062). u starts at the warm start's code itself,
not at W / s: GPTQ has moved errors between weights on purpose, and from W / s a first small step
would undo that for every tenth weight (measured: the block error doubles). So a code flips only
where the gradient insists.
"""

import torch
from torch import Tensor

from apiq_core.adapters import trainable
from apiq_core.block import Layers, QuantizedLayer
from apiq_core.quantizer import round_scale, straight_through, to_groups, to_integers


class RoundedLinear:
    """One layer: codes u (O, N, G), zero points and a factor of each scale (O, N), an adapter."""

    def __init__(self, start: QuantizedLayer) -> None:
        weight = start.integers
        self.bits = weight.bits
        self.start_scales = weight.scales.float()
        self.log_factor = torch.zeros_like(self.start_scales).requires_grad_()
        self.u = to_groups(weight.codes.float(), weight.group_size).requires_grad_()
        self.zeros = weight.zero_points.float().requires_grad_()
        self.adapter = trainable(start.adapter)

    def quantize(self) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (O, N, G), scales and zero points (O, N), as floats with gradients."""
        levels = 2**self.bits - 1
        scales = self.start_scales * self.log_factor.exp()
        scales = straight_through(scales, round_scale(scales.detach()))
        zeros = straight_through(self.zeros, self.zeros.detach().round()).clamp(0, levels)
        codes = straight_through(self.u, self.u.detach().round()).clamp(0, levels)
        return codes, scales, zeros

    def weight(self) -> Tensor:
        """The effective weight (O, I)."""
        codes, scales, zeros = self.quantize()
        q = (codes - zeros.unsqueeze(2)) * scales.unsqueeze(2)
        return self.adapter.apply(q.flatten(1))

    def result(self) -> QuantizedLayer:
        """The integers that the graph computed."""
        codes, scales, zeros = self.quantize()
        return QuantizedLayer(
            to_integers(codes.flatten(1), scales, zeros, self.bits),
            self.adapter.stored(),
        )


class RoundingStudent:
    def __init__(self, start: Layers) -> None:
        self.layers = {name: RoundedLinear(layer) for name, layer in start.items()}
        layers = self.layers.values()
        self.quantizer_parameters = [layer.log_factor for layer in layers]
        self.rounding_parameters = [tensor for layer in layers for tensor in (layer.u, layer.zeros)]
        self.adapter_parameters = [
            tensor for layer in layers for tensor in layer.adapter.parameters()
        ]

    def weights(self) -> dict[str, Tensor]:
        return {name: layer.weight() for name, layer in self.layers.items()}

    @torch.no_grad()
    def result(self) -> Layers:
        return {name: layer.result() for name, layer in self.layers.items()}
