"""The sums over tokens through which the layer-wise objective sees the data.

H = Xq^T Xq    and    K = Xq^T X,    both (I, I), a mean over tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apiq_core.block import Block
from apiq_core.device import matmul_dtype
from apiq_core.skeleton import Weights, layer_inputs

# lambda, relative to H's mean diagonal; less over-fits few tokens of one text, and it is another
# text that pays for it (docs/results/recipes.md)
DAMPING = 0.2
PANEL = 384  # columns of a symmetric sum that are added in one product


@dataclass
class Grams:
    h: Tensor  # (I, I), damped
    k_minus_h: Tensor  # (I, I), of the undamped sums

    def target(self, weight: Tensor, strength: float) -> Tensor:
        """W' = W + a W (K - H)^T H'^-1: what Xq must be multiplied with to give X W^T.

        `weight` (O, I); `strength` a in 0 .. 1 guards against over-fitting few tokens. The form
        H'^-1 K W would let the damping pull the target to zero.
        """
        lower = torch.linalg.cholesky(self.h)
        if len(weight) > len(self.h):  # solve for the smaller side
            shift = torch.cholesky_solve(self.k_minus_h, lower) @ weight.T
        else:
            shift = torch.cholesky_solve(self.k_minus_h @ weight.T, lower)
        return weight + strength * shift.T


@torch.no_grad()
def accumulate(block: Block, student: Weights, name: str) -> Grams:
    """Sum H and K - H over the training windows at the input of layer `name`."""
    stream = block.stream
    d_in = block.teacher[f"{name}.weight"].shape[1]
    h = torch.zeros(d_in, d_in, device=stream.device)
    k_minus_h = torch.zeros_like(h)
    dtype = matmul_dtype(stream.device)  # H's inverse needs fp32, but nothing inverts K - H
    tokens = 0
    for batch in stream.batches("train"):
        inputs = layer_input(block, block.teacher, name, stream.x[batch])
        inputs_q = layer_input(block, student, name, stream.xq[batch])
        add_gram(h, inputs_q)
        shift = inputs - inputs_q  # K - H is summed from it, so that nothing cancels
        k_minus_h += inputs_q.T.to(dtype) @ shift.to(dtype)
        tokens += len(inputs)
    return Grams(damp(mirror(h) / tokens), k_minus_h / tokens)


def add_gram(total: Tensor, inputs: Tensor) -> None:
    """Add X^T X (I, I) of `inputs` X (tokens, I), but for what `mirror` fills in at the end."""
    for start in range(0, len(total), PANEL):
        end = start + PANEL
        total[:end, start:end].addmm_(inputs[:, :end].T, inputs[:, start:end])


def mirror(total: Tensor) -> Tensor:
    """The symmetric matrix (I, I) of which `total` has the part on and above the diagonal."""
    upper = total.triu(1)
    return total.triu() + upper.T


def damp(h: Tensor, damping: float = DAMPING) -> Tensor:
    """H + lambda I (I, I), which has an inverse; in place.

    `damping` is relative to H's mean diagonal.
    """
    h.diagonal().add_(damping * h.diagonal().mean().clamp(min=1e-8))
    return h


@torch.no_grad()
def own_gram(block: Block, student: Weights, name: str, damping: float) -> Tensor:
    """H alone, damped, (I, I): for a target that is W itself."""
    d_in = block.teacher[f"{name}.weight"].shape[1]
    h = torch.zeros(d_in, d_in, device=block.stream.device)
    tokens = 0
    for batch in block.stream.batches("train"):
        inputs_q = layer_input(block, student, name, block.stream.xq[batch])
        add_gram(h, inputs_q)
        tokens += len(inputs_q)
    return damp(mirror(h) / tokens, damping)


def layer_input(block: Block, weights: Weights, name: str, hidden: Tensor) -> Tensor:
    """What layer `name` receives, (tokens, I), when the block gets `hidden`, in host memory."""
    hidden = block.stream.load(hidden)
    inputs = layer_inputs(block.module, weights, hidden, block.call, until=name)
    return inputs[name].flatten(0, -2).float()
