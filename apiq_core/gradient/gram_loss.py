"""The layer-wise objective from sums over tokens: ||X W^T - Xq M^T||^2, M = Q + B A (ApiQ, eq. 4).

With D = W - M and the change of the input E = X - Xq it is, per token,

    tr(D H D^T) + 2 tr(D C W^T) + tr(W N W^T),    H = Xq^T Xq,  C = Xq^T E,  N = E^T E,

which is const - 2 tr(M K W^T) + tr(M H M^T) in terms that are each as small as the loss: in that
form a loss of 1e-4 of the output is the difference of numbers 1e4 as large, which fp32 cannot hold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apiq_core.block import Block
from apiq_core.closed_form.gram import layer_input
from apiq_core.skeleton import Weights
from apiq_core.stream import Part


@dataclass
class InputSums:
    """H, C and N of one input, (I, I) each, a mean over tokens."""

    h: Tensor
    c: Tensor
    n: Tensor

    def loss(self, weight: Tensor) -> "GramLoss":
        """The objective of the layer with this full-precision `weight` (O, I)."""
        d_out = len(weight)
        return GramLoss(
            weight=weight,
            h=self.h / d_out,
            slope=2 * weight @ self.c.T / d_out,
            constant=((weight @ self.n) * weight).sum() / d_out,
        )


@dataclass
class GramLoss:
    """Mean squared error of a layer's output, per token and output channel."""

    weight: Tensor  # W (O, I)
    h: Tensor  # (I, I)
    slope: Tensor  # 2 W C^T (O, I)
    constant: Tensor

    def __call__(self, effective: Tensor) -> Tensor:
        """Of the layer with `effective` weight M (O, I); differentiable in it."""
        difference = self.weight - effective
        with torch.no_grad():  # H is symmetric: one product gives the value and the gradient
            product = difference @ self.h
            value = ((product + self.slope) * difference).sum() + self.constant
            gradient = 2 * product + self.slope
        return value + (gradient * (difference - difference.detach())).sum()


@torch.no_grad()
def input_sums(block: Block, student: Weights, name: str, part: Part) -> InputSums:
    """Sum H, C and N over the windows of `part` at the input of layer `name`.

    The products of a batch are in fp32, their sum over batches in fp64.
    """
    stream = block.stream
    d_in = block.teacher[f"{name}.weight"].shape[1]
    sums = torch.zeros(3, d_in, d_in, dtype=torch.float64, device=stream.device)
    tokens = 0
    for batch in stream.batches(part):
        inputs = layer_input(block, block.teacher, name, stream.x[batch])
        inputs_q = layer_input(block, student, name, stream.xq[batch])
        change = inputs - inputs_q
        for total, left, right in zip(
            sums, (inputs_q, inputs_q, change), (inputs_q, change, change), strict=True
        ):
            total += left.T @ right
        tokens += len(inputs)
    return InputSums(*(sums / tokens).float())
